"""A conversation with the apps under test, as a client and as the one who pulls the strings."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from .client import Connection, Response, fetch
from .script import Script
from .servers import Server
from .wait import wait_until


class Chat:
    """One chat id; every connection it opened is closed, and every run let go, by `close()`."""

    def __init__(self, id: str | None = None, *, path: str = "/api/chat") -> None:
        self.id = id if id is not None else f"chat-{uuid.uuid4().hex[:12]}"
        self.path = path
        self._connections: list[Connection] = []
        self._servers: list[Server] = []

    @property
    def resume_path(self) -> str:
        return f"{self.path}/{quote(self.id, safe='')}/stream"

    @property
    def stop_path(self) -> str:
        return f"{self.path}/{quote(self.id, safe='')}/stop"

    async def connect(self, server: Server, *, receive_buffer: int | None = None) -> Connection:
        """A connection that is closed with the chat."""
        connection = await Connection.open(server.port, receive_buffer=receive_buffer)
        self._connections.append(connection)
        return connection

    async def request(
        self,
        server: Server,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        receive_buffer: int | None = None,
    ) -> Response:
        """A request whose answer is read by the caller, on a connection of its own."""
        connection = await self.connect(server, receive_buffer=receive_buffer)
        return await connection.request(method, target, headers=headers or {}, body=body)

    async def start(
        self,
        server: Server,
        script: Script | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
        on: Connection | None = None,
    ) -> Response:
        """Post a message, on a new connection or a given one; the answer is what `script` says."""
        script = script or Script()
        body = json.dumps({"id": self.id, "messages": [], "script": script.to_mapping()}).encode()
        if server not in self._servers:
            self._servers.append(server)
        every = {"content-type": "application/json", "accept-encoding": "gzip", **(headers or {})}
        connection = on or await self.connect(server, receive_buffer=receive_buffer)
        return await connection.request("POST", self.path, headers=every, body=body)

    async def resume(
        self,
        server: Server,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        receive_buffer: int | None = None,
    ) -> Response:
        """Ask for what there is of this chat."""
        target = self.resume_path + ("?" + urlencode(query) if query else "")
        return await self.request(server, method, target, headers=headers, receive_buffer=receive_buffer)

    async def stop(
        self,
        server: Server,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask for the running answer to be stopped, and return the decoded reply."""
        raw = b"" if body is None else json.dumps(body).encode()
        response = await fetch(server.port, "POST", self.stop_path, headers=headers or {}, body=raw)
        assert response.status == 200, (response.status, bytes(response.body))
        return await response.json()

    async def emit(self, server: Server, count: int = 1, *, run: int = -1) -> None:
        """Release the next chunks and wait until the app has generated them."""
        wanted = (await self.states(server))[run]["generated"] + count
        await self._command(server, "emit", count=count, run=run)
        await wait_until(
            lambda: self._generated(server, run, wanted), what=f"the app to generate chunk {wanted}"
        )

    async def finish(self, server: Server, *, run: int = -1) -> None:
        """Let the answer run to its end, without waiting for it."""
        await self._command(server, "finish", run=run)

    async def fail(self, server: Server, *, run: int = -1) -> None:
        """Make the app raise where it waits."""
        await self._command(server, "fail", run=run)

    async def states(self, server: Server) -> list[dict[str, Any]]:
        """What became of each run of this chat in this server, oldest first."""
        return await self._command(server, "state")

    async def state(self, server: Server) -> dict[str, Any]:
        """What became of the newest run."""
        return (await self.states(server))[-1]

    async def started(self, server: Server) -> None:
        """Wait until somebody else's request has reached the app."""
        await wait_until(lambda: self.states(server), what=f"{self.id} to be started")

    async def ended(self, server: Server, how: str, *, run: int = -1, timeout: float = 5) -> dict[str, Any]:
        """Wait until the run has ended, which must be in the way named."""

        async def over() -> dict[str, Any] | None:
            state = (await self.states(server))[run]
            return state if state["ending"] else None

        state = await wait_until(over, timeout=timeout, what=f"the run of {self.id} to end")
        assert state["ending"] == how, state
        return state

    async def nothing_left(self, server: Server, *, timeout: float = 5, **headers: str) -> None:
        """Wait until a resume would find nothing, and see that it does. HEAD asks without taking delivery."""

        async def gone() -> bool:
            response = await fetch(server.port, "HEAD", self.resume_path, headers=headers)
            return response.status == 204

        await wait_until(gone, timeout=timeout, what=f"nothing to be left of {self.id}")
        response = await fetch(server.port, "GET", self.resume_path, headers=headers)
        assert (response.status, response.body) == (204, b"")

    async def close(self) -> None:
        """Close every connection and let every run go."""
        for connection in self._connections:
            await connection.close()
        for server in self._servers:
            if server.process.running:
                for index in range(len(await self.states(server))):
                    await self.finish(server, run=index)

    async def _generated(self, server: Server, run: int, wanted: int) -> bool:
        return (await self.states(server))[run]["generated"] >= wanted

    async def _command(self, server: Server, name: str, **parameters: Any) -> Any:
        """Ask the worker that holds the runs; with several behind one port, ask until it is the one."""
        query = urlencode({"chat": self.id, **parameters})

        method = "GET" if name == "state" else "POST"

        async def ask() -> list[dict[str, Any]]:
            response = await fetch(server.port, method, f"/control/{name}?{query}")
            assert response.status == 200, (name, response.status, bytes(response.body))
            return await response.json()

        if server.workers == 1:
            return await ask()
        return await wait_until(ask, what=f"the worker that runs {self.id} to be the one asked")
