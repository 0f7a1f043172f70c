"""All followed logs of other processes: one connection that subscribes to them, and one watch over them.

A tail is subscribed first, then the past is read, and again after a new connection and in silence. Logs whose
worker is dead are sealed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...errors import StoreUnavailableError
from ...outcome import Outcome
from ...settings import Settings
from ...stream.log import Head, Log
from . import refusals
from .commands import Commands
from .connection import Connect, Connection, ConnectionLostError, Link
from .copy import note_untold
from .resp import Reply, ReplyError, is_elsewhere, pack
from .tail import Tail

logger = logging.getLogger(__name__)

_PERIOD = 0.5
"""Seconds between looks at all tails."""
_PAUSE = 0.5
"""Seconds until a log that is no longer on a node is subscribed to again, should it still be sought there."""
_SILENT_ROUNDS = 4
"""Of such looks without news of a log, after which it is read, should a publication have been lost."""

_SHORT = 64 * 1024
"""Bytes; so much of the past of a live log is read only once it is subscribed to, which saves a reading."""

_PING = pack(b"PING")


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a log that was found: its end, and its first entry: the offset after it, its bytes."""

    end: int
    first: tuple[int, bytes] | None


class Shard(Protocol):
    """What a tailer asks of its store, since in a Cluster it may be the affair of another node."""

    async def have_leases(self, workers: list[str]) -> list[Reply]:
        """Whether each has a lease: 1, 0, or an error."""
        ...

    async def post_stop(self, worker: str, stream_id: bytes) -> None:
        """Tell a worker that a stream of its is to end, or was ended. Raises `StoreUnavailableError`."""
        ...

    async def moved(self) -> None:
        """Find out where logs are that are not here any more, and hand their tails over."""
        ...


