"""Logs that have ended while Redis is away, and wait for it in memory: the newest ones, up to a bound."""

from __future__ import annotations

from .record import Record

_MOST_BYTES = 64 * 1024 * 1024


class Backlog:
    """Shared by all writers of a process."""

    def __init__(self) -> None:
        self._sizes: dict[Record, int] = {}
        """Oldest first."""
        self._bytes = 0

    def add(self, record: Record) -> None:
        if record in self._sizes:
            return
        size = record.log.end - record.log.start
        self._sizes[record] = size
        self._bytes += size
        while self._bytes > _MOST_BYTES:
            oldest = next(iter(self._sizes))
            oldest.warn(f"it has ended, and more than {_MOST_BYTES >> 20} MiB wait for Redis")
            oldest.keeper.release(oldest)

    def discard(self, record: Record) -> None:
        self._bytes -= self._sizes.pop(record, 0)
