"""One HTTP exchange over a connection of its own, with as little work per byte as will do."""

from __future__ import annotations

import asyncio
from array import array
from typing import cast

from ..events import SIZE, STAMP, now_us

_MARGIN = STAMP.stop
"""Bytes of an event that are needed to know when it was made."""


class Meter:
    """What many streams count together. Latencies are in microseconds, of events made from `since` on."""

    def __init__(self, *, timed: bool) -> None:
        self.timed = timed
        self.since = 0
        self.latencies = array("q")
        self.bytes = 0
        self.failed: list[str] = []


class Stream(asyncio.Protocol):
    """Sends a request and reads a chunked response.

    `first` is done at the first byte of the body, `reached` at `enough` bytes of it or at its end, whichever
    comes first; both hold the time in microseconds. A failure is noted in the meter and ends both.
    """

    def __init__(self, request: bytes, meter: Meter, *, enough: int = 1 << 62) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[int] = loop.create_future()
        self.reached: asyncio.Future[int] = loop.create_future()
        self.body = 0
        """Bytes of the body so far."""
        self.ended = False
        """Whether the response has ended as a whole one does."""
        self.sent_at = 0
        self._closed = False
        self._request = request
        self._meter = meter
        self._enough = enough
        self._head = True
        self._rest = b""
        self._left = 0
        """Bytes still missing of a chunk, its line end included."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.sent_at = now_us()
        self._transport.write(self._request)

    def close(self) -> None:
        """Leave, as a client does that has gone."""
        self._closed = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = now_us()
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self._head:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 200"):
                self._fail(data[:60].decode("latin-1"))
                return
            self._head = False
            data = data[end + 4 :]
        self._chunks(data, now)

    def _chunks(self, data: bytes, now: int) -> None:
        at, end = 0, len(data)
        timed = self._meter.timed
        while at < end:
            if self._left:
                take = min(self._left, end - at)
                self._took(min(take, max(0, self._left - 2)), now)
                self._left -= take
                at += take
                continue
            line = data.find(b"\r\n", at)
            if line < 0:
                self._rest = data[at:]
                return
            size = int(data[at:line], 16)
            if not size:
                self._finish(now)
                return
            if timed:
                if line + 4 + size > end:  # stamps are only read in whole chunks
                    self._rest = data[at:]
                    return
                self._stamps(data, line + 2, size, now)
                self._took(size, now)
                at = line + 4 + size
            else:
                self._left = size + 2
                at = line + 2

    def _stamps(self, data: bytes, at: int, size: int, now: int) -> None:
        """The latencies of the events that begin in a chunk, which may begin amid an event."""
        since, latencies = self._meter.since, self._meter.latencies
        for start in range(at + -self.body % SIZE, at + size - _MARGIN + 1, SIZE):
            made = int(data[start + STAMP.start : start + STAMP.stop])
            if made >= since:
                latencies.append(now - made)

    def _took(self, size: int, now: int) -> None:
        if not size:
            return
        if not self.body:
            _set(self.first, now)
        self.body += size
        self._meter.bytes += size
        if self.body >= self._enough:
            _set(self.reached, now)

    def _finish(self, now: int) -> None:
        self.ended = True
        _set(self.first, now)
        _set(self.reached, now)
        self._transport.close()

    def _fail(self, why: str) -> None:
        self._meter.failed.append(why)
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed and not self.ended:
            self._meter.failed.append(f"the response broke off after {self.body} bytes: {exc}")
        _set(self.first, 0)
        _set(self.reached, 0)


def _set(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)


class Requests(asyncio.Protocol):
    """The same request again and again on one connection; answers have a Content-Length.

    `done` when all `count` answers are there. `times` are those of the answers in microseconds.
    """

    def __init__(self, request: bytes, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.times = array("q")
        self._request = request
        self._count = count
        self._length = 0
        self._got = b""
        self._sent_at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._sent_at = now_us()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._length:  # every answer is as long as the first
            head, separator, _ = self._got.partition(b"\r\n\r\n")
            if not separator:
                return
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self._length = len(head) + 4 + int(fields[b"content-length"])
        if len(self._got) < self._length:
            return
        self._got = self._got[self._length :]
        self.times.append(now_us() - self._sent_at)
        if len(self.times) < self._count:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done.done():
            return
        if len(self.times) < self._count:
            self.done.set_exception(ConnectionError("the connection was lost"))
        else:
            self.done.set_result(None)
