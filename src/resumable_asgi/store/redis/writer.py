"""Writes the copies of this process's live logs: all copies that are due share one batch.

While nobody follows a log from another process, its appends are gathered. While somebody does, they are sent
at once if several copies are due and no batch is in flight, otherwise in the next turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from ...outcome import Outcome
from ...settings import Settings
from ...stream.log import Log
from ...stream.store import StreamKey
from .backlog import Backlog
from .batch import Batch
from .commands import Commands
from .connection import Connect, Connection, Link, RedisRefusedError
from .copy import Clear, RedisCopy, resolve
from .copy_state import CopyState
from .lease import Lease
from .resp import Reply

_GATHER = 0.1
"""Seconds that appends are gathered while nobody follows from elsewhere. Fewer, longer entries also make
replays faster."""

_AT_ONCE = 8
"""Flush at once when this many copies are due and no batch is in flight, so that Redis and the followers'
process work while this one produces the next chunk. A batch costs some 30 us of CPU on both sides."""
_MOST_BATCHES = 2
"""Batches in flight. Then copies that are due wait for an answer, so that batches get larger under load."""
_MOST_COPIES = 64
_LONGEST_BATCH = 1024 * 1024
"""Copies, and bytes of logs, in one batch: more would delay everything else in this process."""

_HAND_OUT = 0.1
"""Seconds that the last bytes of a log that has ended may take to reach its client."""

_OUTGREW = "it has outgrown max_bytes, and Redis does not take what there is"


class Writer:
    """Owns the copies of all live logs, the worker's lease, and the one connection that writes."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        patience: float,
        commands: Commands,
        worker: str,
        moved: Callable[[RedisCopy], bool],
        clear: Clear,
        backlog: Backlog,
    ) -> None:
        """`moved` is asked of every copy at each new connection: it may hand it over to another writer."""
        self.lease: float = settings.lease
        self.copies: dict[str, RedisCopy] = {}
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self.link: Link = Link(
            connect, patience=patience, needed=self._needed, opened=self._opened, failed=self._failed
        )
        self._commands = commands
        self._lease = Lease(commands.renew(worker, settings.lease), settings.lease)
        self._moved = moved
        self.clear = clear
        self._lent: dict[str, RedisCopy] = {}
        """Copies that other writers write by now, whose logs still name this one's lease."""
        self._backlog = backlog
        self._newest: dict[str, RedisCopy] = {}
        self._due: list[RedisCopy] = []
        self._turn: asyncio.Handle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._period = min(_GATHER, settings.lease / 8)
        self._heartbeat_next = True
        self._in_flight = 0
        """Batches whose answers have not come."""

    @property
    def _refused(self) -> bool:
        """Whether Redis refused something just now. The lease says that this process can write, so it is not
        renewed meanwhile: followers elsewhere would wait in vain."""
        return self._loop.time() - self.link.refused_at < self.lease / 4

    # -- what the store asks for

    def claim(self, key: StreamKey, log: Log) -> RedisCopy:
        copy = RedisCopy(key, log, self._commands, self)
        self.copies[log.id] = copy
        self._newest[key.name] = copy
        log.readers.add(copy)
        if self._tick is None:
            self._on_tick()
        if self.link.connection is None:
            self.link.need()
        else:  # alone and at once, because its client waits for it
            batch = Batch()
            self._fill(batch, copy)
            self.link.call(batch.commands, batch.answered)
        return copy

    async def claimed(self, copy: RedisCopy) -> None:
        if self.link.down or copy.findable.done():
            return
        timer = self._loop.call_later(self._settings.redis_timeout, resolve, copy.findable)
        try:
            await copy.findable
        finally:
            timer.cancel()

    def finish(self, copy: RedisCopy) -> None:
        assert copy.seal is not None
        copy.ended_at = self._loop.time()
        if self.link.down:
            copy.log.seal(*copy.seal)
            copy.timer = self._loop.call_later(_HAND_OUT, self._ended_while_down, copy)
        elif copy.state is CopyState.GIVEN_UP:
            copy.log.seal(*copy.seal)
        else:
            copy.timer = self._loop.call_later(self._settings.redis_timeout, copy.log.seal, *copy.seal)
        self.schedule(copy)

    def _ended_while_down(self, copy: RedisCopy) -> None:
        """A log has ended while Redis is away: keep its bytes only if somebody may still ask for them.

        When the lease has run out, followers elsewhere have given up.
        """
        if not self.link.down or copy.settled.done() or copy.released or copy.seal is None:
            return
        copy.log.seal(*copy.seal)
        delivered = copy.clear_after == 0
        leased = self._lease.valid(self._loop.time())
        if copy.state is CopyState.GIVEN_UP or copy.seal[0] is Outcome.STOPPED or (delivered and not leased):
            self.release(copy)
        elif delivered and copy.state is CopyState.NEW:  # nobody else knows of it
            self._drop(copy)
        else:
            self._backlog.add(copy, delivered=delivered and not copy.followed)

    def release(self, copy: RedisCopy) -> None:
        self._backlog.discard(copy)
        if copy.state is CopyState.NEW:  # nobody else knows of it
            self._drop(copy)
        else:
            self._newest_no_more(copy)
            copy.release()

    def overflow(self, copy: RedisCopy) -> None:
        if copy.settled.done():
            return
        copy.overflowing = True
        copy.clear_after = 0
        self._newest_no_more(copy)
        if self.link.down:
            copy.give_up(_OUTGREW)
        self.schedule(copy)
        self._watch_progress(copy, -1)

    def _watch_progress(self, copy: RedisCopy, offset: int) -> None:
        """A copy that makes no progress must not hold up a run whose log may not grow further."""
        if copy.settled.done() or copy.state is CopyState.GIVEN_UP:
            return
        if offset == copy.offset < copy.log.end:
            copy.give_up(_OUTGREW)
            copy.writer.schedule(copy)
            return
        self._loop.call_later(self._settings.redis_timeout, self._watch_progress, copy, copy.offset)

    def delivered(self, copy: RedisCopy) -> None:
        if copy.state is CopyState.NEW:  # nobody else knows of it
            self._drop(copy)
        else:
            copy.clear_after = copy.key.route.replay_finished
            self._ended_while_down(copy)
            self.schedule(copy)

    def newest(self, key: StreamKey) -> RedisCopy | None:
        """The copy of the newest live log of a key in this process."""
        return self._newest.get(key.name)

    def check(self, stream_id: str) -> None:
        """Claim a log's copy again: somebody else may have sealed it."""
        copy = self.copies.get(stream_id)
        if copy is not None:
            copy.invalidate()
            self.schedule(copy)

    async def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the seals that were asked for."""
        ending = [copy.settled for copy in self.copies.values() if copy.seal is not None]
        if ending:
            await asyncio.wait(ending, timeout=timeout)

    def close(self) -> None:
        for timer in (self._tick, self._turn):
            if timer is not None:
                timer.cancel()
        self._tick = self._turn = None
        self.link.close()

    # -- when to write

    def schedule(self, copy: RedisCopy) -> None:
        """Write the copy soon, if it is due. Called on every append while somebody follows elsewhere."""
        if copy.queued or not copy.due:
            return
        copy.queued = True
        self._due.append(copy)
        if len(self._due) == _AT_ONCE and not self._in_flight:
            self._flush()
        else:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if self._turn is None and self._in_flight < _MOST_BATCHES:
            self._turn = self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._turn = None
        if self._in_flight < _MOST_BATCHES:
            self._flush()

    def _on_tick(self) -> None:
        """While there are live logs: send what was gathered, and renew the lease every second time."""
        self._tick = None
        if not self._needed():
            self._heartbeat_next = True
            self._lease.lapse()
            return
        self._tick = self._loop.call_later(self._period, self._on_tick)
        heartbeat, self._heartbeat_next = self._heartbeat_next, not self._heartbeat_next
        if self.link.connection is None:
            return
        if heartbeat and (self.link.down or self._refused):
            self._heartbeat_next = True
        elif heartbeat:
            self._renew(self._loop.time())
            self.link.call([self._lease.command], self._lease_renewed)
        for copy in self.copies.values():
            if copy.log.end > copy.offset and not copy.queued and not copy.in_flight:
                copy.queued = True
                self._due.append(copy)
        if self._due:
            self._schedule_flush()

    def _renew(self, now: float) -> None:
        """A claim of a live log renews its TTLs."""
        for copy in self.copies.values():
            if now >= copy.renew_at and copy.state is CopyState.SYNCED and not copy.in_flight:
                copy.invalidate()
                self.schedule(copy)

    # -- batches

    def _flush(self) -> None:
        """Send what the copies that are due need, in one batch."""
        if self.link.connection is None:
            return
        batch = Batch()
        size = taken = copies = 0
        for copy in self._due:
            taken += 1
            copy.queued = False
            if not copy.in_flight and not copy.settled.done():
                size += self._fill(batch, copy)
                copies += 1
            if copies == _MOST_COPIES or size > _LONGEST_BATCH:
                break
        del self._due[:taken]
        if batch.commands:
            self._in_flight += 1
            self.link.call(batch.commands, partial(self._answered, batch))

    def _fill(self, batch: Batch, copy: RedisCopy) -> int:
        size = copy.write(batch)
        batch.expect(0, partial(self._after_reply, copy))
        return size

    def _answered(self, batch: Batch, replies: list[Reply]) -> None:
        self._in_flight -= 1
        batch.answered(replies)
        if self.link.down and not self._refused:
            self.link.call([self._lease.command], self._lease_renewed)
        if self._due:
            self._schedule_flush()

    def _after_reply(self, copy: RedisCopy, _: list[Reply]) -> None:
        """Its answers are taken: send what it needs next."""
        copy.in_flight = False
        if copy.over:
            self._drop(copy)
        else:
            self.schedule(copy)

    def _lease_renewed(self, replies: list[Reply]) -> None:
        mail = self._lease.renewed(replies[0], self._loop.time())
        if mail.vanished:
            for stream_id in list(self.copies):
                self.check(stream_id)
        for stream_id in mail.stops:
            copy = self.copies.get(stream_id) or self._lent.get(stream_id)
            if copy is not None:
                copy.finish(Outcome.STOPPED)

    def _drop(self, copy: RedisCopy) -> None:
        self.copies.pop(copy.log.id, None)
        self._backlog.discard(copy)
        if copy.queued:  # while there is no connection
            copy.queued = False
            self._due.remove(copy)
        self._newest_no_more(copy)
        copy.settle()

    def _needed(self) -> bool:
        if self._lent:
            self._lent = {key: copy for key, copy in self._lent.items() if not copy.settled.done()}
        return bool(self.copies or self._lent)

    def hand_over(self, copy: RedisCopy, other: Writer) -> None:
        """Let another writer write a copy. The lease that its log names stays here."""
        del self.copies[copy.log.id]
        self._newest_no_more(copy)
        if copy.queued:
            self._due.remove(copy)
        self._lent[copy.log.id] = copy
        copy.pass_to(other)
        other.adopt(copy)

    def adopt(self, copy: RedisCopy) -> None:
        self.copies[copy.log.id] = copy
        newest = self._newest.get(copy.key.name)
        if not (copy.overflowing or copy.released) and (newest is None or newest.log.id < copy.log.id):
            self._newest[copy.key.name] = copy
        if self._tick is None:
            self._on_tick()
        self.link.need()
        self.schedule(copy)

    def replaced(self, copy: RedisCopy) -> None:
        self._newest_no_more(copy)

    def _newest_no_more(self, copy: RedisCopy) -> None:
        if self._newest.get(copy.key.name) is copy:
            del self._newest[copy.key.name]

    # -- the connection

    def _opened(self, connection: Connection) -> None:
        self._in_flight = 0
        # It may lead to another Redis than the last one. `schedule` may send at once, so it comes last.
        here = [copy for copy in list(self.copies.values()) if not self._moved(copy)]
        # After a refusal the lease is renewed after the first answer, because Redis may still refuse writes.
        # After a loss it is renewed first, because this worker is alive even if replies go on getting lost.
        refused = self.link.down and isinstance(self.link.last_trouble, RedisRefusedError)
        if self._needed() and not (here and refused):
            self.link.call([self._lease.command], self._lease_renewed)
        for copy in here:
            copy.lose()
        for copy in here:
            self.schedule(copy)
        self._schedule_flush()

    def _failed(self, error: Exception) -> None:
        self._lease.lapse()
        for copy in list(self.copies.values()):
            resolve(copy.findable)
            if copy.overflowing:
                copy.give_up(_OUTGREW)
            if copy.seal is not None:
                self._ended_while_down(copy)
                if self._loop.time() - copy.ended_at > copy.key.route.retention:
                    self._drop(copy)  # nobody would find it any more
