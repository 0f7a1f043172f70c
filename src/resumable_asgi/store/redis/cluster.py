"""The store of a Redis Cluster: one shard for each primary. Needs sharded pub/sub: Redis 7 or Valkey.

Each shard has a worker id of its own, chosen so that its lease is on the same primary as its logs. When hash
slots move, live logs and followed logs move to another shard.

A followed log is always with the shard that the topology names for its key: it moves in the call that reports
a new topology. So all readers of a log in this process read the same one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from redis.crc import key_slot
from redis.exceptions import RedisError

from ...errors import StoreUnavailableError
from ...settings import Settings
from ...stream.log import Log, new_stream_id
from ...stream.store import Found, StreamKey
from .backlog import Backlog
from .commands import Commands
from .copy import RedisCopy
from .resp import Reply, is_elsewhere
from .store import ElsewhereError, RedisStore
from .topology import Address, Topology

logger: logging.Logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_AGAIN = 0.03
"""Seconds before a command is sent again that no node accepted, because a hash slot moves."""


class ClusterStore:
    """The store of one event loop in one process."""

    def __init__(self, settings: Settings, topology: Topology) -> None:
        self.topology = topology
        self._settings = settings
        self._commands = Commands(settings.prefix)
        self.backlog: Backlog = Backlog()
        self._shards: list[Shard] = []
        self._by_primary: dict[Address | None, Shard] = {}
        topology.changed = self._changed

    def worker(self, key: StreamKey) -> str:
        return self.shard_of(key).worker(key)

    def claim(self, key: StreamKey, log: Log) -> RedisCopy:
        return self.shard_of(key).claim(key, log)

    async def find(self, key: StreamKey, stream_id: str | None = None) -> Found | None:
        return await self._ask(key, lambda shard: shard.find(key, stream_id))

    async def stop(self, key: StreamKey, stream_id: str | None = None) -> bool:
        return await self._ask(key, lambda shard: shard.stop(key, stream_id))

    async def start(self) -> None:
        """Connect to all primaries, so that the first stream does not wait for it."""
        try:
            await self._know()
        except StoreUnavailableError as error:
            logger.warning("Redis cannot be reached yet; streams go on unrecorded until it is: %s", error)
            return
        await asyncio.gather(*[self._shard(address).start() for address in self.topology.primaries])

    async def flush(self, timeout: float) -> None:
        await asyncio.gather(*[shard.flush(timeout) for shard in self._shards])

    async def aclose(self) -> None:
        self.topology.changed = _nothing  # nothing may move to a closed shard
        for shard in self._shards:
            await shard.close_work()
        for shard in self._shards:  # last, because shards use the readers of others
            shard.reader.close()
        self.topology.close()

    # -- which shard

    def at(self, key: bytes) -> Shard:
        """The shard of a key."""
        return self._shard(self.topology.primary(key_slot(key)))

    def shard_of(self, key: StreamKey) -> Shard:
        return self.at(self._commands.log_keys(key.name, "").pointer)

    def _shard(self, address: Address | None) -> Shard:
        """The shard of a primary. If the primary is not known, any: its streams move once it is known."""
        shard = self._by_primary.get(address)
        if shard is None:
            if address is None and self._shards:
                return self._shards[0]
            shard = self._open(address)
            self._shards.append(shard)
            self._by_primary[address] = shard
        return shard

    def _changed(self) -> None:
        """Move followed logs to the shards that serve them now."""
        self._by_primary = {}
        for shard in self._shards:
            shard.primary_is(self.topology.primary(shard.anchor))
            self._by_primary[self.topology.primary(shard.anchor)] = shard
        for shard in list(self._shards):
            shard.tailer.hand_over(lambda key: self.at(key).tailer)

    def _open(self, address: Address | None) -> Shard:
        while True:
            worker = new_stream_id()
            anchor = key_slot(self._commands.worker_key(worker))
            if address in (None, self.topology.primary(anchor)):
                return Shard(self, self._settings, worker, anchor)

    def copy(self, stream_id: str) -> RedisCopy | None:
        """That of a live log of this process, with whichever shard it is."""
        for shard in self._shards:
            if copy := shard.writer.copies.get(stream_id):
                return copy
        return None

    def newest(self, key: StreamKey) -> RedisCopy | None:
        """The latest one of a key."""
        copies = [copy for shard in self._shards if (copy := shard.writer.newest(key))]
        return max(copies, key=lambda copy: copy.log.id, default=None)

    async def _ask(self, key: StreamKey, ask: Callable[[Shard], Awaitable[_T]]) -> _T:
        """Ask again while the nodes do not agree where the key is. Raises `StoreUnavailableError`."""
        if not self.topology.known:
            await self._know()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.redis_timeout
        while True:
            try:
                return await ask(self.shard_of(key))
            except ElsewhereError:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_AGAIN)
            await self._know()

    async def _know(self) -> None:
        try:
            async with asyncio.timeout(self._settings.redis_timeout):
                await self.topology.refresh()
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(f"Redis did not answer: {error}") from error


class Shard(RedisStore):
    """The store of one primary. `anchor` is the hash slot of its lease."""

    def __init__(self, cluster: ClusterStore, settings: Settings, worker: str, anchor: int) -> None:
        self.anchor = anchor
        self._cluster = cluster
        self._address = cluster.topology.primary(anchor)
        super().__init__(
            settings,
            partial(cluster.topology.connect, anchor),
            worker=worker,
            sharded=True,
            backlog=cluster.backlog,
        )

    def primary_is(self, address: Address | None) -> None:
        """Reconnect if the connections lead to another node: after a failover the old primary still runs."""
        if address not in (None, self._address):
            self._address = address
            self.disconnect()

    async def have_leases(self, workers: list[str]) -> list[Reply]:
        replies: list[Reply] = []
        for worker in workers:
            reader = self._of(worker).reader
            replies += await reader.fetch(self._commands.has_lease(worker))
        if any(map(is_elsewhere, replies)):
            await self._refresh()
        return replies

    async def post_stop(self, worker: str, stream_id: bytes) -> None:
        await self._ask(self._of(worker).reader, self._commands.post_stop(worker, stream_id))

    async def moved(self) -> None:
        await self._refresh()

    def home_of(self, key: StreamKey) -> Shard:
        return self._cluster.shard_of(key)

    def copy(self, stream_id: str) -> RedisCopy | None:
        return self._cluster.copy(stream_id)

    def newest(self, key: StreamKey) -> RedisCopy | None:
        return self._cluster.newest(key)

    def _copy_moved(self, copy: RedisCopy) -> bool:
        other = self._cluster.at(copy.keys.log)
        if other is self:
            return False
        self.writer.hand_over(copy, other.writer)
        return True

    def _of(self, worker: str) -> Shard:
        return self._cluster.at(self._commands.worker_key(worker))

    async def _refresh(self) -> None:
        try:
            await self._cluster.topology.refresh()
        except (RedisError, OSError) as error:
            logger.debug("the Cluster does not say which node serves which hash slot: %s", error)


def _nothing() -> None:
    pass
