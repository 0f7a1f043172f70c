"""A connection to Redis on which commands follow each other without waiting for answers.

redis-py opens it, with all that is its work: addresses, TLS, authentication, Sentinel. From then on the
socket is ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from . import refusals
from .resp import Reply, ReplyError, new_parser

logger = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[AbstractConnection]]
"""Opens a connection that is authenticated and speaks version 2 of the protocol."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between attempts to connect."""


class WireLostError(Exception):
    """The connection is gone, or Redis did not answer in time; what was asked may have happened."""


Answered = Callable[[list[Reply] | None], None]
"""Takes the replies to a call, or None if the connection was lost first. Must not raise."""


class _Call:
    __slots__ = ("answered", "commands", "replies")

    def __init__(self, commands: Sequence[bytes], answered: Answered) -> None:
        self.commands = commands
        self.answered = answered
        self.replies: list[Reply] = []


class Wire(asyncio.Protocol):
    """One open connection. Without a pending answer for `patience` seconds it is given up.

    With `pushed` every answer goes there: for a connection that subscribes.
    """

    def __init__(
        self, connection: AbstractConnection, patience: float, pushed: Callable[[Reply], None] | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._connection = connection
        self._patience = patience
        self._pushed = pushed
        self._parser = new_parser()
        self._calls: deque[_Call] = deque()
        self._heard = self._loop.time()
        self._check: asyncio.TimerHandle | None = None
        # redis-py has no public way to hand the socket over.
        writer = cast("asyncio.StreamWriter", getattr(connection, "_writer"))  # noqa: B009
        self._transport = writer.transport
        self._transport.set_protocol(self)

    def call(self, commands: Sequence[bytes], answered: Answered) -> None:
        """Send packed commands; `answered` is called with their replies, error replies among them."""
        self._send(commands, [_Call(commands, answered)])

    def ask(self, commands: Sequence[bytes]) -> list[asyncio.Future[Reply]]:
        """Send packed commands; each has a future for its reply, which raises `WireLostError`."""
        futures: list[asyncio.Future[Reply]] = [self._loop.create_future() for _ in commands]
        calls = [
            _Call((command,), partial(_hand_over, future))
            for command, future in zip(commands, futures, strict=True)
        ]
        self._send(commands, calls)
        return futures

    def _send(self, commands: Sequence[bytes], calls: Sequence[_Call]) -> None:
        if self.lost.done() or self._transport.is_closing():
            for call in calls:
                self._loop.call_soon(call.answered, None)
            return
        if not self._calls:
            self._heard = self._loop.time()
            if self._check is None:
                self._check = self._loop.call_later(self._patience, self._check_patience)
        self._calls += calls
        self._transport.write(b"".join(commands))

    def send(self, command: bytes) -> None:
        """Send a command of which the answer goes to `pushed`."""
        if not self.lost.done() and not self._transport.is_closing():
            self._transport.write(command)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._parser.feed(data)
        take, calls, pushed = self._parser.gets, self._calls, self._pushed
        try:
            while (reply := take()) is not False:
                if pushed is not None:
                    pushed(reply)
                    continue
                call = calls[0]
                if isinstance(reply, ReplyError):
                    refusals.note(call.commands[len(call.replies)], str(reply))
                call.replies.append(reply)
                if len(call.replies) == len(call.commands):
                    calls.popleft()
                    call.answered(call.replies)
        except (ReplyError, ValueError, IndexError, TypeError) as error:
            logger.warning("Redis sent what cannot be understood (%s); connecting anew", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def abort(self) -> None:
        """Close at once; all pending calls fail."""
        self._transport.abort()
        self._end()

    @property
    def silence(self) -> float:
        """Seconds since the last byte came."""
        return self._loop.time() - self._heard

    def _end(self) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        if self._check is not None:
            self._check.cancel()
        close = cast("Callable[[], Any]", getattr(self._connection, "_close"))  # noqa: B009
        close()
        while self._calls:
            self._calls.popleft().answered(None)

    def _check_patience(self) -> None:
        self._check = None
        if not self._calls:
            return
        if self.silence >= self._patience:
            logger.warning("Redis has not answered for %.1f s; connecting anew", self.silence)
            self.abort()
            return
        self._check = self._loop.call_later(self._patience - self.silence, self._check_patience)


class Link:
    """Keeps one wire: opened when it is needed, and again after a loss, with growing pauses between."""

    def __init__(
        self, connect: Connect, *, patience: float, pushed: Callable[[Reply], None] | None = None
    ) -> None:
        self._connect = connect
        self._patience = patience
        self._pushed = pushed
        self._wire: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pause = _FIRST_PAUSE
        self._closed_until = 0.0

    @property
    def wire(self) -> Wire | None:
        """The open wire, if there is one."""
        return self._wire if self._wire is not None and not self._wire.lost.done() else None

    async def open(self) -> Wire:
        """The open wire. Raises `WireLostError` if Redis cannot be reached, or could not just now."""
        wire = self.wire
        if wire is not None:
            return wire
        if self._opening is None:
            if asyncio.get_running_loop().time() < self._closed_until:
                raise WireLostError("Redis could not be reached just now")
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def ask(self, *commands: bytes) -> list[asyncio.Future[Reply]]:
        """As `Wire.ask`, on an open wire. Raises `WireLostError`."""
        wire = self.wire or await self.open()
        return wire.ask(commands)

    async def call(self, *commands: bytes) -> list[Reply]:
        """The replies themselves."""
        return [await reply for reply in await self.ask(*commands)]

    def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._wire is not None:
            self._wire.abort()

    async def _open(self) -> Wire:
        try:
            async with asyncio.timeout(self._patience):
                connection = await self._connect()
        except (RedisError, OSError) as error:  # a time-out is an OSError
            raise WireLostError(f"Redis cannot be reached: {error}") from error
        wire = Wire(connection, self._patience, self._pushed)
        if (
            self._opening is not asyncio.current_task()
        ):  # closed meanwhile; asyncio.wait_for swallows a cancel
            wire.abort()
            raise WireLostError("closed")
        self._wire = wire
        # The event loop cancels this task when it ends: the connection is then closed, if nobody did before.
        # In a callback, since a task that is cancelled before its first step runs nothing of its own.
        self._keeper = asyncio.create_task(_wait_for(wire.lost))
        self._keeper.add_done_callback(lambda _: wire.abort())
        return wire

    def _opened(self, task: asyncio.Task[Wire]) -> None:
        failed = not task.cancelled() and task.exception() is not None
        if self._opening is not task:  # closed meanwhile
            return
        self._opening = None
        if not failed:
            self._pause = _FIRST_PAUSE
        else:
            self._closed_until = asyncio.get_running_loop().time() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _hand_over(future: asyncio.Future[Reply], replies: list[Reply] | None) -> None:
    if future.done():  # its caller has given up
        return
    if replies is None:
        future.set_exception(WireLostError("the connection to Redis was lost"))
        future.exception()  # its caller may not have looked yet, and never will if it gives up
    else:
        future.set_result(replies[0])


async def _wait_for(future: asyncio.Future[None]) -> None:
    await asyncio.wait([future])  # not awaited itself: cancelling us would cancel it
