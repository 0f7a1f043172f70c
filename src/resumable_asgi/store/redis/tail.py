"""One log that another process writes, filled from publications and from Redis.

Publications carry the data but may get lost, so Redis's log is the truth: the offset of all that comes is
checked, and what is missing is read there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from ...outcome import Outcome
from ...stream.log import Log
from .commands import Commands, LogKeys
from .connection import ConnectionLostError, Link
from .keys import SEAL_ID, SEAL_MESSAGE
from .resp import Reply, ReplyError, is_elsewhere

logger = logging.getLogger(__name__)

_PAGE = 128 * 1024
"""Bytes of a page. A follower that keeps up sends it as it is, without a copy."""
_PAGES_AT_ONCE = 2
"""So many are asked for together, and again when fewer are still to come: Redis reads on while those are sent
on, and keeps at most twice as many for us."""
_OPEN_COUNT = 64
"""Entries of a page of which the end is not known."""
_PAUSE = 0.5
"""Seconds until a log that could not be read is read again."""


class MovedError(ConnectionLostError):
    """The log is on another node of the Cluster."""


class CorruptLogError(Exception):
    """Redis holds something that is not a whole log, or that a newer version wrote."""


class Tail:
    """One followed log.

    `known` is how long it is known to be. More than `max_bytes` are not held whole; one that cannot be read
    for `patience` seconds counts as lost. `moved` is awaited when it turns out to be on another node: it
    finds out which, and gives the tail that one's reader.
    """

    __slots__ = (
        "_commands",
        "_known",
        "_max_bytes",
        "_more",
        "_patience",
        "_sealed",
        "idle_rounds",
        "keys",
        "log",
        "missing_since",
        "moved",
        "quiet_rounds",
        "reader",
        "reading",
        "subscribed",
        "unreadable_since",
    )

    def __init__(
        self,
        log: Log,
        keys: LogKeys,
        known: int,
        *,
        reader: Link,
        commands: Commands,
        max_bytes: int,
        patience: float,
        moved: Callable[[], Awaitable[None]],
    ) -> None:
        self.log = log
        self.keys = keys
        self.reading: asyncio.Task[None] | None = None
        self.quiet_rounds = 0
        """Rounds of the tailer's watch without news."""
        self.subscribed = False
        """Whether publications come."""
        self.idle_rounds = 0
        """Such rounds without a reader."""
        self.missing_since: float | None = None
        """Since when the log has been gone from Redis."""
        self.unreadable_since: float | None = None
        self.reader = reader
        self.moved = moved
        self._commands = commands
        self._max_bytes = max_bytes
        self._patience = patience
        self._sealed = False
        """Whether the seal was published: from then on only what stands in the log counts."""
        self._known = known
        self._more = False
        """Whether there may be something that was not read yet."""

    def take(self, end: int, data: bytes) -> bool:
        """Add the bytes of an entry that ends at `end`; False if there is a gap before it."""
        log = self.log
        missing = end - log.end
        if missing <= 0 or log.outcome is not None:
            return True
        if missing > len(data):
            return False
        self.quiet_rounds = 0
        log.append(data if missing == len(data) else data[-missing:])
        if log.end > self._max_bytes:
            # It goes on for those attached; one that is far behind cannot be waited for.
            log.trim(log.end - 2 * self._max_bytes)
        return True

    def published(self, payload: bytes) -> None:
        """Take a publication: `<end offset>:<bytes>`."""
        self.quiet_rounds = 0
        if self._sealed:
            return  # of a writer that was refused, and does not know it yet
        end, _, data = payload.partition(b":")
        if payload == SEAL_MESSAGE or not end.isdigit():
            self._sealed = payload == SEAL_MESSAGE
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
            except ConnectionLostError as error:
                if self.given_up():
                    return
                self._more = True
                if isinstance(error, MovedError):
                    await self.moved()
                await asyncio.sleep(_PAUSE)
            except (CorruptLogError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
                self.lose("corrupt", f"Redis holds no whole log of it ({error})")

    async def _read_on(self) -> None:
        """Read to the end of the log as it is now. An entry's id is the offset after it, so that pages can be
        asked for by offsets, some at once; the last one is open, for what has come since and for the seal."""
        pages: deque[asyncio.Future[Reply]] = deque()
        asked, last_asked = self.log.end, False

        async def ask(count: int) -> None:
            nonlocal asked, last_asked
            commands: list[bytes] = []
            while not last_asked and len(commands) < count:
                if self._known - asked > _PAGE:
                    commands.append(self._commands.read(self.keys.log, asked, asked + _PAGE))
                    asked += _PAGE
                else:
                    commands.append(self._commands.read_open(self.keys.log, asked, _OPEN_COUNT))
                    last_asked, self._more = True, False
            if commands:
                pages.extend(await self.reader.ask(*commands))

        await ask(_PAGES_AT_ONCE)
        entries: Reply = []
        while pages:
            entries = await pages.popleft()
            if isinstance(entries, ReplyError):
                raise (MovedError if is_elsewhere(entries) else ConnectionLostError)(str(entries))
            self.unreadable_since = None
            if not entries and (pages or not last_asked):  # gone, or an entry longer than a page
                self._known, self._more = self.log.end, True
                return
            if len(pages) < _PAGES_AT_ONCE:
                await ask(_PAGES_AT_ONCE)
            self._apply(entries)
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
        if now - self.unreadable_since < self._patience:
            return False
        self.lose("unreadable", f"Redis could not be read for {self._patience:g} s")
        return True

    def lose(self, detail: str, reason: str) -> None:
        """End it here, without a seal in Redis: others may still be able to read it."""
        if self.log.seal(Outcome.LOST, detail):
            self.warn(reason)

    def warn(self, reason: str) -> None:
        logger.warning("%s is lost: %s", str(self.log), reason)


def _end(entry: Reply) -> int:
    """The offset after an entry of a log."""
    return int(entry[0].partition(b"-")[0])
