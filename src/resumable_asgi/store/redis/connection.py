"""A pipelined connection to Redis, and a link: a connection that reopens itself.

redis-py opens the connection and takes care of addresses, TLS, authentication and Sentinel. Afterwards the
socket is used without redis-py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from ...states import after
from . import refusals
from .resp import Reply, ReplyError, new_parser

logger: logging.Logger = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[AbstractConnection]]
"""Opens an authenticated connection that uses version 2 of the protocol."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between attempts to connect."""


class RedisRefusedError(Exception):
    """Redis answers, but refuses commands: it is out of memory, read-only or loading."""


class ConnectionLostError(Exception):
    """The connection is lost, or Redis did not answer in time. The command may have been executed."""


Answered = Callable[[list[Reply] | None], None]
"""Receives the replies to a call, or None if the connection was lost before. Must not raise."""


class _Call:
    __slots__ = ("answered", "commands", "replies")

    def __init__(self, commands: Sequence[bytes], answered: Answered) -> None:
        self.commands = commands
        self.answered = answered
        self.replies: list[Reply] = []


class Connection(asyncio.Protocol):
    """One open connection. It is closed if a reply is due and nothing arrives for `patience` seconds.

    If `pushed` is given, it receives every reply: this is for connections that subscribe.
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
        # redis-py has no public way to take over its socket.
        writer = cast("asyncio.StreamWriter", getattr(connection, "_writer"))  # noqa: B009
        self._transport = writer.transport
        self._transport.set_protocol(self)

    def call(self, commands: Sequence[bytes], answered: Answered) -> None:
        """Send packed commands; `answered` is called with their replies, including error replies."""
        self._send(commands, [_Call(commands, answered)])

    def ask(self, commands: Sequence[bytes]) -> list[asyncio.Future[Reply]]:
        """Send packed commands; each has a future for its reply, which raises `ConnectionLostError`."""
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
        """Send a command whose reply goes to `pushed`."""
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
            logger.warning("Redis sent an invalid reply (%s); reconnecting", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def abort(self) -> None:
        """Close at once; all pending calls fail."""
        self._transport.abort()
        self._end()

    @property
    def silence(self) -> float:
        """Seconds since the last byte arrived."""
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
            logger.warning("Redis has not answered for %.1f s; reconnecting", self.silence)
            self.abort()
            return
        self._check = self._loop.call_later(self._patience - self.silence, self._check_patience)


class LinkState(Enum):
    """The state of a `Link`."""

    CLOSED = auto()
    OPENING = auto()
    OPEN = auto()
    WAITING = auto()
    """Waiting after a failure, before the next attempt."""


class _Event(Enum):
    ASKED = auto()
    OPENED = auto()
    LOST = auto()
    """The connection was lost, and nobody needs one at the moment."""
    TROUBLE = auto()
    """The connection could not be opened, was lost while it was needed, or refused commands."""
    WAITED = auto()
    CLOSE = auto()


_LINK = {
    (LinkState.CLOSED, _Event.ASKED): LinkState.OPENING,
    (LinkState.CLOSED, _Event.CLOSE): LinkState.CLOSED,
    (LinkState.OPENING, _Event.OPENED): LinkState.OPEN,
    (LinkState.OPENING, _Event.TROUBLE): LinkState.WAITING,
    (LinkState.OPENING, _Event.CLOSE): LinkState.CLOSED,
    (LinkState.OPEN, _Event.LOST): LinkState.CLOSED,
    (LinkState.OPEN, _Event.TROUBLE): LinkState.WAITING,
    (LinkState.OPEN, _Event.CLOSE): LinkState.CLOSED,
    (LinkState.WAITING, _Event.WAITED): LinkState.CLOSED,
    (LinkState.WAITING, _Event.CLOSE): LinkState.CLOSED,
}


class Link:
    """Holds one connection at a time. Opens it on demand, and reopens it by itself while it is `needed`.

    `opened` is called with every new connection, `failed` after every failure while one is needed. After a
    failure the link waits, longer each time, until a call is answered. All callbacks run in the event loop.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        patience: float,
        pushed: Callable[[Reply], None] | None = None,
        needed: Callable[[], bool] = lambda: False,
        opened: Callable[[Connection], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self._connect = connect
        self._patience = patience
        self._pushed = pushed
        self._needed = needed
        self._on_opened = opened
        self._on_failed = failed
        self._state = LinkState.CLOSED
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._failures = 0
        """Failures since a call was answered."""
        self.last_trouble: Exception | None = None
        """Why the last connection was given up."""
        self.refused_at: float = float("-inf")
        """When Redis last refused a command, in seconds of the loop's clock."""

    def __repr__(self) -> str:
        return f"<Link {self._state.name}, {self._failures} failures>"

    @property
    def connection(self) -> Connection | None:
        """The open connection, if there is one."""
        return self._connection if self._connection is not None and not self._connection.lost.done() else None

    @property
    def down(self) -> bool:
        """Whether the last attempt to use the connection failed."""
        return self._failures > 0

    def need(self) -> None:
        """Open the connection, unless it is open or opening."""
        if self._state is LinkState.CLOSED:
            self._begin()

    async def open(self) -> Connection:
        """The open connection.

        Raises `ConnectionLostError` if Redis cannot be reached, or could not be reached a moment ago.
        """
        if (connection := self.connection) is not None:
            return connection
        if self._state is LinkState.OPEN:
            self._lost()  # the callback that does this has not run yet
        if self._state is LinkState.WAITING:
            raise ConnectionLostError("Redis could not be reached a moment ago")
        self.need()
        assert self._opening is not None
        return await asyncio.shield(self._opening)

    def call(self, commands: list[bytes], handle: Callable[[list[Reply]], None]) -> None:
        """Send commands, and pass their replies to `handle` unless the connection is lost before.

        A link that is not open sends nothing. An exception of `handle` counts as a failure.
        """
        if self._connection is not None:
            self._connection.call(commands, partial(self._answered, self._connection, handle))

    async def ask(self, *commands: bytes) -> list[asyncio.Future[Reply]]:
        """Like `Connection.ask`, but open the connection first if necessary. Raises `ConnectionLostError`."""
        connection = self.connection or await self.open()
        return connection.ask(commands)

    async def fetch(self, *commands: bytes) -> list[Reply]:
        """Send commands and wait for their replies. Raises `ConnectionLostError`."""
        return [await reply for reply in await self.ask(*commands)]

    def reopen(self) -> None:
        """Close the open connection, because a new one may lead to another server."""
        if self._connection is not None:
            self._connection.abort()

    def close(self) -> None:
        """Close the connection. It is opened again only on demand."""
        self._move(_Event.CLOSE)
        if self._retry is not None:
            self._retry.cancel()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._drop()

    def _move(self, event: _Event) -> None:
        self._state = after(_LINK, self._state, event)

    def _begin(self) -> None:
        self._move(_Event.ASKED)
        self._opening = asyncio.create_task(self._open())
        self._opening.add_done_callback(self._opened)

    async def _open(self) -> Connection:
        try:
            async with asyncio.timeout(self._patience):
                opened = await self._connect()
        except (RedisError, OSError) as error:  # a time-out is an OSError
            raise ConnectionLostError(f"Redis cannot be reached: {error}") from error
        connection = Connection(opened, self._patience, self._pushed)
        if (
            self._opening is not asyncio.current_task()
        ):  # closed meanwhile; the cancellation may have been swallowed
            connection.abort()
            raise ConnectionLostError("closed")
        # When the event loop ends, it cancels this task, and the callback closes a connection that is still
        # open. A callback, because a task that is cancelled before its first step runs none of its code.
        self._keeper = asyncio.create_task(_wait_for(connection.lost))
        self._keeper.add_done_callback(lambda _: connection.abort())
        return connection

    def _opened(self, task: asyncio.Task[Connection]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._opening is not task:  # closed meanwhile
            return
        self._opening = None
        if task.cancelled() or error is not None:
            self._trouble(error if isinstance(error, Exception) else ConnectionLostError("cancelled"))
            return
        self._connection = connection = task.result()
        self._move(_Event.OPENED)
        connection.lost.add_done_callback(lambda _: self._connection is connection and self._lost())
        if not self._needed():
            self._failures = 0
        if self._on_opened is not None:
            self._on_opened(connection)

    def _answered(
        self, connection: Connection, handle: Callable[[list[Reply]], None], replies: list[Reply] | None
    ) -> None:
        if replies is None or self._connection is not connection:
            return  # lost: `_lost` handles that
        try:
            handle(replies)
        except RedisRefusedError as error:
            self.refused_at = asyncio.get_running_loop().time()
            self._trouble(error)
        except Exception as error:  # writing must continue, whatever Redis answers
            logger.exception("Redis sent an unexpected reply")
            self._trouble(error)
        else:
            if self._failures:
                logger.info("Redis is back; running streams are recorded again")
                self._failures = 0

    def _lost(self) -> None:
        if self._needed():
            self._trouble(ConnectionLostError("the connection to Redis was lost"))
        else:
            self._drop()
            self._move(_Event.LOST)

    def _trouble(self, error: Exception) -> None:
        """Close the connection and try again later."""
        self._drop()  # it may be one to a primary that has become a replica
        self._move(_Event.TROUBLE)
        first = not self._failures
        self._failures += 1
        self.last_trouble = error
        pause = min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE)
        self._retry = asyncio.get_running_loop().call_later(pause, self._waited)
        if self._needed() and self._on_failed is not None:
            if first:
                logger.warning("streams continue unrecorded until Redis is back: %s", error)
            self._on_failed(error)

    def _waited(self) -> None:
        self._move(_Event.WAITED)
        if self._needed():
            self._begin()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


def _hand_over(future: asyncio.Future[Reply], replies: list[Reply] | None) -> None:
    if future.done():  # its caller has given up
        return
    if replies is None:
        future.set_exception(ConnectionLostError("the connection to Redis was lost"))
        future.exception()  # marks it as retrieved: its caller may have given up
    else:
        future.set_result(replies[0])


async def _wait_for(future: asyncio.Future[None]) -> None:
    await asyncio.wait([future])  # awaiting the future itself would pass our cancellation on to it
