"""All followed logs of other processes: one subscribed connection, and one task that watches them.

A tail subscribes first and then reads the past. It reads again after a reconnect and after silence. Logs of
dead workers are sealed.
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
from .answers import SealAnswer, note_untold
from .commands import Commands
from .connection import Connect, Connection, ConnectionLostError, Link
from .resp import Reply, ReplyError, is_elsewhere, pack
from .tail import Tail

logger: logging.Logger = logging.getLogger(__name__)

_PERIOD = 0.5
"""Seconds between two rounds of the watch."""
_PAUSE = 0.5
"""Seconds before a tail subscribes again after its hash slot has moved."""
_SILENT_ROUNDS = 4
"""Rounds in which nothing arrived, after which a log is read, because a publication may have been lost."""

_SHORT = 64 * 1024
"""A past of at most this many bytes is read after the subscription only, which saves one read."""

_PING = pack(b"PING")


@dataclass(frozen=True, slots=True)
class Past:
    """What a look-up tells of a log: its end, and the end offset and the bytes of its first entry."""

    end: int
    first: tuple[int, bytes] | None


class Shard(Protocol):
    """What a tailer asks of its store. In a Cluster another node may have to answer."""

    async def have_leases(self, workers: list[str]) -> list[Reply]:
        """For each worker 1 if it has a lease, 0 if not, or an error."""
        ...

    async def post_stop(self, worker: str, stream_id: bytes) -> None:
        """Put the id of a stream into its worker's mailbox: it is to be stopped, or is sealed already.

        Raises `StoreUnavailableError`.
        """
        ...

    async def moved(self) -> None:
        """Find out which nodes have the logs now, and hand tails over to their shards."""
        ...


class Tailer:
    """All tails of a process for one primary."""

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
        self.subscription: Link = Link(
            connect,
            patience=patience,
            pushed=self._pushed,
            needed=lambda: bool(self._tails),
            opened=self._subscribe_to_all,
        )
        self._reader = reader
        self._commands = commands
        self._missing: dict[str, float] = {}
        """When each missing lease was first missed, in seconds of the loop's clock."""
        self._task: asyncio.Task[None] | None = None

    def follow(self, name: str, stream_id: str, head: Head, past: Past, *, sealed: bool) -> Log:
        """A log of another process, which is filled while it has readers."""
        keys = self._commands.log_keys(name, stream_id)
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
        if not sealed:  # in the next turn, so that the first bytes are sent first
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
        for tail in self._tails.values():  # nothing fills them from now on, so their followers end
            tail.log.seal(Outcome.INTERRUPTED, "shutdown")
        self._tails.clear()
        self.subscription.close()

    # -- publications

    def _pushed(self, message: Reply) -> None:
        """Handle a message of the subscribed connection."""
        if isinstance(message, ReplyError):
            self._refused(message)
            return
        if len(message) != 3:
            return  # the reply to PING
        kind, channel, payload = message
        tail = self._tails.get(channel)
        if tail is None:
            return
        if kind in (b"message", b"smessage"):
            tail.published(payload)
            return
        tail.subscribed = kind in (b"subscribe", b"ssubscribe")
        tail.read()  # the past; or, if the log has moved, the reply says so
        if kind == b"sunsubscribe":  # its hash slot has moved, and may come back
            asyncio.get_running_loop().call_later(_PAUSE, self._subscribe, tail)

    def _refused(self, error: ReplyError) -> None:
        """Handle an error reply. It does not say which channel it belongs to."""
        if is_elsewhere(error):  # reconnect, which looks up the nodes and subscribes to all logs
            asyncio.get_running_loop().call_later(_PAUSE, self.subscription.reopen)
            return
        refusals.note(self._commands.subscribe(b""), str(error))
        for tail in self._tails.values():
            if not tail.subscribed:
                tail.read()

    def _subscribe(self, tail: Tail) -> None:
        connection = self.subscription.connection
        if self._tails.get(tail.keys.log) is not tail:
            return  # it was dropped meanwhile
        if connection is not None:
            connection.send(self._commands.subscribe(tail.keys.log))
        else:
            self.subscription.need()

    def _subscribe_to_all(self, connection: Connection) -> None:
        """Subscribe to all live logs on a new connection."""
        for tail in self._tails.values():
            tail.subscribed = False
        live = [tail.keys.log for tail in self._tails.values() if tail.log.outcome is None]
        if live:
            connection.send(self._commands.subscribe(*live))

    def hand_over(self, belongs: Callable[[bytes], Tailer]) -> None:
        """Hand over each tail whose log belongs to another tailer."""
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
        """While there are tails: drop those without readers, and check those that are silent."""
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
            except Exception:  # without this task, followers of a dead worker would never end
                logger.exception("Redis sent an unexpected reply")

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
            if tail.reading is None or tail.reading.done():  # else the read decides
                tail.unreadable_since = None
        dead = self._note_workers(workers, leases, now)
        for tail, exists in zip(silent, there, strict=True):
            if exists:  # or an error, which the read will show too
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
        """Whether to read the log in this round, because nothing has arrived for some rounds."""
        rounds = _SILENT_ROUNDS if tail.subscribed else 1
        quiet = tail.quiet_rounds
        return quiet >= rounds and (quiet % rounds == 0 or tail.missing_since is not None)

    def _note_workers(self, workers: list[str], exist: list[Reply], now: float) -> set[str]:
        """The workers whose lease has been missing for longer than a live worker takes to renew it."""
        patience = min(3.0, self._settings.lease / 3)
        missing = [worker for worker, exists in zip(workers, exist, strict=True) if exists == 0]
        self._missing = {worker: self._missing.get(worker, now) for worker in missing}
        return {worker for worker, since in self._missing.items() if now - since >= patience}

    async def _seal_for_dead_worker(self, tail: Tail) -> None:
        """Seal the log of a dead worker, if nobody else has, and read the rest of it with the seal."""
        retention = max(route.retention for route in self._settings.routes)
        seal = self._commands.seal(tail.keys, Outcome.LOST, retention=retention)
        (reply,) = await tail.reader.fetch(seal)
        if is_elsewhere(reply):
            tail.read()  # which finds the node
        elif isinstance(reply, ReplyError) or (answer := SealAnswer.parse(reply)).gone:
            tail.lose("its worker died", "its worker died")
        else:
            if answer.sealed:
                note_untold(self._commands, tail.keys, answer)
                tail.warn("its worker died")
            tail.read()
        # If the worker has just come back, this tells it.
        await self._shard.post_stop(tail.log.head.worker, tail.keys.id)


def _is_error(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and not is_elsewhere(reply)
