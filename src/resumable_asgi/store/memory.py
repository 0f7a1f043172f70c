"""The embedded store: the logs of this process, in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..log import Log, new_stream_id
from ..outcome import Outcome
from . import Found, Slot


@dataclass(slots=True)
class _Kept:
    slot: Slot
    log: Log
    expires: float | None = None
    """When a sealed log is let go of, in seconds of the monotonic clock; None while it is live."""


@dataclass(slots=True)
class _Pointer:
    stream_id: str
    expires: float | None = None


class MemoryStore:
    """`memory://`. What has expired is never found, and goes when the store is next asked
    for something."""

    def __init__(self) -> None:
        self._worker = new_stream_id()
        self._logs: dict[str, _Kept] = {}
        self._active: dict[str, _Pointer] = {}
        self._next_sweep = 0.0

    def worker(self, slot: Slot) -> str:
        return self._worker

    def claim(self, slot: Slot, log: Log) -> None:
        self._expire()
        self._logs[log.id] = _Kept(slot, log)
        self._active[slot.name] = _Pointer(log.id)

    async def claimed(self, log: Log) -> None:
        return

    def overflow(self, log: Log) -> None:
        kept = self._logs.pop(log.id, None)
        if kept is not None:
            self._clear(kept, 0)

    def followed_elsewhere(self, log: Log) -> bool:
        return False

    def finish(
        self, log: Log, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None
    ) -> None:
        log.seal(outcome, detail)
        kept = self._logs.get(log.id)
        if kept is None or kept.expires is not None:
            return
        kept.expires = time.monotonic() + kept.slot.route.retention
        if outcome is Outcome.STOPPED:
            self._clear(kept, 0)

    async def delivered(self, slot: Slot, log: Log) -> None:
        kept = self._logs.get(log.id)
        if kept is not None:
            self._clear(kept, slot.route.replay_finished)

    async def find(self, slot: Slot, stream_id: str | None = None) -> Found | None:
        self._expire()
        if stream_id is None:
            pointer = self._active.get(slot.name)
            if pointer is None or _past(pointer.expires):
                return None
            stream_id = pointer.stream_id
        kept = self._logs.get(stream_id)
        if kept is None or kept.slot.name != slot.name or _past(kept.expires):
            return None
        return Found(kept.log, kept.log.end, kept.log.outcome)

    async def stop(self, slot: Slot, stream_id: str | None = None) -> bool:
        found = await self.find(slot)
        if found is None or found.outcome is not None or stream_id not in (None, found.log.id):
            return False
        self.finish(found.log, Outcome.STOPPED)
        return True

    async def start(self) -> None:
        return

    async def flush(self, timeout: float) -> None:
        return

    async def aclose(self) -> None:
        return

    def _clear(self, kept: _Kept, after: float) -> None:
        """Let the pointer to this log end `after` seconds from now, unless it ends before."""
        pointer = self._active.get(kept.slot.name)
        if pointer is None or pointer.stream_id != kept.log.id:
            return
        if after <= 0:
            del self._active[kept.slot.name]
        elif pointer.expires is None:
            pointer.expires = time.monotonic() + after

    def _expire(self) -> None:
        """Once a second at most: a sweep looks at every log."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + 1
        self._logs = {name: kept for name, kept in self._logs.items() if not _past(kept.expires)}
        self._active = {
            name: pointer
            for name, pointer in self._active.items()
            if pointer.stream_id in self._logs and not _past(pointer.expires)
        }


def _past(moment: float | None) -> bool:
    return moment is not None and moment <= time.monotonic()
