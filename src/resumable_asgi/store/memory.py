"""The store of `memory://`: the logs of this process, in its memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from ..outcome import Outcome
from ..stream.log import Log, new_stream_id
from ..stream.store import Found, StreamKey

_SPENT_BYTES = 4 * 1024 * 1024
"""Of logs that have ended and that no key finds any more. The newest ones are kept, for a client whose
connection broke when it had been handed the end, and which asks by position for what did not arrive."""
_LOG_SIZE = 2048
"""Bytes that a log takes in addition to its data."""


@dataclass(slots=True)
class _Pointer:
    stream_id: str
    expires: float | None = None


class _Timer(NamedTuple):
    """`moment` is in seconds of the monotonic clock, which need not be the loop's."""

    loop: asyncio.AbstractEventLoop
    moment: float
    handle: asyncio.TimerHandle


class MemoryStore:
    """`memory://`. It outlives event loops: what expires goes by a timer of the loop that used it last."""

    def __init__(self) -> None:
        self._worker = new_stream_id()
        self._logs: dict[str, MemoryCopy] = {}
        self._overflowing: dict[str, MemoryCopy] = {}
        """Live logs that have outgrown their limit: only a stop still reaches them."""
        self._active: dict[str, _Pointer] = {}
        self._spent: dict[str, int] = {}
        """The sizes of logs that have ended and that no key finds, oldest first."""
        self._spent_bytes = 0
        self._expiries: list[tuple[float, str]] = []
        """A heap: when to look at which log, or at the pointer to it."""
        self._timer: _Timer | None = None

    def worker(self, key: StreamKey) -> str:
        return self._worker

    def claim(self, key: StreamKey, log: Log) -> MemoryCopy:
        self._expire()
        before = self._active.get(key.name)
        self._logs[log.id] = copy = MemoryCopy(key, log, self)
        self._active[key.name] = _Pointer(log.id)
        if before is not None:
            self._spend(before.stream_id)
        return copy

    async def find(self, key: StreamKey, stream_id: str | None = None) -> Found | None:
        self._expire()
        if stream_id is None:
            pointer = self._active.get(key.name)
            if pointer is None:
                return None
            stream_id = pointer.stream_id
        copy = self._logs.get(stream_id)
        if copy is None or copy.key.name != key.name:
            return None
        return Found.here(copy.log, copy.delivered)

    async def stop(self, key: StreamKey, stream_id: str | None = None) -> bool:
        if stream_id is None:
            pointer = self._active.get(key.name)
            stream_id = "" if pointer is None else pointer.stream_id
        copy = self._logs.get(stream_id) or self._overflowing.get(stream_id)
        if copy is None or copy.key.name != key.name or copy.log.outcome is not None:
            return False
        copy.finish(Outcome.STOPPED)
        return True

    async def start(self) -> None:
        return

    async def flush(self, timeout: float) -> None:
        return

    async def aclose(self) -> None:
        self._cancel_timer()

    # -- what the copies ask for

    def overflow(self, copy: MemoryCopy) -> None:
        if self._logs.pop(copy.log.id, None) is not None:
            self._overflowing[copy.log.id] = copy
            self.clear(copy, 0)

    def finished(self, copy: MemoryCopy) -> None:
        self._overflowing.pop(copy.log.id, None)
        if copy.log.id not in self._logs or copy.expires is not None:
            return
        copy.expires = time.monotonic() + copy.key.route.retention
        self._expire_at(copy.expires, copy.log.id)
        if copy.log.outcome is Outcome.STOPPED:
            self.clear(copy, 0)
        self._spend(copy.log.id)

    def delivered(self, copy: MemoryCopy) -> None:
        if copy.log.id in self._logs:
            self.clear(copy, copy.key.route.replay_finished)

    def clear(self, copy: MemoryCopy, after: float) -> None:
        """Let the pointer to this log end `after` seconds from now, unless it ends before."""
        pointer = self._active.get(copy.key.name)
        if pointer is None or pointer.stream_id != copy.log.id:
            return
        if after <= 0:
            del self._active[copy.key.name]
            self._spend(copy.log.id)
        elif pointer.expires is None:
            pointer.expires = time.monotonic() + after
            self._expire_at(pointer.expires, copy.log.id)

    # -- what goes, and when

    def _spend(self, stream_id: str) -> None:
        """Keep this log as long as there is room, if it has ended and its key does not find it."""
        copy = self._logs.get(stream_id)
        if copy is None or copy.log.outcome is None or stream_id in self._spent:
            return
        pointer = self._active.get(copy.key.name)
        if pointer is not None and pointer.stream_id == stream_id:
            return
        self._spent[stream_id] = copy.size
        self._spent_bytes += copy.size
        while self._spent_bytes > _SPENT_BYTES:
            self._forget(next(iter(self._spent)))

    def _forget(self, stream_id: str) -> None:
        copy = self._logs.pop(stream_id)
        self._spent_bytes -= self._spent.pop(stream_id, 0)
        pointer = self._active.get(copy.key.name)
        if pointer is not None and pointer.stream_id == stream_id:
            del self._active[copy.key.name]

    def _expire_at(self, moment: float, stream_id: str) -> None:
        heappush(self._expiries, (moment, stream_id))
        self._expire()

    def _expire(self) -> None:
        """Let go of what has expired, and have a timer in the running loop for what has not."""
        now = time.monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            _, stream_id = heappop(self._expiries)
            copy = self._logs.get(stream_id)
            if copy is None:
                continue
            if _past(copy.expires, now):
                self._forget(stream_id)
                continue
            pointer = self._active.get(copy.key.name)
            if pointer is not None and pointer.stream_id == stream_id and _past(pointer.expires, now):
                self.clear(copy, 0)
        if len(self._expiries) > 2 * len(self._logs) + 100:
            self._expiries = [expiry for expiry in self._expiries if expiry[1] in self._logs]
            heapify(self._expiries)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        moment = self._expiries[0][0] if self._expiries else None
        if self._timer is not None and self._timer.loop is loop and self._timer.moment == moment:
            return
        self._cancel_timer()
        if moment is not None:
            handle = loop.call_at(loop.time() + moment - now, self._on_timer)
            self._timer = _Timer(loop, moment, handle)

    def _on_timer(self) -> None:
        self._timer = None
        self._expire()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.loop is asyncio.get_running_loop():  # that of another is over
            timer.handle.cancel()


class MemoryCopy:
    """A log that the store keeps. There is nothing to wait for: the log itself is what others find."""

    __slots__ = ("_store", "expires", "key", "log")

    def __init__(self, key: StreamKey, log: Log, store: MemoryStore) -> None:
        self.key: StreamKey = key
        self.log: Log = log
        self.expires: float | None = None
        """When a sealed log is forgotten, in seconds of the monotonic clock; None while it is live."""
        self._store = store

    @property
    def size(self) -> int:
        return self.log.end - self.log.start + _LOG_SIZE

    @property
    def followed_elsewhere(self) -> bool:
        return False

    async def claimed(self) -> None:
        return

    def overflow(self) -> None:
        self._store.overflow(self)

    def finish(self, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None) -> None:
        self.log.seal(outcome, detail)
        self._store.finished(self)

    async def delivered(self) -> None:
        self._store.delivered(self)


def _past(moment: float | None, now: float) -> bool:
    return moment is not None and moment <= now
