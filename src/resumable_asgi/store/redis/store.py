"""Logs in Redis, for all processes: three connections a process, however many streams and followers.

One writes, one asks and reads, one is subscribed. None of them is shared with the app.
"""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial

from ...errors import StoreUnavailableError
from ...outcome import Outcome
from ...settings import Settings
from ...stream.log import Head, Log, new_stream_id
from ...stream.store import Found, StreamKey
from . import refusals
from .answers import FindAnswer, SealAnswer
from .backlog import Backlog
from .commands import Commands
from .connection import Connect, ConnectionLostError, Link
from .copy import RedisCopy
from .copy_state import CopyState
from .resp import Reply, ReplyError, is_elsewhere
from .tailer import Past, Tailer
from .writer import Writer

logger: logging.Logger = logging.getLogger(__name__)

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
        self.reader: Link = Link(connect, patience=patience)
        self.writer: Writer = Writer(
            settings,
            connect,
            patience,
            commands,
            self._worker,
            self._copy_moved,
            self._clear,
            backlog or Backlog(),
        )
        self.tailer: Tailer = Tailer(settings, connect, patience, self.reader, commands, self)

    def worker(self, key: StreamKey) -> str:
        return self._worker

    def claim(self, key: StreamKey, log: Log) -> RedisCopy:
        if not self._looked:  # without a lifespan; the first stream comes first
            self._looked = True
            asyncio.get_running_loop().call_later(_LOOK_AFTER, self._look_at_memory)
        return self.writer.claim(key, log)

    async def find(self, key: StreamKey, stream_id: str | None = None) -> Found | None:
        own = self._own(key, stream_id)
        if own is not None and own.overflowing:
            return None
        try:
            answer = await self._find(key, stream_id or "")
        except StoreUnavailableError:
            if own is None:
                raise
            return Found.here(own.log, own.delivered)
        if answer is None:  # not there, or not yet there again after an outage
            known = own is None or own.state in (CopyState.SYNCED, CopyState.SEALED)
            return None if own is None or known else Found.here(own.log, own.delivered)
        return self._found(key, answer)

    def _found(self, key: StreamKey, answer: FindAnswer) -> Found | None:
        stream_id = answer.id.decode()
        copy = self.copy(stream_id)
        if copy is not None and not copy.released:
            return None if copy.overflowing else Found.here(copy.log, copy.delivered)
        if answer.head is None:  # it has outgrown its limit
            return None
        try:
            head = Head.from_json(answer.head)
            outcome = None if answer.outcome is None else Outcome(answer.outcome.decode())
            past = Past(int(answer.end), answer.first)
        except (ValueError, TypeError) as error:
            logger.warning("stream %s: not a log that this version can read (%s)", stream_id, error)
            return None

        def follow() -> Log:
            tailer = self.home_of(key).tailer
            return tailer.follow(key.name, stream_id, head, past, sealed=outcome is not None)

        delivered = copy.delivered if copy is not None else partial(self._clear, key, stream_id)
        return Found(stream_id, head, past.end, outcome, follow, delivered)

    async def _clear(self, key: StreamKey, stream_id: str) -> None:
        """A client got all of a log of which this process writes no copy."""
        keys, route = self._commands.log_keys(key.name, stream_id), key.route
        clear = self._commands.clear(keys, route.replay_finished, retention=route.retention)
        try:
            await self._ask(self.home_of(key).reader, clear)
        except StoreUnavailableError:
            logger.info("stream %s was delivered, but Redis could not be told: it may be replayed", stream_id)

    async def stop(self, key: StreamKey, stream_id: str | None = None) -> bool:
        if stream_id == "":
            return False
        own = self._own(key, stream_id)
        if own is None or stream_id is None:  # another process may have a newer one
            try:
                answer = await self._find(key, stream_id or "")
            except StoreUnavailableError:
                if own is None or own.seal is not None:
                    raise
            else:
                if answer is None or answer.outcome is not None:
                    return False
                own = self._own(key, answer.id.decode())
                if own is None:
                    return await self._stop_elsewhere(key, answer.id, _worker_of(answer))
        log = own.log
        own.finish(Outcome.STOPPED)
        return await _ended(log) is Outcome.STOPPED

    async def _stop_elsewhere(self, key: StreamKey, stream_id: bytes, worker: str | None) -> bool:
        """Have the log sealed by its worker, which knows where it ends; or else, soon, by us."""
        if worker is not None:
            await self.post_stop(worker, stream_id)
            for _ in range(_STOP_LOOKS):
                await asyncio.sleep(_STOP_PAUSE)
                found = await self._find(key, stream_id.decode())
                if found is None or found.outcome is not None:
                    return found is not None and found.outcome == Outcome.STOPPED.encode()
        keys = self._commands.log_keys(key.name, stream_id.decode())
        seal = self._commands.seal(keys, Outcome.STOPPED, retention=key.route.retention)
        answer = SealAnswer.parse(await self._ask(self.reader, seal))
        if worker is not None:  # its lease may have been missing at first
            await self.post_stop(worker, stream_id)
        return answer.sealed or (answer.before is not None and answer.before[0] is Outcome.STOPPED)

    def _own(self, key: StreamKey, stream_id: str | None) -> RedisCopy | None:
        """What this process writes of a key: the log of that id, or the latest one."""
        own = self.newest(key) if stream_id is None else self.copy(stream_id)
        return own if own is not None and own.key.name == key.name and not own.released else None

    async def _find(self, key: StreamKey, stream_id: str) -> FindAnswer | None:
        """Raises `StoreUnavailableError`."""
        return FindAnswer.parse(await self._ask(self.reader, self._commands.find(key.name, stream_id)))

    # -- what a Cluster answers otherwise

    async def have_leases(self, workers: list[str]) -> list[Reply]:
        return await self.reader.fetch(*map(self._commands.has_lease, workers))

    async def post_stop(self, worker: str, stream_id: bytes) -> None:
        await self._ask(self.reader, self._commands.post_stop(worker, stream_id))

    async def moved(self) -> None:
        return

    def home_of(self, key: StreamKey) -> RedisStore:
        """The store at the primary that serves a key."""
        return self

    def copy(self, stream_id: str) -> RedisCopy | None:
        return self.writer.copies.get(stream_id)

    def newest(self, key: StreamKey) -> RedisCopy | None:
        return self.writer.newest(key)

    def _copy_moved(self, copy: RedisCopy) -> bool:
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


def _worker_of(answer: FindAnswer) -> str | None:
    """The worker that writes a log that was found; None if that is not known."""
    if answer.head is None:
        return None if answer.worker is None else answer.worker.decode("latin-1")
    try:
        return Head.from_json(answer.head).worker
    except ValueError as error:
        logger.warning("stream %r: not a log that this version can read (%s)", answer.id, error)
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
