"""A follower: one client connection reading a log, from an offset to the end.

It keeps an offset and no buffer: pending chunks are sent as one body message, and a slow client is simply at
an earlier offset. The original client is a follower like any other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable

from starlette.types import Message, Send

from ..formats import recognise, sse
from ..formats.format import TAIL
from ..request.receiver import Receiver
from .eager import EagerSender, outside_tasks
from .log import Log, TrimmedError

logger: logging.Logger = logging.getLogger(__name__)

STREAM_ID_HEADER = b"resumable-stream-id"

_LONGEST_MESSAGE = 192 * 1024
"""Bytes per body message; more would only fill the server's buffer while a slow client reads."""

_SLOW_MESSAGE = 16 * 1024
"""The same once a send has waited: a slow client shows that it reads only when a send returns."""

_TOGETHER = 8
"""Followers that are sent to in one go, which costs less CPU than each right after its chunk was made. More
would keep the first ones waiting."""

_LONGEST_ENDING = 16
"""Bytes that are enough to see that the last event was complete."""


class Followers:
    """What all followers of an event loop share: one timer for those that are silent or stalled, and one
    list of those that have something to send."""

    def __init__(self, period: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: list[Follower] = []
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

    def send_soon(self, follower: Follower) -> None:
        """Have a follower send in the next turn of the event loop, or at once if many are ready."""
        self._ready.append(follower)
        if len(self._ready) == 1:
            self._loop.call_soon(self._send)
        elif len(self._ready) >= _TOGETHER:
            outside_tasks(self._send)

    def _send(self) -> None:
        followers, self._ready = self._ready, []
        now = time.monotonic()
        for follower in followers:
            follower.step(now)

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(self._period, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        for follower in self._followers:
            follower.check_for_silence(now)
        self._schedule()


class Follower:
    """Sends a log from `offset` on, the end of what has been handed to the server. Made in the task that
    follows.

    `keepalive` is the silence in seconds after which a comment is sent, `stall_timeout` the seconds that a
    send may wait for a client that reads nothing; None for never.
    """

    __slots__ = (
        "_client",
        "_comment_due",
        "_cut_off",
        "_disconnected",
        "_followers",
        "_following",
        "_keepalive",
        "_log",
        "_longest_message",
        "_loop",
        "_rest",
        "_send",
        "_sender",
        "_sending",
        "_sent_at",
        "_stall_timeout",
        "_stepping",
        "_task",
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
        followers: Followers,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = task.get_loop()
        self.offset: int = offset
        self._log = log
        self._send = send
        self._sender = EagerSender(send)
        self._client = client
        self._keepalive = keepalive
        self._stall_timeout = stall_timeout
        self._followers = followers
        self._disconnected = client.disconnected
        self._woken: asyncio.Future[None] | None = None
        self._following = False
        """Whether the task waits in `follow`, where `step` may send for it."""
        self._stepping = False
        """Whether `step` runs or will run soon."""
        self._rest: Awaitable[None] | None = None
        """Of a send that `step` began."""
        self._sent_at = time.monotonic()
        """When something was last sent, in seconds of the monotonic clock. Not the loop's, which uvloop reads
        once per turn, in milliseconds."""
        self._comment_due = False
        self._sending = False
        """Whether the task awaits a send."""
        self._cut_off = False
        """Whether the client was cut off because it read nothing for too long."""
        self._longest_message = _LONGEST_MESSAGE

    def __enter__(self) -> Follower:
        self._log.readers.add(self)
        self._log.watch(self._wake)
        self._client.watch(self._look_at_client)
        if self._keepalive is not None or self._stall_timeout is not None:
            self._followers.add(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._log.readers.discard(self)
        self._log.unwatch(self._wake)
        self._followers.discard(self)

    async def send(self, message: Message) -> bool:
        """Send a message other than a body; False if the client is gone."""
        return await self._deliver(self._send(message))

    async def follow(self) -> bool:
        """Send the log until it has ended; False if the client left first."""
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
        """Wait while `step` sends each chunk, until the task itself is needed; False if the client left."""
        self._following = True
        try:
            await self._more()
        finally:
            self._following = False
        rest, self._rest = self._rest, None
        return rest is None or await self._deliver(rest)

    def _wake(self) -> None:
        """The log or the client has changed."""
        if self._woken is None or self._stepping:
            return
        self._stepping = True
        self._followers.send_soon(self)

    def _look_at_client(self) -> None:
        self._disconnected = self._client.disconnected
        self._wake()

    def step(self, now: float) -> None:
        """Send new bytes if the task waits for them, and wake it for everything else. Does not raise."""
        woken, log = self._woken, self._log
        if woken is not None and not woken.done():
            up_to_date = False
            if self._following and log.start <= self.offset < log.end:
                data = log.read(self.offset, self._longest_message)
                self._sent_at, self._comment_due = now, False
                self._rest = rest = self._sender.begin(_body(data))
                self._advance(len(data))
                up_to_date = (
                    rest is None and self.offset == log.end and log.outcome is None and not self._disconnected
                )
            if not up_to_date and not woken.done():
                woken.set_result(None)
        self._stepping = False

    def _advance(self, length: int) -> None:
        self.offset += length
        if self._log.progressed is not None:
            self._log.progressed()

    async def wait_for(self, offset: int) -> bool:
        """Before the first byte: wait until the log reaches `offset` or ends; False if the client left."""
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

        An incomplete stream never ends as if it were whole: if its format cannot express that, the final
        body is not sent, and the server breaks the connection.
        """
        assert self._log.outcome is not None
        ending = recognise(self._log.head.headers).ending(self._log.outcome, self.sent_tail(TAIL))
        if ending.clean:
            await self.finish(ending.body)

    async def finish(self, body: bytes = b"") -> None:
        """Send the final body, which ends the response cleanly."""
        await self._deliver(self._send({"type": "http.response.body", "body": body, "more_body": False}))

    def check_for_silence(self, now: float) -> None:
        """Called by the timer: send a comment, or cut the client off, if nothing was sent for too long."""
        silence = now - self._sent_at
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
        self._sent_at = time.monotonic()
        self._sending = True
        try:
            await sending
        except OSError:  # raised by servers of ASGI HTTP version 2.4 once the client is gone
            return False
        except asyncio.CancelledError:
            if not self._cut_off or self._task.uncancel() > 0:
                raise
            logger.debug("%s: a client that read nothing for too long is cut off", self._log)
            return False
        finally:
            self._sending = False
        return not self._disconnected

    async def _more(self) -> None:
        self._woken = self._loop.create_future()
        await self._woken
        self._woken = None


def is_shutdown(error: asyncio.CancelledError) -> bool:
    """Whether the server cancels its calls because it shuts down. Uvicorn says so in the message, and would
    log a traceback for each call that raises it."""
    return "graceful shutdown" in str(error)


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
