"""A run whose log has outgrown `max_bytes`: it continues as long as clients follow it."""

from __future__ import annotations

import asyncio
import logging

from ..outcome import Outcome
from .follower import Follower
from .log import Log
from .signals import Signal
from .store import Copy

logger: logging.Logger = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that the run waits for followers other than the original client to make progress, and between two
checks whether it has followers."""


class Overflow:
    """Made when the log has outgrown its limit."""

    __slots__ = ("_alone", "_changed", "_copy", "_log", "_loop", "_max_bytes")

    def __init__(self, log: Log, copy: Copy, max_bytes: int, *, changed: Signal) -> None:
        """`changed` is notified whenever a reader has made progress or the log was closed."""
        self._log = log
        self._copy = copy
        self._max_bytes = max_bytes
        self._changed = changed
        self._alone = False
        """Whether nobody followed at the last check."""
        self._loop = asyncio.get_running_loop()
        logger.warning("%s is longer than max_bytes=%d: it cannot be resumed any more", str(log), max_bytes)
        copy.overflow()
        log.progressed = changed.notify
        self._loop.call_later(_PATIENCE, self._check)

    async def make_room(self, original: Follower | None) -> None:
        """Drop the bytes that all followers have; wait for the original client if there are too many left."""
        log = self._log
        log.trim()
        while log.end - log.start > self._max_bytes and not log.closed:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._changed.wait()
            except TimeoutError:
                for reader in tuple(log.readers):
                    if isinstance(reader, Follower) and reader is not original:
                        log.readers.discard(reader)  # its next read cuts it off
            log.trim()

    def _check(self) -> None:
        """End the run if nobody follows. No follower can join any more, but one that joined just before may
        not be known yet: check twice."""
        log = self._log
        if log.closed:
            return
        here = any(isinstance(reader, Follower) for reader in log.readers)
        alone = not here and not self._copy.followed_elsewhere
        if alone and self._alone:
            self._copy.finish(Outcome.INTERRUPTED, "nobody follows it, and nobody can resume it")
            return
        self._alone = alone
        self._loop.call_later(_PATIENCE, self._check)
