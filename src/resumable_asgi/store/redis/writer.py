"""Copies the live logs of this process to Redis: all that is due together, in one trip.

While nobody follows a log from another process its appends are gathered; while somebody does, they go at once
if they are some and nothing is under way, else in the next turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from ...outcome import Outcome
from ...settings import Settings
from ...stream.log import Log
from ...stream.store import Slot
from .backlog import Backlog
from .commands import Commands
from .connection import Connect, Connection, Link
from .copy import Record, refused, resolve
from .resp import Reply

_LINGER = 0.1
"""Seconds that appends are gathered while nobody follows from elsewhere. Fewer, longer entries also make
replays faster."""

_TOGETHER = 8
"""So many records that are due do not wait for the next turn: Redis and the followers' process work on them
while this one makes the next. A trip costs some 30 us of CPU here and there, so that fewer would be dear."""
_MOST_TRIPS = 2
"""Trips under way; then what is due waits for one to come back, so that there are larger ones under load."""
_MOST_TOGETHER = 64
_LONGEST_TRIP = 1024 * 1024
"""Records, and bytes of logs, in one trip: more would hold up what else is due in this process."""

_HAND_OVER = 0.1
"""Seconds that the last bytes may take to the client of a log that has ended."""

_OUTGREW = "it has outgrown max_bytes, and Redis does not take what there is"


class Writer:
    """Owns the records of all live logs, the worker's lease, and the one connection that writes."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        patience: float,
        commands: Commands,
        worker: str,
        moved: Callable[[Record], bool],
        backlog: Backlog,
    ) -> None:
        """`moved` is asked of every record at each new connection: it may hand it over to another writer."""
        self.lease = settings.lease
        self.records: dict[str, Record] = {}
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self.link = Link(
            connect, patience=patience, needed=self._needed, opened=self._opened, failed=self._failed
        )
        self._commands = commands
        self._lease = commands.renew(worker, settings.lease)
        self._leased = False
        self._moved = moved
        self._lent: dict[str, Record] = {}
        """Records of other writers by now, whose logs still name this one's lease."""
        self._backlog = backlog
        self._renewed_at = float("-inf")
        self._newest: dict[str, Record] = {}
        self._due: list[Record] = []
        self._turn: asyncio.Handle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._period = min(_LINGER, settings.lease / 8)
        self._beat_next = True
        self._under_way = 0
        """Trips of which the answers have not come."""

    @property
    def _refused(self) -> bool:
        """Whether Redis refused something just now. The lease tells that what this process has to say gets
        through: it is not renewed meanwhile, so that those who follow elsewhere do not wait in vain."""
        return self._loop.time() - self.link.refused_at < self.lease / 4

    # -- what the store asks for

    def claim(self, slot: Slot, log: Log) -> None:
        record = Record(slot, log, self._commands, self)
        self.records[log.id] = record
        self._newest[slot.name] = record
        log.readers.add(record)
        if self._tick is None:
            self._on_tick()
        if self.link.connection is None:
            self.link.need()
            return
        commands: list[bytes] = []  # by itself and at once, since its client waits for it
        record.claim(commands)
        self.link.call(commands, partial(self._claimed, record))

    async def claimed(self, log: Log) -> None:
        record = self.records.get(log.id)
        if record is None or self.link.down or record.claimed.done():
            return
        timer = self._loop.call_later(self._settings.redis_timeout, resolve, record.claimed)
        try:
            await record.claimed
        finally:
            timer.cancel()

    def finish(
        self, log: Log, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None
    ) -> None:
        record = self.records.get(log.id)
        if record is None:
            log.seal(outcome, detail)
            return
        if record.seal is not None:
            return
        log.close()
        record.seal = (outcome, detail)
        record.delivered = delivered
        record.ended_at = self._loop.time()
        if self.link.down:
            log.seal(outcome, detail)
            record.timer = self._loop.call_later(_HAND_OVER, self._ended_away, record)
        elif record.abandoned:
            log.seal(outcome, detail)
        else:
            record.timer = self._loop.call_later(self._settings.redis_timeout, log.seal, outcome, detail)
        self.consider(record)

    def _ended_away(self, record: Record) -> None:
        """A log has ended while Redis is away: keep its bytes only if somebody may come for them.

        When the lease is over, those who follow elsewhere have given up.
        """
        if not self.link.down or record.settled.done() or record.released or record.seal is None:
            return
        record.log.seal(*record.seal)
        delivered = record.clear_after == 0
        leased = self._loop.time() - self._renewed_at < self.lease
        if record.abandoned or record.seal[0] is Outcome.STOPPED or (delivered and not leased):
            self.release(record)
        elif delivered and record.fresh:  # nobody else ever knew of it
            self._drop(record)
        else:
            self._backlog.add(record, delivered=delivered and not record.followed)

    def release(self, record: Record) -> None:
        self._backlog.discard(record)
        if record.fresh:  # nobody else ever knew of it
            self._drop(record)
        else:
            self._newest_no_more(record)
            record.release()

    def overflow(self, log: Log) -> None:
        record = self.records.get(log.id)
        if record is not None:
            record.overflowing = True
            record.clear_after = 0
            self._newest_no_more(record)
            if self.link.down:
                record.abandon(_OUTGREW)
            self.consider(record)
            self._watch_progress(record, -1)

    def _watch_progress(self, record: Record, offset: int) -> None:
        """A copy that does not get on must not hold up a run whose log may grow no further."""
        if record.settled.done() or record.abandoned:
            return
        if offset == record.offset < record.log.end:
            record.abandon(_OUTGREW)
            record.keeper.consider(record)
            return
        self._loop.call_later(self._settings.redis_timeout, self._watch_progress, record, record.offset)

    def delivered(self, log: Log) -> bool:
        """A client got all of it: see to the pointer. False if this log is no longer the writer's affair."""
        record = self.records.get(log.id)
        if record is None:
            return False
        if record.fresh:  # nobody else ever knew of it
            self._drop(record)
        else:
            record.clear_after = record.slot.route.replay_finished
            self._ended_away(record)
            self.consider(record)
        return True

    def newest(self, slot: Slot) -> Record | None:
        """The record of the newest live log of a slot in this process."""
        return self._newest.get(slot.name)

    def check(self, stream_id: str) -> None:
        """Look what became of a log's copy: it is said that somebody else sealed it."""
        record = self.records.get(stream_id)
        if record is not None:
            record.in_step = False
            self.consider(record)

    async def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the seals that were asked for."""
        ending = [record.settled for record in self.records.values() if record.seal is not None]
        if ending:
            await asyncio.wait(ending, timeout=timeout)

    def close(self) -> None:
        for timer in (self._tick, self._turn):
            if timer is not None:
                timer.cancel()
        self._tick = self._turn = None
        self.link.close()

    # -- when to write

    def consider(self, record: Record) -> None:
        """Have it written to if that is due. Called on every append while somebody follows elsewhere."""
        if record.queued or not record.due:
            return
        record.queued = True
        self._due.append(record)
        if len(self._due) == _TOGETHER and not self._under_way:
            self._travel()
        else:
            self._schedule()

    def _schedule(self) -> None:
        if self._turn is None and self._under_way < _MOST_TRIPS:
            self._turn = self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._turn = None
        if self._under_way < _MOST_TRIPS:
            self._travel()

    def _on_tick(self) -> None:
        """While there are live logs: send what was gathered, and every second time renew the lease."""
        self._tick = None
        if not self._needed():
            self._beat_next, self._leased = True, False
            return
        self._tick = self._loop.call_later(self._period, self._on_tick)
        beat, self._beat_next = self._beat_next, not self._beat_next
        if self.link.connection is None:
            return
        if beat and (self.link.down or self._refused):
            self._beat_next = True
        elif beat:
            self._renew(self._loop.time())
            self.link.call([self._lease], self._beaten)
        for record in self.records.values():
            if record.log.end > record.offset and not record.queued and not record.under_way:
                record.queued = True
                self._due.append(record)
        if self._due:
            self._schedule()

    def _renew(self, now: float) -> None:
        """A claim of a live log renews its TTLs."""
        for record in self.records.values():
            if now >= record.renew_at and record.in_step and not record.under_way:
                record.in_step = False
                self.consider(record)

    # -- trips

    def _travel(self) -> None:
        """What the records that are due need, in one trip."""
        if self.link.connection is None:
            return
        commands: list[bytes] = []
        trip: list[Record] = []
        size = taken = 0
        for record in self._due:
            taken += 1
            record.queued = False
            if not record.under_way and not record.settled.done():
                size += record.write(commands)
                trip.append(record)
            if len(trip) == _MOST_TOGETHER or size > _LONGEST_TRIP:
                break
        del self._due[:taken]
        if commands:
            self._under_way += 1
            self.link.call(commands, partial(self._returned, trip))

    def _returned(self, trip: list[Record], replies: list[Reply]) -> None:
        self._under_way -= 1
        each = iter(replies)
        for record in trip:
            record.answered(each)
            self._see_to(record)
        if self.link.down and not self._refused:
            self.link.call([self._lease], self._beaten)
        if self._due:
            self._schedule()

    def _claimed(self, record: Record, replies: list[Reply]) -> None:
        record.answered(iter(replies))
        self._see_to(record)

    def _see_to(self, record: Record) -> None:
        """What the answers make necessary."""
        if record.over:
            self._drop(record)
        else:
            self.consider(record)

    def _beaten(self, replies: list[Reply]) -> None:
        """The lease's old value is the post: ids of logs that are to be stopped."""
        (post,) = replies
        refused(post)
        if post is None:
            if self._leased:  # Redis was emptied, or this process has slept for longer than its lease
                for stream_id in list(self.records):
                    self.check(stream_id)
        else:
            for at in range(0, len(post), 32):
                stream_id = post[at : at + 32].decode("latin-1")
                record = self.records.get(stream_id) or self._lent.get(stream_id)
                if record is not None:
                    record.keeper.finish(record.log, Outcome.STOPPED)
        self._leased = True
        self._renewed_at = self._loop.time()

    def _drop(self, record: Record) -> None:
        self.records.pop(record.log.id, None)
        self._backlog.discard(record)
        if record.queued:  # by a line that is closed
            record.queued = False
            self._due.remove(record)
        self._newest_no_more(record)
        record.let_go()

    def _needed(self) -> bool:
        if self._lent:
            self._lent = {key: record for key, record in self._lent.items() if not record.settled.done()}
        return bool(self.records or self._lent)

    def hand_over(self, record: Record, other: Writer) -> None:
        """Have another writer see to a record, but keep the lease that its log names."""
        del self.records[record.log.id]
        self._newest_no_more(record)
        if record.queued:
            self._due.remove(record)
        self._lent[record.log.id] = record
        record.pass_to(other)
        other.adopt(record)

    def adopt(self, record: Record) -> None:
        self.records[record.log.id] = record
        newest = self._newest.get(record.slot.name)
        if not (record.overflowing or record.released) and (newest is None or newest.log.id < record.log.id):
            self._newest[record.slot.name] = record
        if self._tick is None:
            self._on_tick()
        self.link.need()
        self.consider(record)

    def replaced(self, record: Record) -> None:
        self._newest_no_more(record)

    def _newest_no_more(self, record: Record) -> None:
        if self._newest.get(record.slot.name) is record:
            del self._newest[record.slot.name]

    # -- the connection

    def _opened(self, connection: Connection) -> None:
        self._under_way = 0
        # It may lead to another Redis than the last one. All are doubted first: considering may send at once.
        here = [record for record in list(self.records.values()) if not self._moved(record)]
        if self._needed() and not (
            here and self.link.down
        ):  # else first see whether it takes anything from this process
            self.link.call([self._lease], self._beaten)
        for record in here:
            record.doubt()
        for record in here:
            self.consider(record)
        self._schedule()

    def _failed(self, error: Exception) -> None:
        self._leased = False
        for record in list(self.records.values()):
            resolve(record.claimed)
            if record.overflowing:
                record.abandon(_OUTGREW)
            if record.seal is not None:
                self._ended_away(record)
                if self._loop.time() - record.ended_at > record.slot.route.retention:
                    self._drop(record)  # nobody would find it any more
