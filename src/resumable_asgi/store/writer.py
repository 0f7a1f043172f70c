"""Copies the live logs of this process to Redis: all of them together, in one trip at a time.

A record is what is known of one log's copy. It is either in step, and then an append says what to add, or
not, and then the claim script makes the copy or tells how far it is. Every trouble, whatever it was, ends
in "not in step": a reply lost after the append, a Redis that comes back empty or as a stale replica, a seal
that somebody else wrote.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial

from ..log import Log
from ..outcome import Outcome
from ..settings import Settings
from . import Slot
from .keys import Keys
from .record import APPEND_SENT, BURIAL_SENT, CLAIM_SENT, CLEAR_SENT, SEAL_SENT, Record, resolve
from .resp import Reply, ReplyError, pack
from .wire import Link, Wire, WireLostError

logger = logging.getLogger(__name__)

_LINGER = 0.1
"""Seconds that appends are gathered while nobody follows from elsewhere. Fewer, longer entries also make
replays faster."""

_LONGEST_ENTRY = 64 * 1024
_LONGEST_FLUSH = 1024 * 1024

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class RedisRefusedError(Exception):
    """Redis answers, but does not take what it is given: out of memory, read-only, loading."""


class Writer:
    """Owns the records of all live logs, the worker's lease, and the one connection that writes."""

    def __init__(self, settings: Settings, link: Link, keys: Keys, worker: str) -> None:
        self.records: dict[str, Record] = {}
        self.down = False
        """Whether Redis could not be written to at the last attempt."""
        self._settings = settings
        self._link = link
        self._keys = keys
        self._worker_key = keys.worker(worker)
        self._newest: dict[str, Record] = {}
        self._beat = min(settings.lease / 4, 0.25)
        self._lease_ms = int(settings.lease * 1000)
        self._beat_at = 0.0
        self._leased = False
        self._urgent: list[Record] = []
        self._lazy: list[Record] = []
        self._linger: asyncio.TimerHandle | None = None
        self._wire: Wire | None = None
        """The connection that the last trip went over."""
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._pause = _FIRST_PAUSE

    # -- what the store asks for

    def claim(self, slot: Slot, log: Log) -> None:
        record = Record(slot, log, self._keys)
        self.records[log.id] = record
        self._newest[slot.name] = record
        record.watch = partial(self._grown, record)
        log.readers.add(record)
        log.watch(record.watch)
        self._hurry(record)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def claimed(self, log: Log) -> None:
        record = self.records.get(log.id)
        if record is None or self.down or record.claimed.done():
            return
        timer = asyncio.get_running_loop().call_later(self._settings.redis_timeout, resolve, record.claimed)
        try:
            await asyncio.shield(record.claimed)
        finally:
            timer.cancel()

    def finish(self, log: Log, outcome: Outcome, detail: str) -> None:
        record = self.records.get(log.id)
        if record is None:
            log.seal(outcome, detail)
            return
        if record.seal is not None:
            return
        log.close()
        record.seal = (outcome, detail)
        record.ended_at = asyncio.get_running_loop().time()
        self._hurry(record)
        if self.down or record.abandoned:
            log.seal(outcome, detail)
        else:
            record.timer = asyncio.get_running_loop().call_later(
                self._settings.redis_timeout, log.seal, outcome, detail
            )

    def overflow(self, log: Log) -> None:
        record = self.records.get(log.id)
        if record is not None:
            record.overflowing = True
            record.clear_ms = 0
            self._newest_no_more(record)
            if self.down:
                self._abandon(record)
            self._hurry(record)
            self._watch_progress(record, -1)

    def _watch_progress(self, record: Record, offset: int) -> None:
        """A copy that does not get on must not hold up a run whose log may grow no further."""
        if record.settled.done() or record.abandoned:
            return
        if offset == record.offset < record.log.end:
            self._abandon(record)
            return
        asyncio.get_running_loop().call_later(
            self._settings.redis_timeout, self._watch_progress, record, record.offset
        )

    def delivered(self, log: Log) -> bool:
        """A client got all of it: see to the pointer. False if this log is no longer the writer's affair."""
        record = self.records.get(log.id)
        if record is None:
            return False
        if record.fresh:  # nobody else ever knew of it
            self._drop(record)
        else:
            record.clear_ms = int(1000 * record.slot.route.replay_finished)
            self._hurry(record)
        return True

    def newest(self, slot: Slot) -> Record | None:
        """The record of the newest live log of a slot in this process."""
        return self._newest.get(slot.name)

    def check(self, stream_id: str) -> None:
        """Look what became of a log's copy: it is said that somebody else sealed it."""
        record = self.records.get(stream_id)
        if record is not None:
            record.in_step = False
            self._hurry(record)

    async def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the seals that were asked for."""
        ending = [record.settled for record in self.records.values() if record.seal is not None]
        if ending:
            await asyncio.wait(ending, timeout=timeout)

    async def aclose(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._link.close()

    # -- when to write

    def _grown(self, record: Record) -> None:
        """On every append: written at once if somebody waits for it elsewhere, else gathered."""
        if record.queued:
            return
        if record.watched or not record.in_step:
            self._hurry(record)
            return
        record.queued = True
        self._lazy.append(record)
        if self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(_LINGER, self._lingered)

    def _lingered(self) -> None:
        self._linger = None
        self._urgent += [record for record in self._lazy if not record.settled.done()]
        self._lazy.clear()
        self._kick()

    def _hurry(self, record: Record) -> None:
        record.queued = True
        self._urgent.append(record)
        self._kick()

    def _kick(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        """While there are live logs: flush, and wait for more or for the lease to be renewed."""
        loop = asyncio.get_running_loop()
        while self.records or self._urgent:
            try:
                await self._flush(loop.time())
            except (WireLostError, RedisRefusedError) as error:
                await self._fail(error)
                continue
            except Exception as error:  # the one task that writes must not end, whatever Redis answers
                logger.exception("an answer of Redis could not be understood")
                await self._fail(error)
                continue
            if self.down:
                logger.info("Redis is back; live streams are recorded again")
            self.down = False
            self._pause = _FIRST_PAUSE
            if not self._urgent and self.records:
                self._wake = loop.create_future()
                timer = loop.call_at(self._beat_at, self._kick)
                await self._wake
                timer.cancel()
                self._wake = None
        self._beat_at = 0.0
        self._leased = False

    def _doubt_all(self) -> None:
        """Every copy is to be looked at before anything is added to it."""
        for record in self.records.values():
            record.in_step = False
            record.sent = 0
        self._urgent = list(self.records.values())

    async def _fail(self, error: Exception) -> None:
        if not self.down:
            logger.warning("streams go on unrecorded until Redis is back: %s", error)
        self.down = True
        self._leased = False
        self._beat_at = 0.0
        if self._link.wire is not None:  # it may be one to a primary that has become a replica
            self._link.wire.abort()
        self._doubt_all()
        for record in list(self.records.values()):
            resolve(record.claimed)
            if record.overflowing:
                self._abandon(record)
            if record.seal is not None:
                record.log.seal(*record.seal)
                if asyncio.get_running_loop().time() - record.ended_at > record.slot.route.retention:
                    self._drop(record)  # nobody would find it any more
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    # -- what to write

    async def _flush(self, now: float) -> None:
        """One trip: what the queued records need, and the lease when it is due."""
        wire = self._link.wire or await self._link.open()
        if wire is not self._wire:
            self._wire = wire
            self._doubt_all()  # it may lead to another Redis than the last one
        commands: list[bytes] = []
        beat = now >= self._beat_at and bool(self.records)
        if beat:
            self._beat_at = now + self._beat
            self._renew(now)
            commands.append(pack(b"SET", self._worker_key, b"", b"PX", b"%d" % self._lease_ms, b"GET"))
        trip: list[Record] = []
        size = 0
        queued, self._urgent = self._urgent, []
        for position, record in enumerate(queued):
            if record.sent:
                continue
            record.queued = False
            size += self._write(record, now, commands)
            if record.sent:
                trip.append(record)
            if size > _LONGEST_FLUSH:
                self._urgent += queued[position + 1 :]
                break
        if not commands:
            return
        replies = iter(await wire.call(commands, len(commands)))
        if beat:
            self._beaten(next(replies))
        for record in trip:
            self._answered(record, replies)

    def _write(self, record: Record, now: float, commands: list[bytes]) -> int:
        """Add what one record needs next; returns the bytes of the log among it."""
        if record.settled.done():
            return 0
        if record.sealed:
            commands.append(record.clear_command())
            record.sent = CLEAR_SENT
            return 0
        if record.abandoned:
            commands.append(record.seal_command(Outcome.INTERRUPTED, "overflow", anywhere=True))
            record.sent = BURIAL_SENT
            return 0
        if not record.in_step:
            commands.append(record.claim_command())
            record.sent = CLAIM_SENT
            record.renew_at = now + record.live_ms / 2000
            return 0
        data = record.log.read(record.offset, _LONGEST_ENTRY)
        record.sent_end = end = record.offset + len(data)
        if data:
            commands += record.append_commands(data)
            record.sent = APPEND_SENT
        if record.seal is not None and end == record.log.end:
            commands.append(record.seal_command(*record.seal, anywhere=False))
            record.sent |= SEAL_SENT
        elif end < record.log.end:
            self._hurry(record)
        if record.clear_ms is not None:
            commands.append(record.clear_command())
            record.sent |= CLEAR_SENT
        return len(data)

    def _renew(self, now: float) -> None:
        """A claim of a live log renews its TTLs."""
        for record in list(self.records.values()):
            if now >= record.renew_at and record.in_step:
                record.in_step = False
                self._hurry(record)

    # -- what Redis answered

    def _answered(self, record: Record, replies: Iterator[Reply]) -> None:
        sent, record.sent = record.sent, 0
        if sent == APPEND_SENT:
            self._appended(record, next(replies), next(replies))
            return
        if sent & CLAIM_SENT:
            self._claimed(record, next(replies))
        if sent & APPEND_SENT:
            self._appended(record, next(replies), next(replies))
        if sent & SEAL_SENT:
            self._sealed(record, next(replies))
        if sent & CLEAR_SENT:
            _refuse(next(replies))
            record.clear_ms = None
        if sent & BURIAL_SENT:
            _refuse(next(replies))
            record.sealed = True
            record.clear_ms = None
        if record.sealed and record.clear_ms is None:
            self._drop(record)
        elif record.sealed:
            self._hurry(record)

    def _beaten(self, reply: Reply) -> None:
        """The lease's old value is the post: ids of logs that are to be stopped."""
        _refuse(reply)
        if reply is None:
            if self._leased:  # Redis was emptied, or this process has slept for longer than its lease
                for stream_id in self.records:
                    self.check(stream_id)
        else:
            for at in range(0, len(reply), 32):
                record = self.records.get(reply[at : at + 32].decode("latin-1"))
                if record is not None:
                    self.finish(record.log, Outcome.STOPPED, "")
        self._leased = True

    def _claimed(self, record: Record, reply: Reply) -> None:
        if _refuse(reply):
            self._abandon(record)
            return
        stored = int(reply[0])
        if len(reply) > 1:
            self._settle(record, *_seal_of(reply))
            return
        if not record.log.start <= stored <= record.log.end:
            self._abandon(record)
            return
        record.offset = stored
        record.in_step = True
        resolve(record.claimed)
        if stored < record.log.end or record.seal is not None or record.clear_ms is not None:
            self._hurry(record)

    def _appended(self, record: Record, reply: Reply, followers: Reply) -> None:
        record.watched = isinstance(followers, int) and followers > 0
        _refuse(reply)
        if not isinstance(reply, bytes):  # vanished, sealed by somebody, or there already
            record.in_step = False
            self._hurry(record)
            return
        record.offset = record.sent_end
        if record.log.progressed is not None:
            record.log.progressed()

    def _sealed(self, record: Record, reply: Reply) -> None:
        if _refuse(reply):
            self._abandon(record)
        elif reply[0] == b"sealed":
            assert record.seal is not None
            self._settle(record, *record.seal)
        elif reply[0] == b"was":
            self._settle(record, *_seal_of(reply))
        else:
            record.in_step = False
            self._hurry(record)

    def _settle(self, record: Record, outcome: Outcome, detail: str) -> None:
        record.sealed = True
        record.log.seal(outcome, detail)

    def _abandon(self, record: Record) -> None:
        if not record.abandoned:
            record.abandoned = True
            logger.warning("stream %s can no longer be recorded", record.log.id)
            resolve(record.claimed)
            record.log.readers.discard(record)
            if record.log.progressed is not None:
                record.log.progressed()
            if record.seal is not None:
                record.log.seal(*record.seal)
            self._hurry(record)

    def _drop(self, record: Record) -> None:
        self.records.pop(record.log.id, None)
        self._newest_no_more(record)
        record.log.readers.discard(record)
        if record.watch is not None:
            record.log.unwatch(record.watch)
        if record.timer is not None:
            record.timer.cancel()
        resolve(record.claimed)
        resolve(record.settled)

    def _newest_no_more(self, record: Record) -> None:
        if self._newest.get(record.slot.name) is record:
            del self._newest[record.slot.name]


def _seal_of(reply: list[Reply]) -> tuple[Outcome, str]:
    """The seal in an answer. One that no version known here writes stands for the worst."""
    try:
        return Outcome(reply[1].decode()), reply[2].decode()
    except (ValueError, IndexError):
        return Outcome.LOST, "an unknown seal"


_OF_ONE_LOG = ("WRONGTYPE", "equal or smaller", "exhausted the last possible ID")
"""Errors that tell something about one log, by their texts in Redis 6.2 to Valkey 9; a script's error holds
that of its command. All others are taken to be Redis's state."""


def _refuse(reply: Reply) -> bool:
    """Whether a reply is an error that concerns one log only. Raises for every other error."""
    if not isinstance(reply, ReplyError):
        return False
    text = str(reply)
    if any(part in text for part in _OF_ONE_LOG):
        return True
    raise RedisRefusedError(text)
