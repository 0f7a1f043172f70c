"""Fills logs with what other processes write: one subscription connection for all that are followed here.

Publications carry the data but may get lost, so Redis's log is the truth. A tail subscribes first, then
reads the past, checks the offset of all that comes, and goes back to the log for a gap, after a new
connection and in silence.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import cast

from ..log import Head, Log
from ..outcome import Outcome
from ..settings import Settings
from .keys import POST, SEAL, SEAL_ID, SEAL_MESSAGE, Keys
from .resp import Reply, ReplyError, pack
from .wire import Link, WireLostError

logger = logging.getLogger(__name__)

_PERIOD = 0.5
"""Seconds between looks at all tails."""
_SILENT_ROUNDS = 4
"""Of such looks without news of a log, after which it is read, should a publication have been lost."""
_FIRST_PAGE = 32
_PAGE_GROWTH = 16
_LARGEST_PAGE = 1024
_PAGE_BYTES = 256 * 1024


class CorruptLogError(Exception):
    """Redis holds something that is not a whole log, or that a newer version wrote."""


@dataclass(frozen=True, slots=True)
class Page:
    """Entries that were asked for: at most `count` of them."""

    count: int
    reply: asyncio.Future[list[Reply]]


class Tail:
    """One followed log."""

    __slots__ = (
        "idle_rounds",
        "key",
        "log",
        "missing_since",
        "more",
        "quiet_rounds",
        "reading",
        "sealed",
        "slot",
        "unreadable_since",
    )

    def __init__(self, slot: str, log: Log, key: bytes) -> None:
        self.slot = slot
        self.log = log
        self.key = key
        self.more = False
        """Whether the log must be read (again) for what publications did not bring."""
        self.reading: asyncio.Task[None] | None = None
        self.quiet_rounds = 0
        """Rounds of the watch without news."""
        self.sealed = False
        """Whether the seal was published: from then on only what stands in the log counts."""
        self.idle_rounds = 0
        self.missing_since: float | None = None
        """Since when the log has been gone from Redis."""
        self.unreadable_since: float | None = None

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
        return True


class Tailer:
    """All tails of a process."""

    def __init__(self, settings: Settings, subscription: Link, reader: Link, keys: Keys) -> None:
        self._settings = settings
        self._limit = max(route.max_bytes for route in settings.routes)
        self._subscription = subscription
        self._reader = reader
        self._keys = keys
        self._tails: dict[bytes, Tail] = {}
        self._missing: dict[str, float] = {}
        """Since when the lease of a worker has been gone."""
        self._task: asyncio.Task[None] | None = None
        self._resubscribing: asyncio.Task[None] | None = None

    def follow(
        self, slot: str, stream_id: str, head: Head, first: tuple[int, bytes] | None, *, sealed: bool
    ) -> Log:
        """The log of another process, filled as long as it has readers.

        `first` is its first entry if it is known already: the offset after it, and the bytes.
        """
        key = self._keys.log(slot, stream_id)
        tail = self._tails.get(key)
        if tail is not None and (tail.log.outcome is None or sealed):
            tail.idle_rounds = 0
            return tail.log
        tail = Tail(slot, Log(stream_id, head), key)
        self._tails[key] = tail
        if first is not None:
            tail.take(*first)
        if not sealed:
            self._subscribe(tail)
        self._read(tail)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        return tail.log

    async def aclose(self) -> None:
        tasks = [self._task, self._resubscribing, *(tail.reading for tail in self._tails.values())]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for tail in self._tails.values():  # nobody fills them any more: their followers must not wait
            tail.log.seal(Outcome.INTERRUPTED, "shutdown")
        self._tails.clear()
        self._subscription.close()

    # -- publications

    def pushed(self, message: Reply) -> None:
        """What comes on the subscription connection."""
        if not isinstance(message, list) or len(cast("list[Reply]", message)) != 3:
            return  # an answer to PING, or an error
        kind, channel, payload = cast("list[bytes]", message)
        tail = self._tails.get(channel)
        if tail is None:
            return
        if kind == b"message":
            tail.quiet_rounds = 0
            if tail.sealed:
                return  # of a writer that was refused, and does not know it yet
            end, _, data = payload.partition(b":")
            tail.sealed = payload == SEAL_MESSAGE
            if tail.sealed or not end.isdigit() or not tail.take(int(end), data):
                self._read(tail)
            else:
                self._trim(tail)
        elif kind == b"subscribe":
            self._read(tail)  # what was published between the last reading and now

    def _subscribe(self, tail: Tail) -> None:
        wire = self._subscription.wire
        if wire is not None:
            wire.send(pack(b"SUBSCRIBE", tail.key))
        elif self._resubscribing is None or self._resubscribing.done():
            self._resubscribing = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        """Subscribe to all that is followed, and again whenever the connection was lost."""
        while self._tails:
            try:
                wire = await self._subscription.open()
            except WireLostError:
                await asyncio.sleep(_PERIOD)
                continue
            live = [tail.key for tail in self._tails.values() if tail.log.outcome is None]
            if live:
                wire.send(pack(b"SUBSCRIBE", *live))
            await asyncio.wait([wire.lost])  # not awaited itself: cancelling us would cancel it

    # -- the log itself

    def _read(self, tail: Tail) -> None:
        tail.more = True
        if tail.reading is None or tail.reading.done():
            tail.reading = asyncio.create_task(self._catch_up(tail))

    async def _catch_up(self, tail: Tail) -> None:
        """Read the log until there is nothing more in it; then publications go on from there."""
        log = tail.log
        page: Page | None = None
        while (tail.more or page is not None) and log.outcome is None:
            try:
                if page is None:
                    tail.more = False
                    page = await self._ask(tail, log.end, _FIRST_PAGE)
                (entries,) = await page.reply
                if isinstance(entries, ReplyError):
                    raise WireLostError(str(entries))
                tail.unreadable_since = None
                page = await self._ask_ahead(tail, page, entries)
                self._apply(tail, entries)
            except WireLostError:
                if self._given_up(tail):
                    return
                page = None
                tail.more = True
                await asyncio.sleep(_PERIOD)
            except (CorruptLogError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
                logger.warning("stream %s: Redis holds no whole log of it (%s)", log.id, error)
                log.seal(Outcome.LOST, "corrupt")
        tail.quiet_rounds = 0

    async def _ask(self, tail: Tail, after: int, count: int) -> Page:
        # An entry's id is the offset after it, and the head is 0-1: what is behind `<end>-1` is new.
        command = pack(b"XRANGE", tail.key, b"(%d-1" % after, b"+", b"COUNT", b"%d" % count)
        return Page(count, await self._reader.ask([command]))

    async def _ask_ahead(self, tail: Tail, page: Page, entries: list[Reply]) -> Page | None:
        """The page after a full one: Redis is to read it while that one is sent on."""
        last = entries[-1] if entries else None
        if last is None or len(entries) < page.count or last[0] == SEAL_ID:
            return None
        size = sum(len(fields[1]) for _, fields in entries)
        fitting = len(entries) * _PAGE_BYTES // max(1, size)
        count = max(1, min(_LARGEST_PAGE, _PAGE_GROWTH * page.count, fitting))
        return await self._ask(tail, _end(last), count)

    def _apply(self, tail: Tail, entries: list[Reply]) -> None:
        """Add entries that were read."""
        log = tail.log
        seal = entries.pop() if entries and entries[-1][0] == SEAL_ID else None
        if entries:
            if any(fields[0] != b"b" for _, fields in entries):
                raise CorruptLogError(f"an entry before {_end(entries[-1])} has no field b")
            data = b"".join([fields[1] for _, fields in entries])
            end = _end(entries[-1])
            whole = end - len(data) == _end(entries[0]) - len(entries[0][1][1])
            if not whole or not tail.take(end, data):
                raise CorruptLogError(f"bytes are missing between {log.end} and {end}")
            self._trim(tail)
        if seal is not None:
            fields = dict(zip(seal[1][::2], seal[1][1::2], strict=True))
            log.seal(Outcome(fields[b"outcome"].decode()), fields[b"detail"].decode())

    def _trim(self, tail: Tail) -> None:
        """A log that outgrew its limit goes on for those attached; one far behind cannot be waited for."""
        if tail.log.end > self._limit:
            tail.log.trim(tail.log.end - 2 * self._limit)

    def _given_up(self, tail: Tail) -> bool:
        """Whether a log could not be read for as long as its worker may be silent."""
        now = asyncio.get_running_loop().time()
        if tail.unreadable_since is None:
            tail.unreadable_since = now
        if now - tail.unreadable_since < self._settings.lease:
            return False
        tail.log.seal(Outcome.LOST, "unreadable")
        return True

    # -- silence and death

    async def _watch(self) -> None:
        """While something is followed: let go of what nobody reads, look after what is silent."""
        while self._tails:
            await asyncio.sleep(_PERIOD)
            self._let_go()
            wire = self._subscription.wire
            if wire is not None:
                if wire.silence > max(self._settings.lease / 3, 4 * _PERIOD):
                    wire.abort()
                else:
                    wire.send(pack(b"PING"))
            live = [tail for tail in self._tails.values() if tail.log.outcome is None]
            for tail in live:
                tail.quiet_rounds += 1
            try:
                await self._look_after(live)
            except (WireLostError, TimeoutError):
                for tail in live:
                    self._given_up(tail)
            except Exception:  # the one task that ends followers of the dead must go on
                logger.exception("an answer of Redis could not be understood")

    def _let_go(self) -> None:
        wire = self._subscription.wire
        for key, tail in list(self._tails.items()):
            tail.idle_rounds = 0 if tail.log.readers else tail.idle_rounds + 1
            if tail.idle_rounds > 2:
                del self._tails[key]
                if tail.reading is not None:
                    tail.reading.cancel()
                if wire is not None:
                    wire.send(pack(b"UNSUBSCRIBE", key))

    async def _look_after(self, live: list[Tail]) -> None:
        now = asyncio.get_running_loop().time()
        workers = list({tail.log.head.worker for tail in live})
        silent = [tail for tail in live if tail.quiet_rounds >= _SILENT_ROUNDS]
        commands = [pack(b"EXISTS", self._keys.worker(worker)) for worker in workers]
        commands += [pack(b"EXISTS", tail.key) for tail in silent]
        if not commands:
            return
        async with asyncio.timeout(self._settings.lease):
            replies = await self._reader.call(*commands)
        if any(isinstance(reply, ReplyError) for reply in replies):
            return
        for tail in live:
            tail.unreadable_since = None
        dead = self._note_workers(workers, replies[: len(workers)], now)
        for tail, exists in zip(silent, replies[len(workers) :], strict=True):
            if exists:
                tail.missing_since = None
                self._read(tail)
            elif tail.missing_since is None:
                tail.missing_since = now
            elif now - tail.missing_since > self._settings.lease:
                tail.log.seal(Outcome.LOST, "vanished")
        for tail in live:
            if tail.log.head.worker in dead:
                await self._bury(tail)

    def _note_workers(self, workers: list[str], exist: list[Reply], now: float) -> set[str]:
        """The workers whose lease has been gone for long enough that an emptied Redis would have it back."""
        patience = min(3.0, self._settings.lease / 3)
        missing = [worker for worker, exists in zip(workers, exist, strict=True) if not exists]
        self._missing = {worker: self._missing.get(worker, now) for worker in missing}
        return {worker for worker, since in self._missing.items() if now - since >= patience}

    async def _bury(self, tail: Tail) -> None:
        """Seal the log of a dead worker, unless somebody was faster; read what there is and the seal."""
        keys = [self._keys.pointer(tail.slot), tail.key]
        stream_id = tail.log.id.encode()
        retention = b"%d" % int(1000 * max(route.retention for route in self._settings.routes))
        seal = SEAL.pack(keys, stream_id, b"lost", b"", retention, tail.key, b"PUBLISH", b"", b"")
        post = POST.pack(
            [self._keys.worker(tail.log.head.worker)], stream_id
        )  # should it have come back just now
        reply, _ = await self._reader.call(seal, post)
        if isinstance(reply, ReplyError) or reply[0] == b"gone":
            tail.log.seal(Outcome.LOST, "its worker died")
        else:
            self._read(tail)


def _end(entry: Reply) -> int:
    """The offset after an entry of a log."""
    return int(entry[0].partition(b"-")[0])
