"""Logs that have ended while Redis is away, and wait for it in memory: the newest ones, up to a bound."""

from __future__ import annotations

from .copy import RedisCopy

_MOST_BYTES = 64 * 1024 * 1024
_MOST_DELIVERED = 4 * 1024 * 1024
"""For logs that a client received whole. Followers in other processes get the rest if Redis is back soon."""


class Backlog:
    """Shared by all writers of a process."""

    def __init__(self) -> None:
        self._waiting = _Queue(_MOST_BYTES)
        self._delivered = _Queue(_MOST_DELIVERED)

    def add(self, copy: RedisCopy, *, delivered: bool) -> None:
        queue = self._delivered if delivered else self._waiting
        if copy in queue.sizes:
            return
        self.discard(copy)
        for oldest in queue.add(copy):
            if not delivered:
                limit = _MOST_BYTES >> 20
                oldest.warn(f"it has ended, Redis is away, and more than {limit} MiB wait for it")
            oldest.writer.release(oldest)

    def discard(self, copy: RedisCopy) -> None:
        self._waiting.discard(copy)
        self._delivered.discard(copy)


class _Queue:
    def __init__(self, limit: int) -> None:
        self.sizes: dict[RedisCopy, int] = {}
        """Oldest first."""
        self._limit = limit
        self._bytes = 0

    def add(self, copy: RedisCopy) -> list[RedisCopy]:
        """The oldest copies, which must make room for it."""
        self.sizes[copy] = size = copy.log.end - copy.log.start
        self._bytes += size
        removed: list[RedisCopy] = []
        while self._bytes > self._limit:
            oldest = next(iter(self.sizes))
            self.discard(oldest)
            removed.append(oldest)
        return removed

    def discard(self, copy: RedisCopy) -> None:
        self._bytes -= self.sizes.pop(copy, 0)
