"""A tail: a log that another process writes, filled from publications and from its copy in Redis.

Publications carry the data but may get lost. So the offset of each one is checked, and missing bytes are
read from the copy.
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

logger: logging.Logger = logging.getLogger(__name__)

_PAGE = 128 * 1024
"""Bytes of a page. A follower that keeps up sends a page without copying it."""
_PAGES_AT_ONCE = 2
"""Pages that are requested ahead, so that Redis reads the next ones while followers send these. Redis buffers
at most twice as many replies for us."""
_OPEN_COUNT = 64
"""Entries of the last page, whose end is not known."""
_PAUSE = 0.5
"""Seconds before a log that could not be read is read again."""


class MovedError(ConnectionLostError):
    """Another node of the Cluster has the log."""


class CorruptLogError(Exception):
    """The data in Redis is not a complete log, or a newer version wrote it."""


class Tail:
    """One followed log.

    The log is at least `known` bytes long. Of a log longer than `max_bytes` only the last part is held. A log
    that cannot be read for `patience` seconds counts as lost. `moved` is awaited if another node has the log:
    it finds that node and gives the tail the reader of that node.
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
        self.log: Log = log
        self.keys: LogKeys = keys
        self.reading: asyncio.Task[None] | None = None
        self.quiet_rounds: int = 0
        """Rounds of the tailer's watch in which nothing arrived."""
        self.subscribed: bool = False
        """Whether publications arrive."""
        self.idle_rounds: int = 0
        """Rounds without a reader."""
        self.missing_since: float | None = None
        """When the log was first missing in Redis, in seconds of the loop's clock."""
        self.unreadable_since: float | None = None
        self.reader: Link = reader
        self.moved: Callable[[], Awaitable[None]] = moved
        self._commands = commands
        self._max_bytes = max_bytes
        self._patience = patience
        self._sealed = False
        """Whether the seal was published. From then on publications are ignored and the log is read."""
        self._known = known
        self._more = False
        """Whether the log may hold more than was read."""

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
            # The log continues for those attached; followers that are far behind are cut off.
            log.trim(log.end - 2 * self._max_bytes)
        return True

    def published(self, payload: bytes) -> None:
        """Take a publication: `<end offset>:<bytes>`."""
        self.quiet_rounds = 0
        if self._sealed:
            return  # of a writer whose append Redis refused
        end, _, data = payload.partition(b":")
        if payload == SEAL_MESSAGE or not end.isdigit():
            self._sealed = payload == SEAL_MESSAGE
            self.read()
        elif not self.take(int(end), data):
            self.read(int(end))

    def read(self, known: int = 0) -> None:
        """Read the log, again if necessary, to its end. It is at least `known` bytes long."""
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
        """Read to the present end of the log.

        The id of an entry is its end offset, so several pages can be requested at once, by offsets. The last
        page is open, for what has been added since and for the seal.
        """
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
            if not entries and (pages or not last_asked):  # missing, or an entry is longer than a page
                self._known, self._more = self.log.end, True
                return
            if len(pages) < _PAGES_AT_ONCE:
                await ask(_PAGES_AT_ONCE)
            self._apply(entries)
            if pages:
                await asyncio.sleep(0)  # let followers send it
        self._more = self._more or len(entries) == _OPEN_COUNT

    def _apply(self, entries: list[Reply]) -> None:
        """Add entries of a page."""
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
        """Whether the log has been unreadable for `patience` seconds. If so, end it as lost."""
        now = asyncio.get_running_loop().time()
        if self.unreadable_since is None:
            self.unreadable_since = now
        if now - self.unreadable_since < self._patience:
            return False
        self.lose("unreadable", f"Redis could not be read for {self._patience:g} s")
        return True

    def lose(self, detail: str, reason: str) -> None:
        """End the log here, without a seal in Redis: others may still be able to read it."""
        if self.log.seal(Outcome.LOST, detail):
            self.warn(reason)

    def warn(self, reason: str) -> None:
        logger.warning("%s is lost: %s", str(self.log), reason)


def _end(entry: Reply) -> int:
    """The end offset of an entry."""
    return int(entry[0].partition(b"-")[0])
