"""A TCP proxy between one worker and Redis, on which everything that a network does can be done."""

from __future__ import annotations

import asyncio
import contextlib
import random

_READ = 64 * 1024


def frame_end(data: bytes | bytearray, at: int) -> int:
    """The end of the RESP value that begins at `at`, or -1 if it is not complete."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return -1
    kind, rest, after = data[at : at + 1], bytes(data[at + 1 : line_end]), line_end + 2
    if kind == b"$":
        length = int(rest)
        after += 0 if length < 0 else length + 2
        return after if after <= len(data) else -1
    if kind == b"*":
        for _ in range(max(0, int(rest))):
            after = frame_end(data, after)
            if after < 0:
                return -1
    return after


class _Channel:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.proxy = proxy
        self.writers = writers
        self.subscribed = False
        self.losing = False
        self.pushes = bytearray()

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def pump_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy = self.proxy
        while data := await reader.read(_READ):
            await proxy.pass_gate()
            if b"SUBSCRIBE" in data:
                self.subscribed = True
            if b"XADD" in data:
                if proxy.half_requests > 0:
                    proxy.half_requests -= 1
                    writer.write(data[: proxy.rng.randrange(len(data))])
                    await writer.drain()
                    writer.close()
                    self.writers[0].transport.abort()
                    return
                if proxy.lost_replies > 0:
                    proxy.lost_replies -= 1
                    self.losing = True
            writer.write(data)
            await writer.drain()

    async def pump_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ):
            await self.proxy.pass_gate()
            if self.losing:  # what was asked has happened: nobody is told
                self.cut()
                return
            writer.write(self._thinned(data) if self.subscribed else data)
            await writer.drain()

    def _thinned(self, data: bytes) -> bytes:
        """The pushed messages less those that get lost."""
        self.pushes += data
        kept = bytearray()
        at = 0
        while at < len(self.pushes) and (end := frame_end(self.pushes, at)) >= 0:
            frame = self.pushes[at:end]
            is_message = frame.startswith(b"*3\r\n$7\r\nmessage\r\n")
            if not (is_message and self.proxy.rng.random() < self.proxy.push_loss):
                kept += frame
            at = end
        del self.pushes[:at]
        return bytes(kept)


class Proxy:
    """Listens on `port`; the attributes are the faults that are on."""

    def __init__(self, upstream: int, rng: random.Random) -> None:
        self.rng = rng
        self.latency = 0.0
        """Seconds each way."""
        self.push_loss = 0.0
        self.lost_replies = 0
        """How many replies to appends are still to get lost, with their connection."""
        self.half_requests = 0
        """How many requests with an append are still to be cut off in their middle."""
        self.refusing = False
        self.port = 0
        self._upstream = upstream
        self._open = asyncio.Event()
        self._open.set()
        self._channels: set[_Channel] = set()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        return len(self._channels)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_READ)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    def hold(self) -> None:
        """Pass nothing on in either direction, and let nobody notice: a half-open network."""
        self._open.clear()

    def release(self, *, deliver: bool) -> None:
        """End the hold: what was under way arrives late, or is gone with its connections."""
        if not deliver:
            self.cut()
        self._open.set()

    def cut(self) -> None:
        """Reset all connections."""
        for channel in list(self._channels):
            channel.cut()

    async def pass_gate(self) -> None:
        if self.latency:
            await asyncio.sleep(self.latency)
        await self._open.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(
                "127.0.0.1", self._upstream, limit=_READ
            )
        except OSError:
            writer.transport.abort()
            return
        channel = _Channel(self, (writer, upstream_writer))
        self._channels.add(channel)
        pumps = [
            asyncio.ensure_future(channel.pump_requests(reader, upstream_writer)),
            asyncio.ensure_future(channel.pump_replies(upstream_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await pump
            self._channels.discard(channel)
            for each in (writer, upstream_writer):
                each.close()
