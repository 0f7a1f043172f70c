"""One live log's copy in Redis: how far it is, what it needs next, and what the answers mean.

A copy is synced, and then an append says what to add; or it is not, and then the claim script makes it or
tells how far it is. Whatever goes wrong, a copy is stale afterwards: a reply that is lost after the append, a
Redis that comes back empty or as a stale replica, a seal that somebody else wrote. This module does no I/O.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from ...outcome import Outcome
from ...states import after
from ...stream.log import Log
from ...stream.store import StreamKey
from .answers import ClaimAnswer, Seal, SealAnswer, note_untold, refused
from .batch import Batch
from .commands import Commands, LogKeys
from .copy_state import COPY, CopyEvent, CopyState
from .resp import Reply, ReplyError

logger: logging.Logger = logging.getLogger(__name__)

_LONGEST_ENTRY = 16 * 1024
_MOST_ENTRIES = 8
"""In one batch, for one log."""


_NEW, _CLAIMING, _SYNCED, _STALE, _GIVEN_UP, _SEALED = CopyState

Clear = Callable[[StreamKey, str], Awaitable[None]]
"""Has Redis clear the pointer to a log of which the copy is settled, because a client got all of it."""


class CopyWriter(Protocol):
    """The writer that a copy is with."""

    lease: float
    clear: Clear

    def newest(self, key: StreamKey) -> RedisCopy | None: ...

    def replaced(self, copy: RedisCopy) -> None:
        """A newer stream of its key has the pointer, or had it last."""
        ...

    def release(self, copy: RedisCopy) -> None:
        """Release the bytes of a log that has ended."""
        ...

    def schedule(self, copy: RedisCopy) -> None:
        """Called on every append while somebody follows elsewhere."""
        ...

    async def claimed(self, copy: RedisCopy) -> None: ...

    def overflow(self, copy: RedisCopy) -> None: ...

    def finish(self, copy: RedisCopy) -> None:
        """Called once, when the copy has a seal to be written."""
        ...

    def delivered(self, copy: RedisCopy) -> None:
        """A client got all of a log that is not yet sealed, or not yet cleared, in Redis."""
        ...


class RedisCopy:
    """The copy of one live log. As a reader of the log it keeps the bytes that are not yet in Redis."""

    __slots__ = (
        "_commands",
        "_watch",
        "clear_after",
        "ended_at",
        "findable",
        "followed",
        "in_flight",
        "key",
        "keys",
        "log",
        "offset",
        "overflowing",
        "queued",
        "renew_at",
        "seal",
        "settled",
        "state",
        "timer",
        "was_delivered",
        "writer",
    )

    def __init__(self, key: StreamKey, log: Log, commands: Commands, writer: CopyWriter) -> None:
        loop = asyncio.get_running_loop()
        self.key: StreamKey = key
        self.log: Log = log
        self.writer: CopyWriter = writer
        self.keys: LogKeys = commands.log_keys(key.name, log.id)
        self.state: CopyState = CopyState.NEW
        self.offset: int = 0
        """Bytes of the log that Redis is known to hold."""
        self.followed: bool = False
        """Whether somebody follows from another process; if so the writer is told of every append."""
        self.queued: bool = False
        """Whether it waits for the next batch."""
        self.in_flight: bool = False
        """Whether answers to its commands are still to come, or are just being taken."""
        self.overflowing: bool = False
        self.seal: Seal | None = None
        """The seal that the run asks for."""
        self.was_delivered: Callable[[], bool] | None = None
        """Tells whether a client was handed all of the log, when the seal is written."""
        self.ended_at: float = 0.0
        self.clear_after: float | None = None
        """Seconds for which a delivered log may still be found; None while it is not delivered."""
        self.renew_at: float = 0.0
        self.findable: asyncio.Future[None] = loop.create_future()
        """Done when others can find the log, or when that cannot be waited for."""
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when there is nothing more to do for the copy."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends the log here, should Redis not answer the seal in time."""
        self._commands = commands
        self._watch: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<RedisCopy of {self.log.id}, {self.state.name}, {self.offset} of {self.log.end} bytes>"

    def _move(self, event: CopyEvent) -> None:
        self.state = after(COPY, self.state, event)

    # -- what the run asks for

    async def claimed(self) -> None:
        await self.writer.claimed(self)

    def overflow(self) -> None:
        self.writer.overflow(self)

    @property
    def followed_elsewhere(self) -> bool:
        return self.followed and self.state is not _GIVEN_UP and not self.settled.done()

    def finish(self, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None) -> None:
        if self.settled.done():
            self.log.seal(outcome, detail)
        elif self.seal is None:
            self.log.close()
            self.seal = (outcome, detail)
            self.was_delivered = delivered
            self.writer.finish(self)

    async def delivered(self) -> None:
        if self.log.delivered:
            return
        if self.settled.done():
            await self.writer.clear(self.key, self.log.id)
        else:
            self.writer.delivered(self)

    def pass_to(self, writer: CopyWriter) -> None:
        """Be with another writer from now on, which must claim the copy before it appends."""
        self._note_followers(False)
        self.writer = writer
        self.queued = False
        self.lose()

    # -- what it needs

    @property
    def released(self) -> bool:
        """Whether the bytes are no longer here; the copy is then sealed as what it is."""
        return isinstance(self.log, _ReleasedLog)

    @property
    def due(self) -> bool:
        """Whether it must not wait for its appends to be gathered."""
        if self.in_flight:
            return False
        if self.state is _SEALED or self.clear_after is not None:
            return self.clear_after is not None
        if self.state is not _SYNCED or self.seal is not None:
            return True
        return self.log.end - self.offset > (0 if self.followed else _LONGEST_ENTRY)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do for the copy."""
        return self.state is _SEALED and self.clear_after is None and not self.in_flight

    def invalidate(self) -> None:
        """The copy may not be what it was taken for: claim it before anything is appended."""
        self._move(CopyEvent.INVALIDATE)

    def lose(self) -> None:
        """The connection is lost: no answer will come to what is in flight."""
        self._move(CopyEvent.LOSE)
        self.in_flight = False

    def write(self, batch: Batch) -> int:
        """Add the commands that it needs next; returns the bytes of the log among them."""
        before, size = len(batch.commands), 0
        if self.state is _SYNCED and (self.seal is None or not self.released):
            size = self._append(batch)
        elif self.state is _SEALED:
            self._clear(batch)
        elif self.state is _GIVEN_UP:
            command, _ = self._seal_command(Outcome.INTERRUPTED, "incomplete", anywhere=True)
            batch.add([command], self._given_up_sealed)
        elif self.released and self.seal is not None:
            self._seal(batch, self.seal, anywhere=self.seal[0] is Outcome.STOPPED)
        else:
            self._claim(batch)
        self.in_flight = len(batch.commands) > before
        return size

    def _append(self, batch: Batch) -> int:
        """Add the next entries, and the seal if it is asked for and they are the last.

        Each entry is published; while nobody is known to follow, only its end.
        """
        log, keys, commands, packed = self.log, self.keys, self._commands, batch.commands
        ends: list[int] = []
        end = self.offset
        while end < log.end and len(ends) < _MOST_ENTRIES:
            data = log.read(end, _LONGEST_ENTRY)
            end += len(data)
            ends.append(end)
            if self.overflowing:
                width, worker = self.key.route.max_bytes, log.head.worker
                packed.append(commands.append_to_window(keys, end, data, width, worker))
            else:
                packed.append(commands.append(keys, end, data))
            packed.append(commands.publish(keys, end, data if self.followed else b""))
        if ends:
            batch.expect(2 * len(ends), partial(self._appended, ends))
        if self.seal is not None and end == log.end:
            self._seal(batch, self.seal, anywhere=False)
        if self.clear_after is not None:
            self._clear(batch)
        return end - self.offset

    def _claim(self, batch: Batch) -> None:
        """Add the commands that make the copy, or tell how far it is."""
        # A live log is kept for `retention` after its worker's death, and is renewed halfway. Its pointer is
        # put right once a lease, in case it was evicted; not all of them at the same moment.
        ttl = 2 * self.key.route.retention
        findable, latest = not self.overflowing, self.writer.newest(self.key) is self
        spread = 0.6 + int(self.log.id[-2:], 16) / 1700
        self.renew_at = time.monotonic() + min(ttl / 2, spread * self.writer.lease if latest else ttl)
        head = self.log.head.to_json()
        if self.state is _NEW and findable:
            batch.add(self._commands.first_claim(self.keys, head, ttl), self._first_claim_answered)
        else:
            claim = self._commands.claim(self.keys, head, ttl, findable=findable, latest=latest)
            batch.add([claim], self._claim_answered)
        self._move(CopyEvent.CLAIM)

    def _seal(self, batch: Batch, seal: Seal, *, anywhere: bool) -> None:
        command, delivered = self._seal_command(*seal, anywhere=anywhere)
        batch.add([command], partial(self._seal_answered, delivered))

    def _seal_command(self, outcome: Outcome, detail: str, *, anywhere: bool) -> tuple[bytes, bool]:
        """The command, and whether it says that a client was handed all of the log."""
        route = self.key.route
        delivered = outcome is Outcome.DONE and self.was_delivered is not None and self.was_delivered()
        findable_for = route.replay_finished if delivered else None
        if self.state is _GIVEN_UP or self.released:  # it is the only command for the pointer, too
            findable_for = self.clear_after
        command = self._commands.seal(
            self.keys,
            outcome,
            detail,
            retention=route.retention,
            at=None if anywhere else self.log.end,
            delivered=findable_for,
        )
        return command, delivered

    def _clear(self, batch: Batch) -> None:
        after, retention = self.clear_after or 0, self.key.route.retention
        clear = self._commands.clear(self.keys, after, retention=retention, hide=self.overflowing)
        batch.add([clear], self._cleared)

    # -- what Redis answered. All of these raise `RedisRefusedError`.

    def _first_claim_answered(self, replies: list[Reply]) -> None:
        done: Reply = replies.pop()
        if isinstance(done, ReplyError) and str(done).startswith("EXECABORT"):
            self._move(CopyEvent.REFUSED)  # nothing of the transaction has happened
        replies += done if isinstance(done, list) else [done]
        if not any(map(refused, replies)):
            self._move(CopyEvent.CLAIMED)
            resolve(self.findable)
        elif self.state is _CLAIMING:  # another claim will tell
            self._move(CopyEvent.LOSE)

    def _claim_answered(self, replies: list[Reply]) -> None:
        (reply,) = replies
        if refused(reply):
            self.give_up(f"Redis holds something else in its place ({reply})")
            return
        answer = ClaimAnswer.parse(reply)
        if answer.seal is not None:
            self._settle(*answer.seal)
            return
        if answer.replaced:
            self.writer.replaced(self)
        if self.log.start <= answer.stored <= self.log.end:
            self.offset = answer.stored
            self._move(CopyEvent.CLAIMED)
            resolve(self.findable)
        else:
            here = f"{self.log.start} to {self.log.end}"
            self.give_up(f"Redis holds {answer.stored} bytes of it, and here are those from {here}")

    def _appended(self, ends: list[int], replies: list[Reply]) -> None:
        each = iter(replies)
        for end, reply, followers in zip(ends, each, each, strict=False):
            self._note_followers(isinstance(followers, int) and followers > 0)
            refused(reply)
            if self.state is not _SYNCED:
                continue
            if not isinstance(reply, bytes):  # vanished, sealed by somebody, or there already
                self.invalidate()
                continue
            self.offset = end
            if self.log.progressed is not None:
                self.log.progressed()

    def _seal_answered(self, delivered: bool, replies: list[Reply]) -> None:
        (reply,) = replies
        if refused(reply):
            self.give_up(f"Redis holds something else in its place ({reply})")
            return
        answer = SealAnswer.parse(reply)
        if answer.sealed:
            assert self.seal is not None
            note_untold(self._commands, self.keys, answer)
            self.log.delivered = delivered
            self._settle(*self.seal)
        elif answer.before is not None:
            self._settle(*answer.before)
        elif not self.released:
            self.invalidate()
        elif answer.gone:
            self._settle(*self.seal or (Outcome.LOST, ""))
        else:
            self._move(CopyEvent.GIVE_UP)

    def _given_up_sealed(self, replies: list[Reply]) -> None:
        refused(replies[0])
        self._move(CopyEvent.SEAL)
        self.clear_after = None

    def _cleared(self, replies: list[Reply]) -> None:
        refused(replies[0])
        self.clear_after = None

    def _settle(self, outcome: Outcome, detail: str) -> None:
        self._move(CopyEvent.SEAL)
        if self.released:
            self.clear_after = None  # the seal did it
        self.log.seal(outcome, detail)

    def _note_followers(self, followed: bool) -> None:
        self.followed = followed
        if followed and self._watch is None:
            self._watch = partial(self.writer.schedule, self)
            self.log.watch(self._watch, first=True)  # Redis works while local followers send
        elif not followed and self._watch is not None:
            self.log.unwatch(self._watch)
            self._watch = None

    def give_up(self, reason: str) -> None:
        """The copy cannot be completed: seal it, for those who follow it elsewhere."""
        if self.state in (_GIVEN_UP, _SEALED):
            return
        self._move(CopyEvent.GIVE_UP)
        self.warn(reason)
        resolve(self.findable)
        self.log.readers.discard(self)
        if self.log.progressed is not None:
            self.log.progressed()
        if self.seal is not None:
            self.log.seal(*self.seal)

    def warn(self, reason: str) -> None:
        logger.warning("%s can no longer be recorded: %s", str(self.log), reason)

    def release(self) -> None:
        """Release the bytes of a log that has ended. Those who follow it here have the log themselves."""
        if self.released:
            return
        self._detach()
        self.log = _ReleasedLog(self.log)

    def settle(self) -> None:
        """There is nothing more to do for the copy."""
        self._detach()
        resolve(self.findable)
        resolve(self.settled)

    def _detach(self) -> None:
        self.log.readers.discard(self)
        self._note_followers(False)
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.was_delivered = None  # they refer to the log and to its run


class _ReleasedLog(Log):
    """A sealed log without its bytes."""

    __slots__ = ()

    def __init__(self, log: Log) -> None:
        super().__init__(log.id, log.head)
        self.start = self.end = log.end
        self.seal(log.outcome or Outcome.LOST, log.detail)


def resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
