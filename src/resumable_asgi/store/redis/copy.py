"""One live log and its copy in Redis: what is known of the copy, what it needs next, what the answers mean.

The copy is either in step, and then an append says what to add, or not, and then the claim script makes it
or tells how far it is. Every trouble, whatever it was, ends in "not in step": a reply lost after the append,
a Redis that comes back empty or as a stale replica, a seal that somebody else wrote. This module does no I/O.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Protocol

from ...outcome import Outcome
from ...stream.log import Log
from ...stream.store import StreamKey
from . import refusals
from .commands import Commands, LogKeys
from .connection import RedisRefusedError
from .resp import Reply, ReplyError

logger = logging.getLogger(__name__)

_LONGEST_ENTRY = 16 * 1024
_MOST_ENTRIES = 8
"""On one trip, for one log."""
_FIRST_CLAIM, _CLAIM, _APPEND, _SEAL, _CLEAR, _BURIAL = 1, 2, 4, 8, 16, 32


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
        """Let go of the bytes of a log that has ended."""
        ...

    def consider(self, copy: RedisCopy) -> None:
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
    """The copy of one live log. As a reader of the log it keeps the bytes not yet copied."""

    __slots__ = (
        "_commands",
        "_delivered",
        "_fresh",
        "_sent",
        "_sent_ends",
        "_watch",
        "abandoned",
        "clear_after",
        "ended_at",
        "findable",
        "followed",
        "in_step",
        "key",
        "keys",
        "log",
        "offset",
        "overflowing",
        "queued",
        "released",
        "renew_at",
        "seal",
        "sealed",
        "settled",
        "timer",
        "was_delivered",
        "writer",
    )

    def __init__(self, key: StreamKey, log: Log, commands: Commands, writer: CopyWriter) -> None:
        loop = asyncio.get_running_loop()
        self.key = key
        self.log = log
        self.writer = writer
        self.keys = commands.log_keys(key.name, log.id)
        self.offset = 0
        """Bytes of the log that Redis is known to hold."""
        self.in_step = False
        self.followed = False
        """Whether somebody follows from another process; if so the writer is told of every append."""
        self.queued = False
        """Whether it waits for the next trip."""
        self.overflowing = False
        self.abandoned = False
        """Whether the copy can no longer be completed, and is only to be sealed."""
        self.released = False
        """Whether the bytes are no longer here; the copy is then sealed as what it is."""
        self.seal: tuple[Outcome, str] | None = None
        """The seal that the run asks for."""
        self.was_delivered: Callable[[], bool] | None = None
        """Tells whether a client was handed all of the log, when the seal is written."""
        self.sealed = False
        """Whether the copy is sealed, by whomever."""
        self.ended_at = 0.0
        self.clear_after: float | None = None
        """Seconds for which a delivered log may still be found; None while it is not delivered."""
        self.renew_at = 0.0
        self.findable: asyncio.Future[None] = loop.create_future()
        """Done when others can find the log, or when that cannot be waited for."""
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when there is nothing more to do for the copy."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends the log here, should Redis not answer the seal in time."""
        self._commands = commands
        self._watch: Callable[[], None] | None = None
        self._fresh = True
        self._delivered = False
        """Whether the seal that was sent says so."""
        self._sent = 0
        """What of it is on a trip: `_CLAIM` and so on."""
        self._sent_ends: list[int] = []
        """The offsets after the entries that were sent."""

    # -- what the run asks for

    async def claimed(self) -> None:
        await self.writer.claimed(self)

    def overflow(self) -> None:
        self.writer.overflow(self)

    @property
    def followed_elsewhere(self) -> bool:
        return self.followed and not self.abandoned and not self.settled.done()

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
        """Be with another writer from now on, which is to look at the copy before it adds anything."""
        self._note_followers(False)
        self.writer = writer
        self.queued = False
        self.doubt()

    # -- what it needs

    @property
    def fresh(self) -> bool:
        """Whether nobody else can know of it: no claim was sent."""
        return self._fresh

    @property
    def under_way(self) -> bool:
        """Whether it is on a trip of which the answers have not come."""
        return self._sent != 0

    @property
    def due(self) -> bool:
        """Whether it must not wait for its appends to be gathered."""
        if self._sent:
            return False
        if self.sealed or self.clear_after is not None:
            return self.clear_after is not None
        if self.abandoned or not self.in_step or self.seal is not None:
            return True
        return self.log.end - self.offset > (0 if self.followed else _LONGEST_ENTRY)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do for the copy."""
        return self.sealed and self.clear_after is None and not self._sent

    def doubt(self) -> None:
        """What was sent may or may not have happened: look at the copy before anything is added to it."""
        self.in_step = False
        self._sent = 0

    def write(self, commands: list[bytes]) -> int:
        """Add the commands that it needs next; returns the bytes of the log among them."""
        if self.sealed:
            commands.append(self._clear_command())
            self._sent = _CLEAR
            return 0
        if self.abandoned:
            commands.append(self._seal_command(Outcome.INTERRUPTED, "incomplete", anywhere=True))
            self._sent = _BURIAL
            return 0
        if self.released and self.seal is not None:
            commands.append(self._seal_command(*self.seal, anywhere=self.seal[0] is Outcome.STOPPED))
            self._sent = _SEAL
            return 0
        if not self.in_step:
            self.claim(commands)
            return 0
        self._sent_ends = []
        end = self.offset
        while end < self.log.end and len(self._sent_ends) < _MOST_ENTRIES:
            data = self.log.read(end, _LONGEST_ENTRY)
            end += len(data)
            self._append(commands, end, data)
            self._sent_ends.append(end)
            self._sent = _APPEND
        if self.seal is not None and end == self.log.end:
            commands.append(self._seal_command(*self.seal, anywhere=False))
            self._sent |= _SEAL
        if self.clear_after is not None:
            commands.append(self._clear_command())
            self._sent |= _CLEAR
        return end - self.offset

    def claim(self, commands: list[bytes]) -> None:
        """Add the commands that make the copy, or tell how far it is."""
        # A live log is to be kept for `retention` after its worker's death, and is renewed halfway. Its
        # pointer is put right once a lease, should it have been evicted; not all of them at the same moment.
        ttl = 2 * self.key.route.retention
        findable, latest = not self.overflowing, self.writer.newest(self.key) is self
        spread = 0.6 + int(self.log.id[-2:], 16) / 1700
        self.renew_at = time.monotonic() + min(ttl / 2, spread * self.writer.lease if latest else ttl)
        head = self.log.head.to_json()
        if self._fresh and findable:
            commands += self._commands.first_claim(self.keys, head, ttl)
            self._sent = _FIRST_CLAIM
        else:
            commands.append(self._commands.claim(self.keys, head, ttl, findable=findable, latest=latest))
            self._sent = _CLAIM
        self._fresh = False

    def _append(self, commands: list[bytes], end: int, data: bytes) -> None:
        """One entry, and its publication; while nobody is known to follow, only its end is published."""
        if self.overflowing:
            width = self.key.route.max_bytes
            worker = self.log.head.worker
            commands.append(self._commands.append_to_window(self.keys, end, data, width, worker))
        else:
            commands.append(self._commands.append(self.keys, end, data))
        commands.append(self._commands.publish(self.keys, end, data if self.followed else b""))

    def _seal_command(self, outcome: Outcome, detail: str, *, anywhere: bool) -> bytes:
        route = self.key.route
        self._delivered = outcome is Outcome.DONE and self.was_delivered is not None and self.was_delivered()
        findable_for = route.replay_finished if self._delivered else None
        if self.abandoned or self.released:  # it is the only command for the pointer, too
            findable_for = self.clear_after
        return self._commands.seal(
            self.keys,
            outcome,
            detail,
            retention=route.retention,
            at=None if anywhere else self.log.end,
            delivered=findable_for,
        )

    def _clear_command(self) -> bytes:
        retention = self.key.route.retention
        return self._commands.clear(
            self.keys, self.clear_after or 0, retention=retention, hide=self.overflowing
        )

    # -- what Redis answered

    def answered(self, replies: Iterator[Reply]) -> None:
        """Take the replies to what `write` added. Raises `RedisRefusedError`."""
        sent, self._sent = self._sent, 0
        if sent & _FIRST_CLAIM:
            self._first_claim_answered([next(replies) for _ in range(5)])
        if sent & _CLAIM:
            self._claim_answered(next(replies))
        if sent & _APPEND:
            for end in self._sent_ends:
                self._appended(end, next(replies), next(replies))
        if sent & _SEAL:
            self._seal_answered(next(replies))
        if sent & (_CLEAR | _BURIAL):
            refused(next(replies))
            self.sealed = self.sealed or sent & _BURIAL != 0
            self.clear_after = None

    def _first_claim_answered(self, replies: list[Reply]) -> None:
        done: Reply = replies.pop()
        # Nothing of a transaction that was refused has happened.
        self._fresh = isinstance(done, ReplyError) and str(done).startswith("EXECABORT")
        replies += done if isinstance(done, list) else [done]
        if not any(map(refused, replies)):  # else another claim will tell
            self.in_step = True
            resolve(self.findable)

    def _claim_answered(self, reply: Reply) -> None:
        if refused(reply):
            self.abandon(f"Redis holds something else in its place ({reply})")
            return
        stored = int(reply[0])
        if reply[1:] == [b"replaced"]:
            self.writer.replaced(self)
        elif len(reply) > 1:
            self._settle(*_seal_of(reply))
            return
        if self.log.start <= stored <= self.log.end:
            self.offset = stored
            self.in_step = True
            resolve(self.findable)
        else:
            here = f"{self.log.start} to {self.log.end}"
            self.abandon(f"Redis holds {stored} bytes of it, and here are those from {here}")

    def _appended(self, end: int, reply: Reply, followers: Reply) -> None:
        self._note_followers(isinstance(followers, int) and followers > 0)
        refused(reply)
        if not isinstance(reply, bytes):  # vanished, sealed by somebody, or there already
            self.in_step = False
        if not self.in_step:
            return
        self.offset = end
        if self.log.progressed is not None:
            self.log.progressed()

    def _note_followers(self, followed: bool) -> None:
        self.followed = followed
        if followed and self._watch is None:
            self._watch = partial(self.writer.consider, self)
            self.log.watch(self._watch, first=True)  # it is on its way while the others send
        elif not followed and self._watch is not None:
            self.log.unwatch(self._watch)
            self._watch = None

    def _seal_answered(self, reply: Reply) -> None:
        if refused(reply):
            self.abandon(f"Redis holds something else in its place ({reply})")
        elif reply[0] == b"sealed":
            assert self.seal is not None
            note_untold(self._commands, self.keys, reply)
            self.log.delivered = self._delivered
            self._settle(*self.seal)
        elif reply[0] == b"was":
            self._settle(*_seal_of(reply))
        elif not self.released:
            self.in_step = False
        elif reply[0] == b"gone":
            self._settle(*self.seal or (Outcome.LOST, ""))
        else:
            self.abandoned = True

    def _settle(self, outcome: Outcome, detail: str) -> None:
        self.sealed = True
        if self.released:
            self.clear_after = None  # the seal did it
        self.log.seal(outcome, detail)

    def abandon(self, reason: str) -> None:
        """Its copy cannot be completed any more: seal it, for those who follow it elsewhere."""
        if self.abandoned:
            return
        self.abandoned = True
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
        """Let go of the bytes of a log that has ended. Those who follow it here have the log themselves."""
        if self.released:
            return
        self._note_followers(False)
        log = self.log
        log.readers.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.was_delivered = None
        self.log = Log(log.id, log.head)
        self.log.start = self.log.end = log.end
        self.log.seal(log.outcome or Outcome.LOST, log.detail)
        self.released = True

    def let_go(self) -> None:
        """There is nothing more to do for it."""
        self.log.readers.discard(self)
        self._note_followers(False)
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.was_delivered = None  # the run must not outlive its task
        resolve(self.findable)
        resolve(self.settled)


def resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def note_untold(commands: Commands, keys: LogKeys, reply: list[Reply]) -> None:
    """Say it if a seal could not be published."""
    if len(reply) > 1:
        refusals.note(commands.publish(keys, 0, b""), reply[1].decode("utf-8", "replace"))


def _seal_of(reply: list[Reply]) -> tuple[Outcome, str]:
    """The seal in an answer. One that no version known here writes stands for the worst."""
    try:
        return Outcome(reply[1].decode()), reply[2].decode()
    except (ValueError, IndexError):
        return Outcome.LOST, "an unknown seal"


_OF_ONE_LOG = ("WRONGTYPE", "equal or smaller", "exhausted the last possible ID")
"""Errors that tell something about one log, by their texts in Redis 6.2 to Valkey 9; a script's error holds
that of its command. All others are taken to be Redis's state."""


def refused(reply: Reply) -> bool:
    """Whether a reply is an error that concerns one log only. Raises `RedisRefusedError` for every other."""
    if not isinstance(reply, ReplyError):
        return False
    text = str(reply)
    if any(part in text for part in _OF_ONE_LOG):
        return True
    raise RedisRefusedError(text)
