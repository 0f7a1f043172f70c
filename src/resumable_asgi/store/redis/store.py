"""Logs in Redis, for all processes: three connections a process, however many streams and followers.

One writes, one asks and reads, one is subscribed. None of them is shared with the app.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from ...errors import StoreUnavailableError
from ...outcome import Outcome
from ...settings import Settings
from ...stream.log import Head, Log, new_stream_id
from ...stream.store import Found, Slot
from . import refusals
from .backlog import Backlog
from .commands import Commands
from .connection import Connect, ConnectionLostError, Link
from .copy import Record
from .resp import Reply, ReplyError, is_elsewhere
from .tailer import Past, Tailer
from .writer import Writer

logger = logging.getLogger(__name__)

_STOP_LOOKS, _STOP_PAUSE = 15, 0.04
"""How often, and at what distance in seconds, to look whether a worker has sealed a log of its that is to
stop. It hears of it with its next heartbeat; one that is silent for longer is not waited for."""

_LOOK_AFTER = 1.0
"""Seconds after the first stream."""


class ElsewhereError(StoreUnavailableError):
    """Another node of the Cluster serves that key."""


class RedisStore:
    """The store of one event loop in one process, at one primary."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        *,
        worker: str | None = None,
        sharded: bool = False,
        backlog: Backlog | None = None,
    ) -> None:
        """`backlog` is shared by all stores of a process."""
        self._worker = worker or new_stream_id()
        self._timeout = settings.redis_timeout
        self._looked = False
        """Whether the server was, or will be, asked how it uses its memory."""
        self._commands = commands = Commands(settings.prefix, sharded=sharded)
        patience = max(settings.lease / 3, settings.redis_timeout)
        self.reader = Link(connect, patience=patience)
        self.writer = Writer(
            settings, connect, patience, commands, self._worker, self._record_moved, backlog or Backlog()
        )
        self.tailer = Tailer(settings, connect, patience, self.reader, commands, self)

    def worker(self, slot: Slot) -> str:
        return self._worker

    def claim(self, slot: Slot, log: Log) -> None:
        self.writer.claim(slot, log)
        if not self._looked:  # without a lifespan; the first stream comes first
            self._looked = True
            asyncio.get_running_loop().call_later(_LOOK_AFTER, self._look_at_memory)

    async def claimed(self, log: Log) -> None:
        await self.writer.claimed(log)

    def overflow(self, log: Log) -> None:
        self.writer.overflow(log)

    def followed_elsewhere(self, log: Log) -> bool:
        record = self.writer.records.get(log.id)
        return record is not None and record.followed and not record.abandoned

    def finish(
        self, log: Log, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None
    ) -> None:
        self.writer.finish(log, outcome, detail, delivered)

    async def delivered(self, slot: Slot, log: Log) -> None:
        if log.delivered or self.writer.delivered(log):
            return
        keys = self._commands.log_keys(slot.name, log.id)
        route = slot.route
        clear = self._commands.clear(keys, route.replay_finished, retention=route.retention)
        try:
            await self._ask(self.reader, clear)
        except StoreUnavailableError:
            logger.info("stream %s was delivered, but Redis could not be told: it may be replayed", log.id)

    async def find(self, slot: Slot, stream_id: str | None = None) -> Found | None:
        own = self._own(slot, stream_id)
        if own is not None and own.overflowing:
            return None
        try:
            reply = await self._find(slot, stream_id or "")
        except StoreUnavailableError:
            if own is None:
                raise
            return Found.here(own.log)
        if reply is None:  # not there, or not yet there again after an outage
            return None if own is None or own.in_step else Found.here(own.log)
        return self._found(slot, reply)

    def _found(self, slot: Slot, reply: list[Reply]) -> Found | None:
        stream_id: str = reply[0].decode()
        record = self.record(stream_id)
        if record is not None and not record.released:
            return None if record.overflowing else Found.here(record.log)
        if reply[1] is None:  # it has outgrown its limit
            return None
        try:
            head = Head.from_json(reply[1])
            outcome = None if reply[3] is None else Outcome(reply[3].decode())
            past = Past(int(reply[2]), None if reply[5] is None else (int(reply[5]), reply[6]))
        except (ValueError, TypeError) as error:
            logger.warning("stream %s: not a log that this version can read (%s)", stream_id, error)
            return None

        def follow() -> Log:
            return self.tailer_of(slot).follow(slot.name, stream_id, head, past, sealed=outcome is not None)

        return Found(stream_id, head, past.end, outcome, follow)

    async def stop(self, slot: Slot, stream_id: str | None = None) -> bool:
        if stream_id == "":
            return False
        own = self._own(slot, stream_id)
        if own is None or stream_id is None:  # another process may have a newer one
            try:
                reply = await self._find(slot, stream_id or "")
            except StoreUnavailableError:
                if own is None or own.seal is not None:
                    raise
            else:
                if reply is None or reply[3] is not None:
                    return False
                found_id: bytes = reply[0]
                own = self._own(slot, found_id.decode())
                if own is None:
                    return await self._stop_elsewhere(slot, found_id, _worker_of(reply))
        own.keeper.finish(own.log, Outcome.STOPPED)
        return await _ended(own.log) is Outcome.STOPPED

    async def _stop_elsewhere(self, slot: Slot, stream_id: bytes, worker: str | None) -> bool:
        """Have the log sealed by its worker, which knows where it ends; or else, soon, by us."""
        if worker is not None:
            await self.post_stop(worker, stream_id)
            for _ in range(_STOP_LOOKS):
                await asyncio.sleep(_STOP_PAUSE)
                found = await self._find(slot, stream_id.decode())
                if found is None or found[3] is not None:
                    return found is not None and found[3] == b"stopped"
        keys = self._commands.log_keys(slot.name, stream_id.decode())
        seal = self._commands.seal(keys, Outcome.STOPPED, retention=slot.route.retention)
        reply = await self._ask(self.reader, seal)
        if worker is not None:  # its lease may have been missing at first
            await self.post_stop(worker, stream_id)
        return reply[0] == b"sealed" or reply[:2] == [b"was", b"stopped"]

    def _own(self, slot: Slot, stream_id: str | None) -> Record | None:
        """What this process writes of a slot: the log of that id, or the latest one."""
        own = self.newest(slot) if stream_id is None else self.record(stream_id)
        return own if own is not None and own.slot.name == slot.name and not own.released else None

    async def _find(self, slot: Slot, stream_id: str) -> Reply:
        """The answer of the script `find`. Raises `StoreUnavailableError`."""
        return await self._ask(self.reader, self._commands.find(slot.name, stream_id))

    # -- what a Cluster answers otherwise

    async def have_leases(self, workers: list[str]) -> list[Reply]:
        return await self.reader.fetch(*map(self._commands.has_lease, workers))

    async def post_stop(self, worker: str, stream_id: bytes) -> None:
        await self._ask(self.reader, self._commands.post_stop(worker, stream_id))

    async def moved(self) -> None:
        return

    def tailer_of(self, slot: Slot) -> Tailer:
        return self.tailer

    def record(self, stream_id: str) -> Record | None:
        return self.writer.records.get(stream_id)

    def newest(self, slot: Slot) -> Record | None:
        return self.writer.newest(slot)

    def _record_moved(self, record: Record) -> bool:
        return False

    # -- its time

    async def start(self) -> None:
        """Connect now, so that the first stream need not wait for it."""
        self._looked = True
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.gather(self.writer.link.open(), self.reader.open())
        except (ConnectionLostError, TimeoutError) as error:
            logger.warning("Redis cannot be reached yet; streams go on unrecorded until it is: %s", error)
            return
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        """Warn of a server that evicts keys, where it lets that be read. Nobody waits for the answer."""
        connection = self.reader.connection or self.writer.link.connection
        if connection is not None:
            connection.call([self._commands.memory()], _note_eviction)

    async def flush(self, timeout: float) -> None:
        await self.writer.flush(timeout)

    async def aclose(self) -> None:
        await self.close_work()
        self.reader.close()

    def disconnect(self) -> None:
        """Have all connections opened anew."""
        for link in (self.writer.link, self.reader, self.tailer.subscription):
            link.reopen()

    async def close_work(self) -> None:
        """All but what reads."""
        self.writer.close()
        await self.tailer.aclose()

    async def _ask(self, link: Link, command: bytes) -> Reply:
        """One answer within `redis_timeout`. Raises `StoreUnavailableError`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            if link.connection is None:
                async with asyncio.timeout_at(deadline):
                    await link.open()
            (answer,) = await link.ask(command)
            timer = loop.call_at(deadline, _give_up, answer)
            try:
                reply = await answer
            finally:
                timer.cancel()
        except (ConnectionLostError, TimeoutError) as error:
            raise StoreUnavailableError(f"Redis did not answer: {error}") from error
        if isinstance(reply, ReplyError):
            kind = ElsewhereError if is_elsewhere(reply) else StoreUnavailableError
            raise kind(f"Redis refused: {reply}")
        return reply


def _worker_of(reply: list[Reply]) -> str | None:
    """Whose log it is that the script `find` found; None if that does not stand there."""
    if reply[1] is None:
        return None if reply[7] is None else reply[7].decode("latin-1")
    try:
        return Head.from_json(reply[1]).worker
    except ValueError as error:
        logger.warning("stream %r: not a log that this version can read (%s)", reply[0], error)
        return None


async def _ended(log: Log) -> Outcome:
    """How a log has ended whose end is at hand."""
    changed = asyncio.Event()
    log.watch(changed.set)
    try:
        while log.outcome is None:
            changed.clear()
            await changed.wait()
    finally:
        log.unwatch(changed.set)
    return log.outcome


def _note_eviction(replies: list[Reply] | None) -> None:
    if not replies or not isinstance(replies[0], bytes):
        return
    found = re.search(rb"^maxmemory_policy:(\S+)", replies[0], re.MULTILINE)
    policy = "noeviction" if found is None else found[1].decode("latin-1")
    if policy != "noeviction" and refusals.once("maxmemory-policy"):
        logger.warning(
            "Redis evicts keys when its memory is full (maxmemory-policy %s), those of live streams among "
            "them: set maxmemory-policy to noeviction",
            policy,
        )


def _give_up(answer: asyncio.Future[Reply]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
