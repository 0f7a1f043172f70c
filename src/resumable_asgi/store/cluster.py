"""Logs in a Redis Cluster: a store for each primary, side by side, since a log is where its hash slot is.

Each has a worker id of its own, chosen such that its lease is on the same primary as its logs. When hash
slots move, live logs and followers move along. Needs sharded publications: Redis 7 or Valkey.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from redis.crc import key_slot
from redis.exceptions import RedisError

from ..errors import StoreUnavailableError
from ..log import Log, new_stream_id
from ..outcome import Outcome
from ..settings import Settings
from . import Found, Slot
from .commands import Commands
from .record import Record
from .redis import ElsewhereError, RedisStore
from .resp import Reply, is_elsewhere
from .tail import Tail
from .topology import Address, Topology

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class ClusterStore:
    """The store of one event loop in one process."""

    def __init__(self, settings: Settings, topology: Topology) -> None:
        self.topology = topology
        self._settings = settings
        self._commands = Commands(settings.prefix)
        self._shards: list[Shard] = []
        self._by_primary: dict[Address | None, Shard] = {}
        topology.changed = self._changed

    def worker(self, slot: Slot) -> str:
        return self._shard_of(slot).worker(slot)

    def claim(self, slot: Slot, log: Log) -> None:
        self._shard_of(slot).claim(slot, log)

    async def claimed(self, log: Log) -> None:
        await self._home(log).claimed(log)

    def overflow(self, log: Log) -> None:
        self._home(log).overflow(log)

    def followed_elsewhere(self, log: Log) -> bool:
        return self._home(log).followed_elsewhere(log)

    def finish(
        self, log: Log, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None
    ) -> None:
        self._home(log).finish(log, outcome, detail, delivered)

    async def delivered(self, slot: Slot, log: Log) -> None:
        home = self._home(log)
        if log.id not in home.writer.records:
            home = self._shard_of(slot)
        await home.delivered(slot, log)

    async def find(self, slot: Slot, stream_id: str | None = None) -> Found | None:
        return await self._ask(slot, lambda shard: shard.find(slot, stream_id))

    async def stop(self, slot: Slot, stream_id: str | None = None) -> bool:
        return await self._ask(slot, lambda shard: shard.stop(slot, stream_id))

    async def start(self) -> None:
        """Connect to all primaries, so that the first stream need not wait for it."""
        try:
            await self._know()
        except StoreUnavailableError as error:
            logger.warning("Redis cannot be reached yet; streams go on unrecorded until it is: %s", error)
            return
        await asyncio.gather(*[self._shard(address).start() for address in self.topology.primaries])

    async def flush(self, timeout: float) -> None:
        await asyncio.gather(*[shard.flush(timeout) for shard in self._shards])

    async def aclose(self) -> None:
        for shard in self._shards:
            await shard.close_work()
        for shard in self._shards:  # last, since they ask each other
            shard.reader.close()
        self.topology.close()

    # -- which shard

    def at(self, key: bytes) -> Shard:
        """The shard of a key."""
        return self._shard(self.topology.primary(key_slot(key)))

    def _shard_of(self, slot: Slot) -> Shard:
        return self.at(self._commands.log_keys(slot.name, "").pointer)

    def _shard(self, address: Address | None) -> Shard:
        """The shard of a primary; any, if who serves a key is not known: it moves on when it is."""
        shard = self._by_primary.get(address)
        if shard is None:
            if address is None and self._shards:
                return self._shards[0]
            shard = self._open(address)
            self._shards.append(shard)
            self._by_primary[address] = shard
        return shard

    def _changed(self) -> None:
        self._by_primary = {}
        for shard in self._shards:
            shard.primary_is(self.topology.primary(shard.anchor))
            self._by_primary[self.topology.primary(shard.anchor)] = shard

    def _open(self, address: Address | None) -> Shard:
        while True:
            worker = new_stream_id()
            anchor = key_slot(self._commands.worker_key(worker))
            if address in (None, self.topology.primary(anchor)):
                return Shard(self, self._settings, worker, anchor)

    def _home(self, log: Log) -> Shard:
        """The shard that writes a log; any, if none does any more."""
        for shard in self._shards:
            if log.id in shard.writer.records:
                return shard
        return self._shard(None)

    async def _ask(self, slot: Slot, ask: Callable[[Shard], Awaitable[_T]]) -> _T:
        """Raises `StoreUnavailableError`."""
        if not self.topology.known:
            await self._know()
        try:
            return await ask(self._shard_of(slot))
        except ElsewhereError:
            await self._know()
            return await ask(self._shard_of(slot))

    async def _know(self) -> None:
        try:
            async with asyncio.timeout(self._settings.redis_timeout):
                await self.topology.refresh()
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(f"Redis did not answer: {error}") from error


class Shard(RedisStore):
    """What a process has at one primary. `anchor` is the hash slot of its lease."""

    def __init__(self, cluster: ClusterStore, settings: Settings, worker: str, anchor: int) -> None:
        self.anchor = anchor
        self._cluster = cluster
        self._address = cluster.topology.primary(anchor)
        super().__init__(settings, partial(cluster.topology.connect, anchor), worker=worker, sharded=True)

    def primary_is(self, address: Address | None) -> None:
        """Connect anew if the old connections lead elsewhere: after a failover the old primary lives on."""
        if address not in (None, self._address):
            self._address = address
            self.disconnect()

    async def lives(self, workers: list[str]) -> list[Reply]:
        replies: list[Reply] = []
        for worker in workers:
            reader = self._of(worker).reader
            replies += await reader.call(self._commands.lives(worker))
        if any(map(is_elsewhere, replies)):
            await self._refresh()
        return replies

    async def tell(self, worker: str, stream_id: bytes) -> None:
        await self._ask(self._of(worker).reader, self._commands.post(worker, stream_id))

    async def moved(self, tail: Tail) -> None:
        await self._refresh()
        other = self._cluster.at(tail.keys.log)
        if other is not self:
            self.tailer.hand_over(tail, other.tailer)

    def _record_moved(self, record: Record) -> bool:
        other = self._cluster.at(record.keys.log)
        if other is self:
            return False
        self.writer.hand_over(record, other.writer)
        return True

    def _of(self, worker: str) -> Shard:
        return self._cluster.at(self._commands.worker_key(worker))

    async def _refresh(self) -> None:
        try:
            await self._cluster.topology.refresh()
        except (RedisError, OSError) as error:
            logger.debug("the Cluster does not say who serves what: %s", error)