class Tailer:
    """All tails of a process at one primary."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        patience: float,
        reader: Link,
        commands: Commands,
        shard: Shard,
    ) -> None:
        self._shard = shard
        self._settings = settings
        self._max_bytes = max(route.max_bytes for route in settings.routes)
        self._tails: dict[bytes, Tail] = {}
        self.subscription = Link(
            connect,
            patience=patience,
            pushed=self._pushed,
            needed=lambda: bool(self._tails),
            opened=self._subscribe_to_all,
        )
        self._reader = reader
        self._commands = commands
        self._missing: dict[str, float] = {}
        """Since when the lease of a worker has been gone."""
        self._task: asyncio.Task[None] | None = None

    def follow(self, slot: str, stream_id: str, head: Head, past: Past, *, sealed: bool) -> Log:
        """The log of another process, filled as long as it has readers."""
        keys = self._commands.log_keys(slot, stream_id)
        tail = self._tails.get(keys.log)
        if tail is not None and (tail.log.outcome is None or sealed):
            tail.idle_rounds = 0
            return tail.log
        log = Log(stream_id, head)
        tail = Tail(
            log,
            keys,
            past.end,
            reader=self._reader,
            commands=self._commands,
            max_bytes=self._max_bytes,
            patience=self._settings.lease,
            moved=self._shard.moved,
        )
        self._tails[keys.log] = tail
        if past.first is not None:
            tail.take(*past.first)
        if sealed or self.subscription.connection is None or past.end - log.end > _SHORT:
            tail.read()
        if not sealed:  # in the next turn: the first bytes are here, and can be sent in this one
            asyncio.get_running_loop().call_soon(self._subscribe, tail)
        self._ensure_watch()
        return log

    async def aclose(self) -> None:
        tasks = [self._task, *(tail.reading for tail in self._tails.values())]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for tail in self._tails.values():  # nobody fills them any more: their followers must not wait
            tail.log.seal(Outcome.INTERRUPTED, "shutdown")
        self._tails.clear()
        self.subscription.close()

    # -- publications

    def _pushed(self, message: Reply) -> None:
        """What comes on the subscription connection."""
        if isinstance(message, ReplyError):
            self._refused(message)
            return
        if len(message) != 3:
            return  # an answer to PING
        kind, channel, payload = message
        tail = self._tails.get(channel)
        if tail is None:
            return
        if kind in (b"message", b"smessage"):
            tail.published(payload)
            return
        tail.subscribed = kind in (b"subscribe", b"ssubscribe")
        tail.read()  # the past, and what was published until now; or what tells where the log went
        if kind == b"sunsubscribe":  # its hash slot moves, and may be back before anybody knows
            asyncio.get_running_loop().call_later(_PAUSE, self._subscribe, tail)

    def _refused(self, error: ReplyError) -> None:
        """An error does not say for which log it is."""
        if is_elsewhere(error):  # ask over a new connection where they are, for all of them
            asyncio.get_running_loop().call_later(_PAUSE, self.subscription.reopen)
            return
        refusals.note(self._commands.subscribe(b""), str(error))
        for tail in self._tails.values():
            if not tail.subscribed:
                tail.read()

    def _subscribe(self, tail: Tail) -> None:
        connection = self.subscription.connection
        if self._tails.get(tail.keys.log) is not tail:
            return  # let go of since
        if connection is not None:
            connection.send(self._commands.subscribe(tail.keys.log))
        else:
            self.subscription.need()

    def _subscribe_to_all(self, connection: Connection) -> None:
        """What is followed over a new connection."""
        for tail in self._tails.values():
            tail.subscribed = False
        live = [tail.keys.log for tail in self._tails.values() if tail.log.outcome is None]
        if live:
            connection.send(self._commands.subscribe(*live))

    def hand_over(self, belongs: Callable[[bytes], Tailer]) -> None:
        """Have other tailers see to the tails that belong to them by their logs' keys."""
        for key, tail in list(self._tails.items()):
            other = belongs(key)
            if other is not self:
                del self._tails[key]
                other._adopt(tail)

    def _adopt(self, tail: Tail) -> None:
        tail.reader = self._reader
        tail.moved = self._shard.moved
        tail.subscribed = False
        self._tails[tail.keys.log] = tail
        self._subscribe(tail)
        self._ensure_watch()

    def _ensure_watch(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())

    # -- silence and death

    async def _watch(self) -> None:
        """While something is followed: let go of what nobody reads, look after what is silent."""
        while self._tails:
            await asyncio.sleep(_PERIOD)
            self._drop_unread()
            connection = self.subscription.connection
            if connection is not None:
                if connection.silence > max(self._settings.lease / 3, 4 * _PERIOD):
                    self.subscription.reopen()
                else:
                    connection.send(_PING)
            live = [tail for tail in self._tails.values() if tail.log.outcome is None]
            for tail in live:
                tail.quiet_rounds += 1
            try:
                await self._check(live)
            except (ConnectionLostError, StoreUnavailableError, TimeoutError):
                for tail in live:
                    tail.given_up()
            except Exception:  # the one task that ends followers of the dead must go on
                logger.exception("an answer of Redis could not be understood")

    def _drop_unread(self) -> None:
        connection = self.subscription.connection
        for key, tail in list(self._tails.items()):
            tail.idle_rounds = 0 if tail.log.readers else tail.idle_rounds + 1
            if tail.idle_rounds > 2:
                del self._tails[key]
                if tail.reading is not None:
                    tail.reading.cancel()
                if connection is not None:
                    connection.send(self._commands.unsubscribe(key))

    async def _check(self, live: list[Tail]) -> None:
        now = asyncio.get_running_loop().time()
        workers = list({tail.log.head.worker for tail in live})
        silent = [tail for tail in live if self._is_silent(tail)]
        if not live:
            return
        async with asyncio.timeout(self._settings.lease):
            leases = await self._shard.have_leases(workers)
            there = await self._reader.fetch(*[self._commands.exists(tail.keys.log) for tail in silent])
        for tail in live:
            if tail.reading is None or tail.reading.done():  # else its reading tells
                tail.unreadable_since = None
        dead = self._note_workers(workers, leases, now)
        for tail, exists in zip(silent, there, strict=True):
            if exists:  # or an error: reading tells more
                tail.missing_since = None
                tail.read()
            elif tail.missing_since is None:
                tail.missing_since = now
            elif now - tail.missing_since > self._settings.lease:
                tail.lose("vanished", "it is gone from Redis")
        unknown = {worker for worker, exists in zip(workers, leases, strict=True) if _is_error(exists)}
        for tail in live:
            if tail.log.head.worker in dead:
                await self._seal_for_dead_worker(tail)
            elif tail.log.head.worker in unknown and tail.quiet_rounds * _PERIOD >= self._settings.lease:
                tail.lose("silent", "nothing comes, and Redis does not say whether its worker lives")

    def _is_silent(self, tail: Tail) -> bool:
        """Whether to read it now, and in every so many rounds as long as nothing comes."""
        rounds = _SILENT_ROUNDS if tail.subscribed else 1
        quiet = tail.quiet_rounds
        return quiet >= rounds and (quiet % rounds == 0 or tail.missing_since is not None)

    def _note_workers(self, workers: list[str], exist: list[Reply], now: float) -> set[str]:
        """The workers whose lease has been gone for long enough that an emptied Redis would have it back."""
        patience = min(3.0, self._settings.lease / 3)
        missing = [worker for worker, exists in zip(workers, exist, strict=True) if exists == 0]
        self._missing = {worker: self._missing.get(worker, now) for worker in missing}
        return {worker for worker, since in self._missing.items() if now - since >= patience}

    async def _seal_for_dead_worker(self, tail: Tail) -> None:
        """Seal the log of a dead worker, unless somebody was faster; read what there is and the seal."""
        retention = max(route.retention for route in self._settings.routes)
        seal = self._commands.seal(tail.keys, Outcome.LOST, retention=retention)
        (reply,) = await tail.reader.fetch(seal)
        if is_elsewhere(reply):
            tail.read()  # finds out where
        elif isinstance(reply, ReplyError) or reply[0] == b"gone":
            tail.lose("its worker died", "its worker died")
        else:
            if reply[0] == b"sealed":
                note_untold(self._commands, tail.keys, reply)
                tail.warn("its worker died")
            tail.read()
        # Should the worker have come back just now, it must hear of it.
        await self._shard.post_stop(tail.log.head.worker, tail.keys.id)


def _is_error(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and not is_elsewhere(reply)
