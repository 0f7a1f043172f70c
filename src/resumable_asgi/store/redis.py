"""Logs in Redis, for all processes: three connections a process, however many streams and followers.

One writes, one asks and reads, one is subscribed. None of them is shared with the app.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..errors import StoreUnavailableError
from ..log import Head, Log, new_stream_id
from ..outcome import Outcome
from ..settings import Settings
from . import Found, Slot
from .commands import Commands
from .record import Record
from .resp import Reply, ReplyError, is_elsewhere
from .tail import Tail
from .tailer import Past, Tailer
from .wire import Connect, Link, WireLostError
from .writer import Writer

logger = logging.getLogger(__name__)

_STOP_LOOKS, _STOP_PAUSE = 15, 0.04
"""How often, and at what distance in seconds, to look whether a worker has sealed a log of its that is to
stop. It hears of it with its next heartbeat; one that is silent for longer is not waited for."""


class ElsewhereError(StoreUnavailableError):
    """Another node of the Cluster serves that key."""


class RedisStore:
    """The store of one event loop in one process, at one primary."""

    def __init__(
        self, settings: Settings, connect: Connect, *, worker: str | None = None, sharded: bool = False
    ) -> None:
        self._worker = worker or new_stream_id()
        self._timeout = settings.redis_timeout
        self._commands = commands = Commands(settings.prefix, sharded=sharded)
        patience = max(settings.lease / 3, settings.redis_timeout)
        self.reader = Link(connect, patience=patience)
        self._write_link = Link(connect, patience=patience)
        self.writer = Writer(settings, self._write_link, commands, self._worker, self._record_moved)
        self.tailer = Tailer(settings, connect, patience, self.reader, commands, self)

    def worker(self, slot: Slot) -> str:
        return self._worker

    def claim(self, slot: Slot, log: Log) -> None:
        self.writer.claim(slot, log)

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
        clear = self._commands.clear(keys, slot.route.replay_finished)
        try:
            await self._ask(self._write_link, clear)
        except StoreUnavailableError:
            logger.info("stream %s was delivered, but Redis could not be told: it may be replayed", log.id)

    async def find(self, slot: Slot, stream_id: str | None = None) -> Found | None:
        own = self.writer.newest(slot)
        try:
            reply = await self._find(slot, stream_id or "")
        except StoreUnavailableError:
            if own is None or stream_id not in (None, own.log.id):
                raise
            return _here(own.log)
        if reply is None:  # not there, or not yet there again after an outage
            unclaimed = own is not None and not own.in_step and stream_id in (None, own.log.id)
            return _here(own.log) if own is not None and unclaimed else None
        return self._found(slot, reply)

    def _found(self, slot: Slot, reply: list[Reply]) -> Found | None:
        stream_id: str = reply[0].decode()
        record = self.writer.records.get(stream_id)
        if record is not None:
            return None if record.overflowing else _here(record.log)
        try:
            head = Head.from_json(reply[1])
            outcome = None if reply[3] is None else Outcome(reply[3].decode())
            past = Past(int(reply[2]), None if reply[5] is None else (int(reply[5]), reply[6]))
        except (ValueError, TypeError) as error:
            logger.warning("stream %s: not a log that this version can read (%s)", stream_id, error)
            return None
        log = self.tailer.follow(slot.name, stream_id, head, past, sealed=outcome is not None)
        return Found(log, past.end, outcome)

    async def stop(self, slot: Slot, stream_id: str | None = None) -> bool:
        own = self.writer.newest(slot)
        try:
            found = await self._find(slot, "")
        except StoreUnavailableError:
            if own is None or stream_id not in (None, own.log.id) or own.seal is not None:
                raise
            self.finish(own.log, Outcome.STOPPED)
            return True
        if found is None or found[3] is not None or stream_id not in (None, found[0].decode()):
            return False
        try:
            worker = Head.from_json(found[1]).worker
        except ValueError as error:
            logger.warning("stream %r: not a log that this version can read (%s)", found[0], error)
            return False
        return await self._stop(slot, found[0], worker)

    async def _stop(self, slot: Slot, stream_id: bytes, worker: str) -> bool:
        """Have the log sealed by its worker, which knows where it ends; or else, soon, by us."""
        own = self.writer.records.get(stream_id.decode())
        if own is not None:
            self.finish(own.log, Outcome.STOPPED)
        else:
            await self.tell(worker, stream_id)
        for _ in range(_STOP_LOOKS):
            await asyncio.sleep(_STOP_PAUSE)
            found = await self._find(slot, stream_id.decode())
            if found is None or found[3] is not None:
                return found is not None and found[3] == b"stopped"
        keys = self._commands.log_keys(slot.name, stream_id.decode())
        seal = self._commands.seal(keys, Outcome.STOPPED, retention=slot.route.retention)
        reply = await self._ask(self.reader, seal)
        if own is None:  # its lease may have been missing at first
            await self.tell(worker, stream_id)
        return reply[0] == b"sealed" or reply[:2] == [b"was", b"stopped"]

    async def _find(self, slot: Slot, stream_id: str) -> Reply:
        """The answer of the script `find`. Raises `StoreUnavailableError`."""
        return await self._ask(self.reader, self._commands.find(slot.name, stream_id))

    # -- what a Cluster answers otherwise

    async def lives(self, workers: list[str]) -> list[Reply]:
        return await self.reader.call(*map(self._commands.lives, workers))

    async def tell(self, worker: str, stream_id: bytes) -> None:
        await self._ask(self.reader, self._commands.post(worker, stream_id))

    async def moved(self, tail: Tail) -> None:
        return

    def _record_moved(self, record: Record) -> bool:
        return False

    # -- its time

    async def start(self) -> None:
        """Connect now, so that the first stream need not wait for it."""
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.gather(self._write_link.open(), self.reader.open())
        except (WireLostError, TimeoutError) as error:
            logger.warning("Redis cannot be reached yet; streams go on unrecorded until it is: %s", error)

    async def flush(self, timeout: float) -> None:
        await self.writer.flush(timeout)

    async def aclose(self) -> None:
        await self.close_work()
        self.reader.close()

    def disconnect(self) -> None:
        """Have all connections opened anew."""
        for link in (self._write_link, self.reader, self.tailer.subscription):
            if link.wire is not None:
                link.wire.abort()

    async def close_work(self) -> None:
        """All but what reads."""
        await self.writer.aclose()
        await self.tailer.aclose()

    async def _ask(self, link: Link, command: bytes) -> Reply:
        """One answer within `redis_timeout`. Raises `StoreUnavailableError`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            if link.wire is None:
                async with asyncio.timeout_at(deadline):
                    await link.open()
            (answer,) = await link.ask(command)
            timer = loop.call_at(deadline, _give_up, answer)
            try:
                reply = await answer
            finally:
                timer.cancel()
        except (WireLostError, TimeoutError) as error:
            raise StoreUnavailableError(f"Redis did not answer: {error}") from error
        if isinstance(reply, ReplyError):
            kind = ElsewhereError if is_elsewhere(reply) else StoreUnavailableError
            raise kind(f"Redis refused: {reply}")
        return reply


def _here(log: Log) -> Found:
    return Found(log, log.end, log.outcome)


def _give_up(answer: asyncio.Future[Reply]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
