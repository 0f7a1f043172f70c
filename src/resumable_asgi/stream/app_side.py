"""The app's side of a run: the `receive` and `send` that the app is given."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Scope, Send

from ..formats import recognise
from ..formats.format import Rewriter
from ..outcome import Outcome
from . import recording
from .overflow import Overflow
from .recording import forget_frames
from .run import Run
from .run_states import RunState

_BURST = 64 * 1024
_STINT = 0.001
"""An app that never awaits gives way to its followers after that many bytes or seconds."""

_RECORDING = RunState.RECORDING  # for each chunk: in Python 3.11 an enum's attribute takes 60 ns

_DISCONNECT: Message = {"type": "http.disconnect"}

_AFTER_THE_END = "Unexpected ASGI message '%s', after response already completed"
_STARTED_TWICE = "Expected ASGI message 'http.response.body', but got 'http.response.start'"


class AppSide:
    """Calls the app; takes its messages into the log, or passes them on."""

    __slots__ = (
        "_client",
        "_listening",
        "_max_bytes",
        "_overflow",
        "_recording",
        "_rewriter",
        "_run",
        "_send_to_client",
        "_told",
        "_waiting",
        "_yielded",
        "_yielded_at",
    )

    def __init__(self, run: Run, send_to_client: Send) -> None:
        self._run = run
        self._client = run.client
        self._recording = run.recording
        self._max_bytes = run.stream_key.route.max_bytes
        self._send_to_client = send_to_client
        self._rewriter: Rewriter | None = None
        self._overflow: Overflow | None = None
        self._listening = False
        self._waiting = 0
        """Calls of `receive` that wait for a message."""
        self._told = False
        """Whether a call of `receive` told the app that it is stopped."""
        self._yielded = 0.0
        """When the app gave way to its followers, and the log's end at that time."""
        self._yielded_at = 0

    async def call(self, app: ASGIApp, scope: Scope) -> None:
        """Run the app to its end; raises what it raises."""
        recording.note_bodies()
        recording.current.set(self._recording)
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._end(Outcome.INTERRUPTED, "cancelled")
            else:
                self._end(Outcome.ERROR, type(error).__name__)
            if self._recording.state is RunState.STOPPING:
                forget_frames(error)
            raise
        else:
            self._end(Outcome.ERROR, "the app ended without its final body")
        finally:
            if self._recording.state is RunState.STOPPING:
                self._run.end_grace()
                await self._recording.close_bodies(self._run.stream_id)

    def _end(self, outcome: Outcome, detail: str = "") -> None:
        log = self._run.log
        if log is not None and self._rewriter is not None and self._recording.state is _RECORDING:
            held = self._rewriter.flush()
            if held:
                log.append(held)
        self._run.end(outcome, detail)

    # -- receive

    async def receive(self) -> Message:
        run, client = self._run, self._client
        if not self._listening:
            self._listening = True
            client.watch(run.changed.notify)
        while True:
            message = client.take()
            if message is not None:
                return message
            if run.state in (RunState.STOPPING, RunState.COMPLETE):
                self._told = True
                return _DISCONNECT
            if client.disconnected:
                await self._let_start()
                if run.log is None or not client.body_complete:
                    return _DISCONNECT
            self._waiting += 1
            try:
                await run.changed.wait()
            finally:
                self._waiting -= 1
                self._told = self._told or self._recording.state is RunState.STOPPING

    async def _let_start(self) -> None:
        """Starlette asks for the disconnect in the turn in which it is about to start the response. If the
        client left before that, the response would never start, and nothing would be recorded."""
        for _ in range(3):
            if self._run.state is RunState.UNDECIDED:
                await asyncio.sleep(0)

    # -- send

    async def send(self, message: Message) -> None:
        log = self._run.log
        if log is None or self._recording.state is not _RECORDING or message["type"] != "http.response.body":
            await self._send_other(message)
            return
        end = log.end
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = bytes(body)
        if self._rewriter is not None:
            body = self._rewrite(body, self._rewriter)
        if body:
            log.append(body)
        if log.end - log.start > self._max_bytes:
            await self._overflow_log(more_body=message.get("more_body", False))
        if not message.get("more_body", False):
            self._end(Outcome.DONE)
            return
        # Let followers run even if the app never awaits anything itself, but not after each chunk.
        follower = self._run.follower
        behind = follower is None or follower.offset < end
        if behind and (time.monotonic() - self._yielded > _STINT or log.end - self._yielded_at > _BURST):
            await asyncio.sleep(0)
            self._note_yield()

    async def _send_other(self, message: Message) -> None:
        """What is no body of a response that is being recorded."""
        state, kind = self._recording.state, message["type"]
        if state is RunState.UNDECIDED and kind == "http.response.start":
            await self._start(message)
        elif state in (RunState.UNDECIDED, RunState.PASSED):
            await self._send_to_client(message)
        elif kind == "http.response.start":
            raise RuntimeError(_AFTER_THE_END % kind if state is RunState.COMPLETE else _STARTED_TWICE)
        elif kind == "http.response.trailers":
            self._run.trailers.append(message)
            self._run.changed.notify()
        elif kind != "http.response.body":
            if not self._client.disconnected:
                await self._send_to_client(message)
        elif state is RunState.STOPPING:
            await self._refuse(message)
        else:
            raise RuntimeError(_AFTER_THE_END % kind)

    async def _start(self, message: Message) -> None:
        if "headers" in message:
            message = {**message, "headers": list(message["headers"])}
        if not is_recordable(message):
            self._run.pass_on(message)
            await self._send_to_client(message)
            return
        log = self._run.record(message)
        rewriter = recognise(log.head.headers).rewriter
        if rewriter is not None and not log.head.sized:
            self._rewriter = rewriter(log.id)
        self._note_yield()

    def _rewrite(self, body: bytes, rewriter: Rewriter) -> bytes:
        body = rewriter.feed(body)
        if rewriter.done:
            self._rewriter = None
        return body

    async def _overflow_log(self, *, more_body: bool) -> None:
        run = self._run
        assert run.log is not None
        assert run.copy is not None
        if self._overflow is None:
            self._overflow = Overflow(run.log, run.copy, self._max_bytes, changed=run.changed)
        if more_body:
            await self._overflow.make_room(run.follower)

    async def _refuse(self, message: Message) -> None:
        """Take no more bytes. An app that listens for the disconnect ends by it: an error would leave its
        generator waiting at a `yield`, without its clean-up."""
        if not message.get("more_body", False):
            self._run.end_grace()  # what follows are the app's background tasks
        if not (self._told or self._waiting):
            raise OSError("the stream was stopped")
        # After the stop let the app go on to where it awaits something, before it gives way.
        if time.monotonic() - max(self._yielded, self._run.stopped_at) > _STINT:
            await asyncio.sleep(0)
            self._note_yield()

    def _note_yield(self) -> None:
        self._yielded = time.monotonic()
        self._yielded_at = 0 if self._run.log is None else self._run.log.end


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
