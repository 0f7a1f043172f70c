"""A run: the detached execution of the host app for one request, and the log that it appends to.

Until the response proves to be a stream that can be recorded, the app talks to the server as if nobody
stood between: it sees disconnects and back-pressure. From then on it writes into a log, and only a stop
tells it of a disconnect. `app_side` has the `receive` and `send` that the app is given; `start` has the
original client, which follows the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from starlette.types import Message

from ..outcome import Outcome
from ..request.receiver import Receiver
from .follower import Follower
from .log import Head, Log, new_stream_id, without_credentials
from .recording import Recording
from .run_states import RunEvent, RunState
from .signals import Signal
from .store import Copy, Store, StreamKey

logger: logging.Logger = logging.getLogger(__name__)

STOP_GRACE = 1.0
"""Seconds between telling an app that it is stopped and cancelling its task."""


class Run:
    """The state of one app call, and what its two sides share."""

    __slots__ = (
        "_grace",
        "_key",
        "_task",
        "changed",
        "client",
        "copy",
        "decided",
        "follower",
        "log",
        "recording",
        "start",
        "stopped_at",
        "store",
        "stream_key",
        "trailers",
    )

    def __init__(self, client: Receiver, *, store: Store, stream_key: StreamKey, key: str) -> None:
        self.client: Receiver = client
        self.store: Store = store
        self.stream_key: StreamKey = stream_key
        self._key = key
        self.recording: Recording = Recording()
        self.log: Log | None = None
        self.copy: Copy | None = None
        """The store's copy of the log, once there is one."""
        self.start: Message | None = None
        """The start of the app's response, recorded or not."""
        self.trailers: deque[Message] = deque()
        """The app's trailers that are not sent yet."""
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done as soon as the state is no longer undecided."""
        self.changed: Signal = Signal()
        """Notified when the state changes, the client sends or leaves, or a follower makes progress."""
        self.follower: Follower | None = None
        """The original client's, while it is there."""
        self._task: asyncio.Task[None] | None = None
        self.stopped_at: float = 0.0
        """When the app was told to stop, in seconds of the monotonic clock."""
        self._grace: asyncio.TimerHandle | None = None
        """Cancels the task of an app that goes on after it was stopped."""

    def __repr__(self) -> str:
        return f"<Run {self.stream_id} {self.state.name.lower()}>"

    @property
    def state(self) -> RunState:
        return self.recording.state

    @property
    def stream_id(self) -> str:
        return "-" if self.log is None else self.log.id

    def attach(self, task: asyncio.Task[None]) -> None:
        """Tell the run which task executes the app."""
        self._task = task
        task.add_done_callback(self._task_done)

    def pass_on(self, start: Message) -> None:
        """The app's response cannot be recorded."""
        self.start = start
        self._change(RunEvent.PASS)

    def record(self, start: Message) -> Log:
        """The app's response can be recorded: begin the log, and have the store keep a copy of it."""
        head = Head(
            worker=self.store.worker(self.stream_key),
            created=time.time_ns() // 1_000_000,
            status=start["status"],
            headers=without_credentials(start.get("headers", ())),
            key=self._key,
        )
        self.start = start
        self.log = log = Log(new_stream_id(), head)
        log.on_change = self._log_changed
        self._change(RunEvent.RECORD)
        self.copy = self.store.claim(self.stream_key, log)
        logger.debug("stream %s: started recording, key %r", log.id, self._key)
        return log

    def end(self, outcome: Outcome, detail: str = "") -> None:
        """The app has ended its response, or itself. Only the first ending counts."""
        ended = self.state is RunState.COMPLETE
        self._change(RunEvent.END)
        if self.copy is not None and not ended:
            self.copy.finish(outcome, detail, self._delivered)

    def interrupt(self) -> None:
        """The worker shuts down: seal the log interrupted, unless the run has ended."""
        if self.copy is not None and self.state is RunState.RECORDING:
            self.copy.finish(Outcome.INTERRUPTED, "shutdown")

    def end_grace(self) -> None:
        """The app needs no cancelling."""
        if self._grace is not None:
            self._grace.cancel()

    def _change(self, event: RunEvent) -> None:
        self.recording.change(event)
        if not self.decided.done():
            self.decided.set_result(None)
        self.changed.notify()

    def _delivered(self) -> bool:
        """Whether the original client is there and was handed all of the log."""
        follower, log = self.follower, self.log
        return (
            follower is not None and log is not None and follower.offset == log.end and self.client.attended
        )

    def _log_changed(self) -> None:
        log = self.log
        assert log is not None
        if self.state is RunState.RECORDING:
            self._stop()
        if log.outcome is not None:
            self._report(log)

    def _stop(self) -> None:
        assert self._task is not None
        self.stopped_at = time.monotonic()
        self._grace = asyncio.get_running_loop().call_later(STOP_GRACE, self._task.cancel)
        self._change(RunEvent.STOP)
        logger.debug("stream %s: stopping, the app is told", self.stream_id)

    def _report(self, log: Log) -> None:
        bad = log.outcome in (Outcome.INTERRUPTED, Outcome.LOST)
        level = logging.WARNING if bad else logging.DEBUG
        logger.log(level, "%s ended %s%s", str(log), log.outcome, log.detail and f": {log.detail}")

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self.end_grace()
        self.changed.notify()
