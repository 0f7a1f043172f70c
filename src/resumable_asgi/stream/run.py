"""A run: the detached execution of the host app for one request.

Until the response proves to be a stream that can be recorded, the app talks to the server as if nobody
stood between: real disconnects, real back-pressure. From then on it writes into a log, and hears of no
disconnect unless somebody stops it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextvars import copy_context

from starlette.types import ASGIApp, Message, Scope, Send

from ..formats import recognise
from ..formats.format import Rewriter
from ..outcome import Outcome
from ..request.receiver import Receiver
from . import recording
from .follower import STREAM_ID_HEADER, Follower, Followers, is_shutdown
from .log import Head, Log, new_stream_id, without_credentials
from .overflow import Overflow
from .recording import Recording, adopt_values, forget_frames
from .runs import STOP_GRACE, Runs, Signal
from .store import Slot, Store

logger = logging.getLogger(__name__)

_BURST = 64 * 1024
_STINT = 0.001
"""An app that never awaits gives way to its followers after that many bytes or seconds."""

_DISCONNECT: Message = {"type": "http.disconnect"}

_AFTER_THE_END = "Unexpected ASGI message '%s', after response already completed"
_STARTED_TWICE = "Expected ASGI message 'http.response.body', but got 'http.response.start'"


class Run:
    """One app call. `serve` is the original client's side of it, everything else the app's."""

    __slots__ = (
        "_app",
        "_attended",
        "_changed",
        "_client",
        "_complete",
        "_decided",
        "_follower",
        "_grace",
        "_heard",
        "_key",
        "_listening",
        "_max_bytes",
        "_overflow",
        "_recording",
        "_rewriter",
        "_scope",
        "_send_to_client",
        "_slot",
        "_start",
        "_stopping",
        "_store",
        "_stream_id",
        "_task",
        "_trailers",
        "_waiting",
        "_yielded",
        "_yielded_at",
        "log",
        "passed",
    )

    def __init__(
        self, app: ASGIApp, scope: Scope, client: Receiver, *, store: Store, slot: Slot, key: str
    ) -> None:
        self.log: Log | None = None
        self.passed: Message | None = None
        """The start of a response that is no stream to record."""
        self._app = app
        self._scope = scope
        self._client = client
        self._store = store
        self._slot = slot
        self._max_bytes = slot.route.max_bytes
        self._key = key
        self._recording = Recording()
        self._changed = Signal()
        self._decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._start: Message = {}
        self._stream_id = "-"
        self._rewriter: Rewriter | None = None
        self._follower: Follower | None = None
        self._trailers: deque[Message] = deque()
        self._listening = False
        self._waiting = 0
        """Calls of `receive` that wait for a message."""
        self._complete = False
        self._stopping = False
        self._heard = False
        """Whether the app was told of the stop, or is just being told."""
        self._grace: asyncio.TimerHandle | None = None
        """Ends an app that goes on after it was stopped."""
        self._overflow: Overflow | None = None
        self._attended = True
        self._yielded = 0.0
        self._yielded_at = 0

    # -- the original client's side

    async def serve(self, send: Send, *, runs: Runs, among: Followers, linger: bool) -> None:
        """Run the app, and follow its log for the client if there comes to be one.

        With `linger` the call does not return before the run is over, client or no client: for servers
        that end the process as soon as all calls have returned.
        """
        self._send_to_client = send
        context = copy_context()
        self._task = task = asyncio.create_task(self._execute(), context=context)
        task.add_done_callback(self._over)
        runs.add(self, task)
        try:
            if not await self._decided:
                await task
            elif await self._follow_or_leave(send, among):
                await asyncio.shield(task)  # background tasks and exceptions, as without us
        except asyncio.CancelledError as error:
            if self.log is None:
                task.cancel()
            self._leave(task)
            if self.log is None or not is_shutdown(error):
                raise
            return
        finally:
            self._client.close()
            if self.log is None:
                adopt_values(context)
        if linger:
            await asyncio.wait([task])
            await self._store.flush(STOP_GRACE)

    async def _follow_or_leave(self, send: Send, among: Followers) -> bool:
        seen = False
        try:
            seen = await self._follow(send, among)
        finally:
            if not seen:
                self._leave(self._task)
        return seen

    async def _follow(self, send: Send, among: Followers) -> bool:
        """Whether the client saw the ending that the app itself gave the response."""
        log = self.log
        assert log is not None
        start = {**self._start, "headers": [*self._start.get("headers", ()), _id_header(log)]}
        sized = any(name.lower() == b"content-length" for name, _ in log.head.headers)
        route = self._slot.route
        with Follower(
            log,
            0,
            send,
            self._client,
            keepalive=None if sized else route.keepalive,
            stall_timeout=route.stall_timeout,
            among=among,
        ) as follower:
            self._follower = follower
            await self._store.claimed(log)
            if not (await follower.send(start) and await follower.follow()):
                return False
            if log.outcome is Outcome.ERROR:
                return True
            if log.outcome is not Outcome.DONE:
                await follower.end()
                return False
            if self._client.attended:
                await self._store.delivered(self._slot, log)
            await follower.finish()
            if self._start.get("trailers"):
                await self._send_trailers(follower)
            return True

    async def _send_trailers(self, follower: Follower) -> None:
        while True:
            while self._trailers:
                message = self._trailers.popleft()
                await follower.send(message)
                if not message.get("more_trailers", False):
                    return
            if self._task.done():
                return
            await self._changed.wait()

    # -- the app's side

    def interrupt(self) -> None:
        """The worker shuts down."""
        if self.log is not None and not self._complete and not self._stopping:
            self._store.finish(self.log, Outcome.INTERRUPTED, "shutdown")

    async def _execute(self) -> None:
        recording.note_bodies()
        recording.current.set(self._recording)
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._finish(Outcome.INTERRUPTED, "cancelled")
            else:
                self._finish(Outcome.ERROR, type(error).__name__)
            if self._stopping:
                forget_frames(error)
            raise
        else:
            self._finish(Outcome.ERROR, "the app ended without its final body")
        finally:
            self._decide(recorded=False)
            if self._stopping:
                self._end_grace()
                await self._recording.close_bodies(self._stream_id)

    def _finish(self, outcome: Outcome, detail: str = "") -> None:
        """The app has ended its response, or itself; only the first ending counts."""
        if self.log is None or self._complete:
            return
        self._complete = True
        if self._rewriter is not None and not self.log.closed:
            held = self._rewriter.flush()
            if held:
                self.log.append(held)
        self._store.finish(self.log, outcome, detail, self._delivered)
        self._changed.notify()

    def _delivered(self) -> bool:
        """Whether the original client is there and was handed all of the log."""
        follower, log = self._follower, self.log
        return (
            follower is not None and log is not None and follower.offset == log.end and self._client.attended
        )

    def _over(self, task: asyncio.Task[None]) -> None:
        self._end_grace()
        self._changed.notify()
        if not self._attended:
            self._report(task)

    def _leave(self, task: asyncio.Task[None]) -> None:
        """Nobody will await the task any more, so what it raises is logged."""
        self._attended = False
        self._follower = None
        if task.done():
            self._report(task)

    def _report(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            level, when = (
                (logging.DEBUG, "when it was stopped")
                if self._stopping
                else (logging.ERROR, "after its client had gone")
            )
            logger.log(level, "stream %s: the app raised %s", self._stream_id, when, exc_info=error)

    async def _receive(self) -> Message:
        if not self._listening:
            self._listening = True
            self._client.watch(self._changed.notify)
        while True:
            message = self._client.take()
            if message is not None:
                return message
            if self._stopping or self._complete:
                self._heard = True
                return _DISCONNECT
            if self._client.disconnected:
                await self._let_start()
                if self.log is None or not self._client.body_complete:
                    return _DISCONNECT
            self._waiting += 1
            try:
                await self._changed.wait()
            finally:
                self._waiting -= 1

    async def _let_start(self) -> None:
        """Starlette asks for the disconnect in the very turn in which it is about to start the response. If
        the client went before, it would never start, and the answer that was waited for be lost."""
        for _ in range(3):
            if self.log is None:
                await asyncio.sleep(0)

    async def _send(self, message: Message) -> None:
        log = self.log
        if log is None:
            await self._send_undecided(message)
            return
        if message["type"] != "http.response.body":
            await self._send_other(message)
            return
        if self._stopping:
            await self._refuse(message)
            return
        if self._complete:
            raise RuntimeError(_AFTER_THE_END % message["type"])
        end = log.end
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = bytes(body)
        if self._rewriter is not None:
            body = self._rewrite(body, self._rewriter)
        if body:
            log.append(body)
        if log.end - log.start > self._max_bytes:
            if self._overflow is None:
                self._overflow = Overflow(log, self._max_bytes, store=self._store, changed=self._changed)
            if message.get("more_body", False):
                await self._overflow.make_room(self._follower)
        if not message.get("more_body", False):
            self._finish(Outcome.DONE)
            return
        # Let followers run, should the app itself never do so: but not once per chunk.
        behind = self._follower is None or self._follower.offset < end
        if behind and (time.monotonic() - self._yielded > _STINT or log.end - self._yielded_at > _BURST):
            await asyncio.sleep(0)
            self._yielded = time.monotonic()
            self._yielded_at = log.end

    async def _refuse(self, message: Message) -> None:
        """Take nothing more. An app that listens for the disconnect is left to end by it: after an error its
        generator would wait at a `yield`, its clean-up undone."""
        if not message.get("more_body", False):
            self._end_grace()  # what comes now is the background tasks'
        if not self._heard:
            raise OSError("the stream was stopped")
        if time.monotonic() - self._yielded > _STINT:
            await asyncio.sleep(0)
            self._yielded = time.monotonic()

    def _rewrite(self, body: bytes, rewriter: Rewriter) -> bytes:
        body = rewriter.feed(body)
        if rewriter.done:
            self._rewriter = None
        return body

    async def _send_other(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            raise RuntimeError(_AFTER_THE_END % message["type"] if self._complete else _STARTED_TWICE)
        if message["type"] == "http.response.trailers":
            self._trailers.append(message)
            self._changed.notify()
        elif not self._client.disconnected:
            await self._send_to_client(message)

    async def _send_undecided(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if "headers" in message:
                message = {**message, "headers": list(message["headers"])}
            if is_recordable(message):
                self._record(message)
                return
            self.passed = message
            self._decide(recorded=False)
        await self._send_to_client(message)

    def _decide(self, *, recorded: bool) -> None:
        if not self._decided.done():
            self._decided.set_result(recorded)

    def _record(self, start: Message) -> None:
        headers = without_credentials(start.get("headers", ()))
        head = Head(
            worker=self._store.worker(self._slot),
            created=time.time_ns() // 1_000_000,
            status=start["status"],
            headers=headers,
            key=self._key,
        )
        self._start = start
        self.log = log = Log(new_stream_id(), head)
        self._stream_id = log.id
        sized = any(name.lower() == b"content-length" for name, _ in headers)
        rewriter = recognise(headers).rewriter
        if rewriter is not None and not sized:
            self._rewriter = rewriter(log.id)
        log.on_close = self._closed
        log.on_seal = self._sealed
        self._recording.active = True
        self._yielded = time.monotonic()
        self._store.claim(self._slot, log)
        logger.debug("stream %s: started, key %r", log.id, self._key)
        self._decide(recorded=True)

    def _closed(self) -> None:
        """Before the app has ended: a stop, a shutdown, or this worker was taken for dead."""
        if not self._complete and not self._stopping:
            self._stopping = True
            self._heard = self._waiting > 0
            self._yielded = time.monotonic()  # the app is to go on to where it awaits something
            self._changed.notify()
            self._grace = asyncio.get_running_loop().call_later(STOP_GRACE, self._task.cancel)
            logger.debug("stream %s: the app is told to stop", self._stream_id)

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()

    def _sealed(self) -> None:
        log = self.log
        assert log is not None
        bad = log.outcome in (Outcome.INTERRUPTED, Outcome.LOST)
        level = logging.WARNING if bad else logging.DEBUG
        logger.log(level, "%s ended %s%s", str(log), log.outcome, log.detail and f": {log.detail}")


def is_recordable(start: Message) -> bool:
    """Whether a response is a 2xx `text/event-stream` with no content coding."""
    if not 200 <= start["status"] < 300 or start["status"] in (204, 205):
        return False
    event_stream = False
    for name, value in start.get("headers", ()):
        lower = name.lower()
        if lower == b"content-type":
            event_stream = value.split(b";", 1)[0].strip().lower() == b"text/event-stream"
        elif lower == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return False
    return event_stream


def _id_header(log: Log) -> tuple[bytes, bytes]:
    return (STREAM_ID_HEADER, log.id.encode())
