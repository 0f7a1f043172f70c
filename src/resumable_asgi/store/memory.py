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
from ..stream.store import Found, Slot

_SPENT_BYTES = 4 * 1024 * 1024
"""Of logs that have ended and that no key finds any more. The newest ones are kept, for a client whose
connection broke when it had been handed the end, and which asks by position for what did not arrive."""
_LOG_SIZE = 2048
"""Bytes that a log takes in addition to its data."""


@dataclass(slots=True)
class _Kept:
    slot: Slot
    log: Log
    expires: float | None = None
    """When a sealed log is let go of, in seconds of the monotonic clock; None while it is live."""

    @property
    def size(self) -> int:
        return self.log.end - self.log.start + _LOG_SIZE


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
        self._logs: dict[str, _Kept] = {}
        self._overflowing: dict[str, _Kept] = {}
        """Live logs that have outgrown their limit: only a stop still reaches them."""
        self._active: dict[str, _Pointer] = {}
        self._spent: dict[str, int] = {}
        """The sizes of logs that have ended and that no key finds, oldest first."""
        self._spent_bytes = 0
        self._expiries: list[tuple[float, str]] = []
        """A heap: when to look at which log, or at the pointer to it."""
        self._timer: _Timer | None = None

    def worker(self, slot: Slot) -> str:
        return self._worker

    def claim(self, slot: Slot, log: Log) -> None:
        self._expire()
        before = self._active.get(slot.name)
        self._logs[log.id] = _Kept(slot, log)
        self._active[slot.name] = _Pointer(log.id)
        if before is not None:
            self._spend(before.stream_id)

    async def claimed(self, log: Log) -> None:
        return

    def overflow(self, log: Log) -> None:
        kept = self._logs.pop(log.id, None)
        if kept is not None:
            self._overflowing[log.id] = kept
            self._clear(kept, 0)

    def followed_elsewhere(self, log: Log) -> bool:
        return False

    def finish(
        self, log: Log, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None
    ) -> None:
        log.seal(outcome, detail)
        self._overflowing.pop(log.id, None)
        kept = self._logs.get(log.id)
        if kept is None or kept.expires is not None:
            return
        kept.expires = time.monotonic() + kept.slot.route.retention
        self._expire_at(kept.expires, log.id)
        if outcome is Outcome.STOPPED:
            self._clear(kept, 0)
        self._spend(log.id)

    async def delivered(self, slot: Slot, log: Log) -> None:
        kept = self._logs.get(log.id)
        if kept is not None:
            self._clear(kept, slot.route.replay_finished)

    async def find(self, slot: Slot, stream_id: str | None = None) -> Found | None:
        self._expire()
        if stream_id is None:
            pointer = self._active.get(slot.name)
            if pointer is None:
                return None
            stream_id = pointer.stream_id
        kept = self._logs.get(stream_id)
        if kept is None or kept.slot.name != slot.name:
            return None
        return Found.here(kept.log)

    async def stop(self, slot: Slot, stream_id: str | None = None) -> bool:
        if stream_id is None:
            pointer = self._active.get(slot.name)
            stream_id = "" if pointer is None else pointer.stream_id
        kept = self._logs.get(stream_id) or self._overflowing.get(stream_id)
        if kept is None or kept.slot.name != slot.name or kept.log.outcome is not None:
            return False
        self.finish(kept.log, Outcome.STOPPED)
        return True

    async def start(self) -> None:
        return

    async def flush(self, timeout: float) -> None:
        return

    async def aclose(self) -> None:
        self._cancel_timer()

    def _clear(self, kept: _Kept, after: float) -> None:
        """Let the pointer to this log end `after` seconds from now, unless it ends before."""
        pointer = self._active.get(kept.slot.name)
        if pointer is None or pointer.stream_id != kept.log.id:
            return
        if after <= 0:
            del self._active[kept.slot.name]
            self._spend(kept.log.id)
        elif pointer.expires is None:
            pointer.expires = time.monotonic() + after
            self._expire_at(pointer.expires, kept.log.id)

    # -- what goes, and when

    def _spend(self, stream_id: str) -> None:
        """Keep this log as long as there is room, if it has ended and its key does not find it."""
        kept = self._logs.get(stream_id)
        if kept is None or kept.log.outcome is None or stream_id in self._spent:
            return
        pointer = self._active.get(kept.slot.name)
        if pointer is not None and pointer.stream_id == stream_id:
            return
        self._spent[stream_id] = kept.size
        self._spent_bytes += kept.size
        while self._spent_bytes > _SPENT_BYTES:
            self._forget(next(iter(self._spent)))

    def _forget(self, stream_id: str) -> None:
        kept = self._logs.pop(stream_id)
        self._spent_bytes -= self._spent.pop(stream_id, 0)
        pointer = self._active.get(kept.slot.name)
        if pointer is not None and pointer.stream_id == stream_id:
            del self._active[kept.slot.name]

    def _expire_at(self, moment: float, stream_id: str) -> None:
        heappush(self._expiries, (moment, stream_id))
        self._expire()

    def _expire(self) -> None:
        """Let go of what has expired, and have a timer in the running loop for what has not."""
        now = time.monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            _, stream_id = heappop(self._expiries)
            kept = self._logs.get(stream_id)
            if kept is None:
                continue
            if _past(kept.expires, now):
                self._forget(stream_id)
                continue
            pointer = self._active.get(kept.slot.name)
            if pointer is not None and pointer.stream_id == stream_id and _past(pointer.expires, now):
                self._clear(kept, 0)
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


def _past(moment: float | None, now: float) -> bool:
    return moment is not None and moment <= now
