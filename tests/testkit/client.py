"""An HTTP/1.1 client on a bare socket: it sees chunks as they come, tells how a body ended, and can be cut.

A client library would hide all three: it buffers, treats some broken bodies as complete, and closes politely.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from . import sse

TIMEOUT = 10.0
_READ = 16384

Cut = Literal["close", "reset", "half"]


class End(enum.Enum):
    """How a body came to its end."""

    CLEAN = "clean"
    """By the final chunk or the announced length."""
    BROKEN = "broken"
    """The connection ended before that."""


class Connection:
    """One TCP connection; a new request needs the answer before it to be read to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None) -> Connection:
        """Connect; a small `receive_buffer` makes a client that does not read slow for its server too."""
        sock = socket.socket()
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setblocking(False)
            async with asyncio.timeout(TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**16)
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer)

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> Response:
        """Send a request and read the head of its answer; `target` goes on the wire as it is."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        names = {name.lower() for name, _ in pairs}
        if "host" not in names:
            pairs.append(("host", "testserver"))
        if body or method in ("POST", "PUT"):
            pairs.append(("content-length", str(len(body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        self.writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
        async with asyncio.timeout(TIMEOUT):
            await self.writer.drain()
        return await Response.read_head(self, method)

    async def cut(self, how: Cut = "close") -> None:
        """End the connection as a closed page (`close`), a dead network (`reset`) or `half` of it would."""
        match how:
            case "half":
                self.writer.write_eof()
            case "reset":
                sock = self.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.writer.transport.abort()
            case "close":
                await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self.writer.wait_closed()
        except OSError:
            pass


class Response:
    """The answer to one request. What was received so far is in `body`, without the chunk framing."""

    def __init__(
        self, connection: Connection, status: int, headers: list[tuple[str, str]], *, empty: bool
    ) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self.body = bytearray()
        self.end: End | None = End.CLEAN if empty else None
        self._chunked = (self.header("transfer-encoding") or "").lower() == "chunked"
        length = self.header("content-length")
        self._left: int | None = 0 if self._chunked else None if length is None else int(length)
        if self._left == 0 and not self._chunked:
            self.end = End.CLEAN

    @classmethod
    async def read_head(cls, connection: Connection, method: str) -> Response:
        async with asyncio.timeout(TIMEOUT):
            raw = await connection.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        status = int(first.split(" ", 2)[1])
        headers = [(n.strip().lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]
        return cls(connection, status, headers, empty=method == "HEAD" or status in (204, 304))

    def header(self, name: str) -> str | None:
        """The one value of a header; more than one fails the test that asks."""
        values = self.header_values(name)
        assert len(values) < 2, f"{name} is sent {len(values)} times: {values}"
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    async def exactly(self, count: int, *, timeout: float = TIMEOUT) -> bytes:
        """The first `count` bytes of the body; not one more is read off the framing."""
        async with asyncio.timeout(timeout):
            while len(self.body) < count and self.end is None:
                await self._pull(count - len(self.body))
        assert len(self.body) >= count, (
            f"{self.end} after {len(self.body)} of {count} bytes: {bytes(self.body)!r}"
        )
        return bytes(self.body[:count])

    async def events(self, count: int, *, timeout: float = TIMEOUT) -> list[bytes]:
        """The first `count` events of the body, comments left out; it may by then hold more."""
        await self.until(lambda: len(self._events()) >= count, f"event {count}", timeout=timeout)
        events = self._events()
        assert len(events) >= count, f"{self.end} after {len(events)} of {count} events: {bytes(self.body)!r}"
        return events[:count]

    async def comment(self, count: int = 1, *, timeout: float = TIMEOUT) -> list[bytes]:
        """The first `count` comments between events."""
        await self.until(lambda: len(sse.comments(self.body)) >= count, f"comment {count}", timeout=timeout)
        return sse.comments(self.body)[:count]

    async def silence(self, seconds: float) -> None:
        """See that for so long nothing comes and nothing ends."""
        length = len(self.body)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pull(_READ)
        assert (len(self.body), self.end) == (length, None), bytes(self.body[length:])

    async def until(self, condition: Callable[[], bool], what: str, *, timeout: float = TIMEOUT) -> None:
        """Read until a condition on what was received is true, or the body has ended."""
        try:
            async with asyncio.timeout(timeout):
                while not condition() and self.end is None:
                    await self._pull(_READ)
        except TimeoutError:
            raise AssertionError(f"no {what} in {timeout} s: {bytes(self.body)!r}") from None

    async def rest(self, *, timeout: float = TIMEOUT) -> bytes:
        """Read to the end, whichever it is (`end` tells), and return the whole body."""
        await self.until(lambda: False, "end", timeout=timeout)
        return bytes(self.body)

    async def json(self) -> Any:
        return json.loads(await self.rest())

    async def cut(self, how: Cut = "close") -> None:
        await self.connection.cut(how)

    def _events(self) -> list[bytes]:
        return [event for event in sse.split(bytes(self.body))[0] if not sse.is_comment(event)]

    async def _pull(self, limit: int) -> None:
        """Add up to `limit` bytes of what comes next, or note the end."""
        try:
            if self._chunked and self._left == 0 and not await self._next_chunk():
                return
            data = await self.connection.reader.read(limit if self._left is None else min(limit, self._left))
            if not data:
                self.end = End.CLEAN if self._left is None else End.BROKEN
                return
            self.body += data
            if self._left is not None:
                self._left -= len(data)
                if self._left == 0:
                    await self._finish_piece()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.end = End.BROKEN

    async def _next_chunk(self) -> bool:
        size = int((await self.connection.reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            await self.connection.reader.readuntil(b"\r\n")
            self.end = End.CLEAN
        self._left = size
        return size > 0

    async def _finish_piece(self) -> None:
        if self._chunked:
            await self.connection.reader.readexactly(2)
        else:
            self.end = End.CLEAN


async def fetch(
    port: int,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> Response:
    """One request on a connection of its own, read to the end and closed."""
    connection = await Connection.open(port)
    try:
        response = await connection.request(method, target, headers=headers, body=body)
        await response.rest()
        return response
    finally:
        await connection.close()
