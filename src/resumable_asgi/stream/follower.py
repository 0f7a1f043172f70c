"""A follower: one client connection reading a log, from an offset to the end.

It keeps an offset and no buffer: what is pending leaves as one body message, and a slow client is simply
at an earlier offset. The original client is a follower like every other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from starlette.types import Message, Send

from ..formats import recognise, sse
from ..formats.format import TAIL
from ..request.receiver import Receiver
from .eager import Deputy, Dispatcher
from .log import Log, TrimmedError

logger = logging.getLogger(__name__)

STREAM_ID_HEADER = b"resumable-stream-id"

_LONGEST_MESSAGE = 192 * 1024
"""Bytes a body message; more would sit in the server's buffer while a slow client takes its time."""

_SLOW_MESSAGE = 16 * 1024
"""The same for a client for which a send has waited: that it takes something shows when a send returns."""

_LONGEST_ENDING = 16
"""Bytes that are enough to see that the last event was complete."""


class Followers:
    """What all followers of an event loop share: the dispatcher, and one timer for those that are silent or
    stalled."""

    def __init__(self, period: float) -> None:
        self.dispatcher = Dispatcher()
        self._period = period
        self._followers: set[Follower] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, follower: Follower) -> None:
        self._followers.add(follower)
        if self._timer is None:
            self._schedule()

    def discard(self, follower: Follower) -> None:
        self._followers.discard(follower)
        if not self._followers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for follower in self._followers:
            follower.nudge(now)
        self._schedule()


