"""Apps and clients without sockets: both ends of an ASGI call are in the test's hands."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings
from resumable_asgi.stream.store import Store

TIMEOUT = 10.0
SSE = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")


class Changes:
    """Lets tests wait for a condition that is looked at whenever something changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._event.clear()
                    await self._event.wait()
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {what}") from None


class Exchange:
    """One request. `messages` is everything the app sent, as the server got it."""

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        path: str,
        *,
        query: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes | Sequence[bytes] = b"",
        **scope: Any,
    ) -> None:
        self.messages: list[Message] = []
        self.gone = False
        self.asked_after_body = 0
        """How often `receive` was called when the whole body had been given."""
        self.open = asyncio.Event()
        """While it is not set, `send` blocks: a client that does not read."""
        self.open.set()
        self.send_error: Exception | None = None
        """Raised by every `send`."""
        self.changes = Changes()
        self._parts = [body] if isinstance(body, bytes) else list(body)
        self._more_to_come = asyncio.Event()
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "replace"),
            "root_path": "",
            "query_string": query,
            "headers": [(b"host", b"testserver"), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
            "extensions": {},
            **scope,
        }
        self.task = asyncio.ensure_future(self._call(app))
        self.task.add_done_callback(lambda _: self.changes.notify())

    async def _call(self, app: ASGIApp) -> None:
        await app(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._parts and not self.gone:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        self.asked_after_body += 1
        self.changes.notify()
        await self._more_to_come.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.open.wait()
        if self.send_error is not None:
            raise self.send_error
        if self.gone:
            return
        self.messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._more_to_come.set()  # servers report a disconnect after the end of a response too
        self.changes.notify()

    def disconnect(self) -> None:
        """The client goes."""
        self.gone = True
        self._more_to_come.set()

    @property
    def start(self) -> Message:
        return next(message for message in self.messages if message["type"] == "http.response.start")

    @property
    def status(self) -> int:
        return self.start["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return {name.lower(): value for name, value in self.start["headers"]}

    @property
    def stream_id(self) -> str | None:
        value = self.headers.get(b"resumable-stream-id")
        return None if value is None else value.decode()

    @property
    def bodies(self) -> list[Message]:
        return [message for message in self.messages if message["type"] == "http.response.body"]

    @property
    def body(self) -> bytes:
        return b"".join(bytes(message.get("body", b"")) for message in self.bodies)

    @property
    def started(self) -> bool:
        return any(message["type"] == "http.response.start" for message in self.messages)

    @property
    def complete(self) -> bool:
        """Whether the response ended with a final body; a server breaks the connection of others."""
        return bool(self.bodies) and not self.bodies[-1].get("more_body", False)

    async def until_started(self) -> Exchange:
        await self.changes.until(lambda: self.started or self.task.done(), "the response to start")
        if self.task.done():
            await self.task
        return self

    async def until(self, body: bytes) -> Exchange:
        """Wait until the body is at least as long as that, and see that it is that so far."""
        await self.changes.until(lambda: len(self.body) >= len(body), f"{body!r}; there is {self.body!r}")
        assert self.body.startswith(body), (self.body, body)
        return self

    async def ended(self, timeout: float = TIMEOUT) -> Exchange:
        """Wait until the call has returned; raises what it raised."""
        async with asyncio.timeout(timeout):
            await asyncio.shield(self.task)
        return self

    async def close(self) -> None:
        """Let go of the call, whatever it is doing."""
        self.disconnect()
        self.open.set()
        if not self.task.done():
            self.task.cancel()
        await asyncio.wait([self.task], timeout=TIMEOUT)
        if not self.task.cancelled():
            self.task.exception()


class HostRun:
    """One call of the host app: writes what the test tells it to."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.body = b""
        self.heard: list[str] = []
        """The kinds of message that `receive` gave after the request's body."""
        self.sent = 0
        self.ended: str | None = None
        self.changes = Changes()
        self._orders: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def emit(self, data: bytes) -> None:
        self._orders.put_nowait(("message", {"type": "http.response.body", "body": data, "more_body": True}))

    def message(self, message: Message) -> None:
        self._orders.put_nowait(("message", message))

    def finish(self, data: bytes = b"") -> None:
        """Send the final body and return."""
        self._orders.put_nowait(("message", {"type": "http.response.body", "body": data, "more_body": False}))
        self.leave()

    def leave(self) -> None:
        """Return."""
        self._orders.put_nowait(("return", None))

    def fail(self, error: BaseException) -> None:
        self._orders.put_nowait(("raise", error))

    def call(self, function: Callable[[HostRun], Awaitable[None]]) -> None:
        """Have the app await a function of the test's."""
        self._orders.put_nowait(("call", function))

    async def until_sent(self, count: int) -> None:
        """Wait until `send` has returned that often for the bodies ordered."""
        await self.changes.until(lambda: self.sent >= count, f"the app to have sent {count} messages")

    async def until_ended(self, how: str, timeout: float = TIMEOUT) -> None:
        await self.changes.until(lambda: self.ended is not None, "the app to end", timeout)
        assert self.ended == how

    async def run(self, start: Message) -> None:
        try:
            while True:
                message = await self.receive()
                self.body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
            if start:
                await self.send(start)
            while (order := await self._orders.get())[0] != "return":
                kind, value = order
                if kind == "raise":
                    raise value
                if kind == "call":
                    await value(self)
                else:
                    await self.send(value)
                    self.sent += 1
                    self.changes.notify()
        except BaseException as error:
            self.ended = type(error).__name__
            raise
        else:
            self.ended = "returned"
        finally:
            self.changes.notify()

    async def listen(self) -> None:
        """Note what `receive` gives; for `call`, or a task of the test's."""
        message = await self.receive()
        self.heard.append(message["type"])
        self.changes.notify()


class Host:
    """The app without the middleware. With no `start` message the test sends one of its own."""

    def __init__(self, start: Message | None = None) -> None:
        self.start: Message = (
            {"type": "http.response.start", "status": 200, "headers": [SSE]} if start is None else start
        )
        self.runs: list[HostRun] = []
        self.changes = Changes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        run = HostRun(scope, receive, send)
        self.runs.append(run)
        self.changes.notify()
        await run.run(self.start)

    async def run(self, index: int = -1) -> HostRun:
        """A call of the app, once there is one of that number."""
        wanted = index + 1 if index >= 0 else -index
        await self.changes.until(lambda: len(self.runs) >= wanted, "the app to be called")
        return self.runs[index]


async def answer_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


class Worker:
    """One middleware around one app; several of them in a process share nothing but their store's server."""

    def __init__(self, app: ASGIApp | None = None, *, settings: Settings) -> None:
        self.host = Host()
        self.app: ASGIApp = self.host if app is None else app
        self.middleware = ResumableStreamMiddleware(self.app, settings=settings)
        self.exchanges: list[Exchange] = []
        self._lifespan: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()

    @property
    def store(self) -> Store:
        runtime = self.middleware._runtime
        assert runtime is not None, "no request has been made yet"
        return runtime.store

    def request(self, method: str, path: str, **options: Any) -> Exchange:
        exchange = Exchange(self.middleware, method, path, **options)
        self.exchanges.append(exchange)
        return exchange

    def post(self, key: str = "c", **options: Any) -> Exchange:
        """Start a stream."""
        headers = (JSON, *options.pop("headers", ()))
        body = options.pop("body", json.dumps({"id": key}).encode())
        return self.request("POST", "/api/chat", headers=headers, body=body, **options)

    def resume(self, key: str = "c", offset: int | str | None = None, **options: Any) -> Exchange:
        if offset is not None:
            options["query"] = f"offset={offset}".encode()
        return self.request("GET", f"/api/chat/{key}/stream", **options)

    async def begin(self, key: str = "c", **options: Any) -> tuple[Exchange, HostRun]:
        """Start a stream and wait until it is answered."""
        number = len(self.host.runs)
        exchange = self.post(key, **options)
        run = await self.host.run(number)
        await exchange.until_started()
        return exchange, run

    async def stop(self, key: str = "c", body: bytes = b"{}") -> bool:
        exchange = await self.request("POST", f"/api/chat/{key}/stop", body=body).ended()
        assert exchange.status == 200, exchange.messages
        answer = json.loads(exchange.body)
        assert answer["success"]
        return answer["stopped"]

    async def nothing(self, key: str = "c", **options: Any) -> bool:
        """Whether there is nothing to resume; asked by HEAD, which takes no delivery."""
        exchange = await self.request("HEAD", f"/api/chat/{key}/stream", **options).ended()
        return exchange.status == 204

    async def startup(self) -> Worker:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._lifespan = asyncio.create_task(
            self.middleware(scope, self._inbox.get, self._answers.put)  # type: ignore[arg-type]
        )
        await self._tell("lifespan.startup")
        return self

    async def shutdown(self) -> None:
        if self._lifespan is not None:
            await self._tell("lifespan.shutdown")
            async with asyncio.timeout(TIMEOUT):
                await self._lifespan
            self._lifespan = None

    async def _tell(self, kind: str) -> None:
        self._inbox.put_nowait({"type": kind})
        async with asyncio.timeout(2 * TIMEOUT):
            answer = await self._answers.get()
        assert answer["type"] == f"{kind}.complete", answer

    async def close(self) -> None:
        for run in self.host.runs:
            run.leave()
        for exchange in self.exchanges:
            await exchange.close()
        await self.shutdown()
        if self.middleware._runtime is not None:
            await self.middleware._runtime.store.aclose()


@contextlib.asynccontextmanager
async def worker(
    app: ASGIApp | None = None, *, lifespan: bool = True, **settings: Any
) -> AsyncIterator[Worker]:
    """A worker whose settings are those of `Settings`, or of the one route it has."""
    names = ResumableRoute.__dataclass_fields__
    route = ResumableRoute(**{name: settings.pop(name) for name in list(settings) if name in names})
    made = Worker(app, settings=Settings(routes=[route], **{"drain_timeout": 0, **settings}))
    try:
        if lifespan:
            await made.startup()
        yield made
    finally:
        await made.close()
