"""One log that another process writes, filled from publications and from Redis.

Publications carry the data but may get lost, so Redis's log is the truth: the offset of all that comes is
checked, and what is missing is read there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from ..log import Log
from ..outcome import Outcome
from .keys import SEAL_ID, SEAL_MESSAGE
from .resp import Reply, ReplyError, pack
from .wire import Link, WireLostError

logger = logging.getLogger(__name__)

_PAGE = 128 * 1024
"""Bytes of a page. A follower that keeps up sends it as it is, without a copy."""
_PAGES_AHEAD = 4
"""Pages that Redis reads on while one is sent on; they are asked for when half of them have come."""
_OPEN_COUNT = 64
"""Entries of a page of which the end is not known."""
_PAUSE = 0.5
"""Seconds until a log that could not be read is read again."""


class CorruptLogError(Exception):
    """Redis holds something that is not a whole log, or that a newer version wrote."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` of a log that is held whole; `patience` in seconds with one that cannot be read."""

    max_bytes: int
    patience: float


class Tail:
    """One followed log. `slot` is the name of its slot, `key` that of the log in Redis and of its channel;
    `known` is how long it is known to be."""

    def __init__(self, slot: str, log: Log, key: bytes, known: int, *, reader: Link, limits: Limits) -> None:
        self.slot = slot
        self.log = log
        self.key = key
        self.reading: asyncio.Task[None] | None = None
        self.quiet_rounds = 0
        """Rounds of the tailer's watch without news."""
        self.idle_rounds = 0
        """Such rounds without a reader."""
        self.missing_since: float | None = None
        """Since when the log has been gone from Redis."""
        self.unreadable_since: float | None = None
        self._reader = reader
        self._limits = limits
        self._sealed = False
        """Whether the seal was published: from then on only what stands in the log counts."""
        self._known = known
        self._more = False
        """Whether there may be something that was not read yet."""

    def take(self, end: int, data: bytes) -> bool:
        """Add the bytes of an entry that ends at `end`; False if there is a gap before it."""
        log = self.log
        if log.outcome is not None:
            return True
        missing = end - log.end
        if missing > len(data):
            return False
        if missing > 0:
            log.append(data if missing == len(data) else data[-missing:])
            if log.end > self._limits.max_bytes:
                # It goes on for those attached; one that is far behind cannot be waited for.
                log.trim(log.end - 2 * self._limits.max_bytes)
        return True

    def published(self, payload: bytes) -> None:
        """Take a publication: `<end offset>:<bytes>`."""
        self.quiet_rounds = 0
        if self._sealed:
            return  # of a writer that was refused, and does not know it yet
        end, _, data = payload.partition(b":")
        self._sealed = payload == SEAL_MESSAGE
        if self._sealed or not end.isdigit():
            self.read()
        elif not self.take(int(end), data):
            self.read(int(end))

    def read(self, known: int = 0) -> None:
        """Read the log (again), known to be `known` bytes long, until there is nothing more in it."""
        self._known = max(self._known, known)
        self._more = True
        if self.reading is None or self.reading.done():
            self.reading = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        while self._more and self.log.outcome is None:
            try:
                await self._read_on()
            except WireLostError:
                if self.given_up():
                    return
                self._more = True
                await asyncio.sleep(_PAUSE)
            except (CorruptLogError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
                logger.warning("stream %s: Redis holds no whole log of it (%s)", self.log.id, error)
                self.log.seal(Outcome.LOST, "corrupt")
        self.quiet_rounds = 0

    async def _read_on(self) -> None:
        """Read to the end of the log as it is now. An entry's id is the offset after it, so that pages can be
        asked for by offsets, some at once; the last one is open, for what has come since and for the seal."""
        asked, last_asked = self.log.end, False
        pages: deque[asyncio.Future[Reply]] = deque()
        entries: Reply = []
        while pages or not last_asked:
            if not last_asked and len(pages) <= _PAGES_AHEAD // 2:
                ranges: list[tuple[bytes, ...]] = []
                while not last_asked and len(pages) + len(ranges) < _PAGES_AHEAD:
                    if self._known - asked > _PAGE:
                        ranges.append((b"(%d-1" % asked, b"%d-1" % (asked + _PAGE)))
                        asked += _PAGE
                    else:
                        ranges.append((b"(%d-1" % asked, b"+", b"COUNT", b"%d" % _OPEN_COUNT))
                        last_asked, self._more = True, False
                pages += await self._reader.ask(*(pack(b"XRANGE", self.key, *each) for each in ranges))
            entries = await pages.popleft()
            if isinstance(entries, ReplyError):
                raise WireLostError(str(entries))
            self.unreadable_since = None
            self._apply(entries)
            if not entries and (pages or not last_asked):  # gone, or an entry longer than a page
                self._known, self._more = self.log.end, True
                return
            if pages:
                await asyncio.sleep(0)  # followers send it on
        self._more = self._more or len(entries) == _OPEN_COUNT

    def _apply(self, entries: list[Reply]) -> None:
        """Add entries that were read."""
        seal = entries[-1] if entries and entries[-1][0] == SEAL_ID else None
        data = entries if seal is None else entries[:-1]
        if data:
            pieces = [fields[1] for _, fields in data if fields[0] == b"b"]
            end, body = _end(data[-1]), b"".join(pieces)
            if len(pieces) < len(data):
                raise CorruptLogError(f"an entry before {end} has no field b")
            whole = end - len(body) == _end(data[0]) - len(pieces[0])
            if not whole or not self.take(end, body):
                raise CorruptLogError(f"bytes are missing between {self.log.end} and {end}")
        if seal is not None:
            fields = dict(zip(seal[1][::2], seal[1][1::2], strict=True))
            self.log.seal(Outcome(fields[b"outcome"].decode()), fields[b"detail"].decode())

    def given_up(self) -> bool:
        """Whether the log could not be read for too long; then it counts as lost."""
        now = asyncio.get_running_loop().time()
        if self.unreadable_since is None:
            self.unreadable_since = now
        if now - self.unreadable_since < self._limits.patience:
            return False
        self.log.seal(Outcome.LOST, "unreadable")
        return True


def _end(entry: Reply) -> int:
    """The offset after an entry of a log."""
    return int(entry[0].partition(b"-")[0])