class Follower(Deputy):
    """Sends a log from `offset` on. `offset` is what has been handed to the server so far.

    `keepalive` is the silence in seconds after which a comment is sent, `stall_timeout` how long a send may
    wait for a client that takes nothing; None for never.
    """

    __slots__ = (
        "_among",
        "_client",
        "_comment_due",
        "_cut_off",
        "_disconnected",
        "_dispatcher",
        "_due",
        "_following",
        "_keepalive",
        "_log",
        "_longest_message",
        "_rest",
        "_send",
        "_sending",
        "_sent",
        "_silent_since",
        "_stall_timeout",
        "_woken",
        "offset",
    )

    def __init__(
        self,
        log: Log,
        offset: int,
        send: Send,
        client: Receiver,
        *,
        keepalive: float | None,
        stall_timeout: float | None = None,
        among: Followers,
    ) -> None:
        super().__init__()
        self.offset = offset
        self._log = log
        self._send = send
        self._client = client
        self._keepalive = keepalive
        self._stall_timeout = stall_timeout
        self._among = among
        self._dispatcher = among.dispatcher
        self._disconnected = client.disconnected
        self._woken: asyncio.Future[None] | None = None
        self._following = False
        """Whether the task waits in `follow`, where `step` may send what comes."""
        self._due = False
        """Whether the dispatcher will have it step."""
        self._rest: Awaitable[None] | None = None
        """Of a send that `step` began."""
        self._sent = True
        """Whether something was sent since the timer last looked: a clock read a chunk would cost more."""
        self._silent_since = 0.0
        self._comment_due = False
        self._sending = False
        """Whether the task waits for a send."""
        self._cut_off = False
        """Whether the client was cut off, since it took nothing for too long."""
        self._longest_message = _LONGEST_MESSAGE

    def __enter__(self) -> Follower:
        self._log.readers.add(self)
        self._log.watch(self._wake)
        self._client.watch(self._look_at_client)
        if self._keepalive is not None or self._stall_timeout is not None:
            self._among.add(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._log.readers.discard(self)
        self._log.unwatch(self._wake)
        self._among.discard(self)

    async def send(self, message: Message) -> bool:
        """Send a message that is no body; False if the client is gone."""
        return await self._deliver(self._send(message))

    async def follow(self) -> bool:
        """Send all there is and all that comes, until the log has ended; False if the client went first."""
        log = self._log
        while not self._disconnected:
            try:
                data = log.read(self.offset, self._longest_message)
            except TrimmedError as error:
                logger.warning("a client is too slow for a stream longer than max_bytes: %s", error)
                return False
            if data:
                if not await self._deliver(self._send(_body(data))):
                    return False
                self._advance(len(data))
            elif log.outcome is not None:
                return True
            elif self._comment_due and sse.at_boundary(self.sent_tail()):
                await self._comment()
            elif not await self._follow_by_steps():
                return False
        return False

    async def _follow_by_steps(self) -> bool:
        """Wait while `step` sends what comes, up to where it takes the task; False if the client went."""
        self._following = True
        try:
            await self._more()
        finally:
            self._following = False
        rest, self._rest = self._rest, None
        return rest is None or await self._deliver(rest)

    def _wake(self) -> None:
        """Something changed."""
        if self._woken is not None and not self._due:
            self._due = True
            self._dispatcher.add(self)

    def _look_at_client(self) -> None:
        self._disconnected = self._client.disconnected
        self._wake()

    def step(self) -> None:
        """Send what came if the task waits for that, and wake it for everything else."""
        self._due = False
        woken, log = self._woken, self._log
        if woken is None or woken.done():
            return
        if self._following and log.start <= self.offset < log.end:
            data = log.read(self.offset, self._longest_message)
            self._sent, self._comment_due = True, False
            self._rest = rest = self.begin(self._send, _body(data))
            self._advance(len(data))
            if rest is None and self.offset == log.end and log.outcome is None and not self._disconnected:
                return
        woken.set_result(None)

    def _advance(self, length: int) -> None:
        self.offset += length
        if self._log.progressed is not None:
            self._log.progressed()

    async def wait_for(self, offset: int) -> bool:
        """Before the first byte: wait until the log reaches `offset` or ends; False if the client went."""
        while self._log.end < offset and self._log.outcome is None:
            if self._disconnected:
                return False
            if self._comment_due:
                await self._comment()
            else:
                await self._more()
        return True

    def sent_tail(self, length: int = _LONGEST_ENDING) -> bytes:
        """The last bytes of the log that this follower has sent."""
        return self._log.span(max(self._log.start, self.offset - length), self.offset)

    async def end(self) -> None:
        """End the response as the log ended, for every outcome but done.

        An incomplete stream never ends as if it were whole: where its format has no words for that, the
        final body is not sent, and the server breaks the connection.
        """
        assert self._log.outcome is not None
        ending = recognise(self._log.head.headers).ending(self._log.outcome, self.sent_tail(TAIL))
        if ending.clean:
            await self.finish(ending.body)

    async def finish(self, body: bytes = b"") -> None:
        """Send the final body, which ends the response cleanly."""
        await self._deliver(self._send({"type": "http.response.body", "body": body, "more_body": False}))

    def nudge(self, now: float) -> None:
        """The timer asks: has nothing moved for too long?"""
        if self._sent:
            self._sent = False
            self._silent_since = now
            return
        silence = now - self._silent_since
        if self._sending:
            self._longest_message = _SLOW_MESSAGE
            if self._stall_timeout is not None and silence >= self._stall_timeout and not self._cut_off:
                self._cut_off = True
                self._task.cancel()
        elif self._keepalive is not None and silence >= self._keepalive:
            self._comment_due = True
            self._wake()

    async def _comment(self) -> None:
        await self._deliver(self._send(_body(sse.COMMENT)))

    async def _deliver(self, sending: Awaitable[None]) -> bool:
        self._comment_due = False
        self._sent = self._sending = True
        try:
            await sending
        except OSError:  # what servers of ASGI HTTP version 2.4 raise once the client is gone
            return False
        except asyncio.CancelledError:
            if not self._cut_off or self._task.uncancel() > 0:
                raise
            logger.debug("%s: a client that took nothing for too long is cut off", self._log)
            return False
        finally:
            self._sending = False
        return not self._disconnected

    async def _more(self) -> None:
        self._woken = self._loop.create_future()
        await self._woken
        self._woken = None


def is_shutdown(error: asyncio.CancelledError) -> bool:
    """Whether the server cancels its calls in order to end, which uvicorn says: to be told so would make it
    write a traceback for each of them."""
    return "graceful shutdown" in str(error)


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
