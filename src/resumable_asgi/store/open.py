"""Opens the store that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..settings import Settings
from ..stream.store import Store
from .memory import MemoryStore

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster


def open_store(settings: Settings, redis: Redis | RedisCluster | None) -> Callable[[], Store] | None:
    """A function that makes the store of one event loop; None if the settings name no store.

    Logs in memory outlive an event loop, connections to Redis do not.
    """
    if redis is None and settings.redis_url is None:
        return None
    if redis is None and settings.redis_url == "memory://":
        memory = MemoryStore()
        return lambda: memory
    from redis.asyncio import RedisCluster

    from .redis.cluster import ClusterStore
    from .redis.connect import connection_factory, topology_of
    from .redis.store import RedisStore

    if isinstance(redis, RedisCluster):
        topology = topology_of(settings, redis)
        return lambda: ClusterStore(settings, topology())
    if redis is None and (settings.redis_url or "").lower().startswith("redis+cluster://"):
        topology = topology_of(settings, None)
        return lambda: ClusterStore(settings, topology())
    connect = connection_factory(settings, redis)
    return lambda: RedisStore(settings, connect)
