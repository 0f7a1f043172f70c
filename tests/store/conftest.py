"""Stores under test. Two of them at one server are two workers that share nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
from testkit.logs import open_store_at
from testkit.valkey import Valkey

from resumable_asgi import ResumableRoute
from resumable_asgi.store.redis.cluster import ClusterStore
from resumable_asgi.store.redis.store import RedisStore
from resumable_asgi.stream.store import Store

OpenStore = Callable[..., RedisStore]


@pytest.fixture
async def open_redis(valkey: Valkey) -> AsyncIterator[OpenStore]:
    """Make workers of one Redis."""
    opened: list[RedisStore] = []

    def make(route: ResumableRoute | None = None, **options: Any) -> RedisStore:
        store = open_store_at(options.pop("redis_url", valkey.url), route, **options)
        assert isinstance(store, RedisStore)
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.aclose()


class Stores(NamedTuple):
    """The store of the worker that writes, and that of one that asks."""

    own: Store
    asked: Store


@pytest.fixture
async def open_cluster(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., ClusterStore]]:
    """Make workers of one Cluster, which is only started if one is made."""
    opened: list[ClusterStore] = []

    def make(route: ResumableRoute | None = None, **options: Any) -> ClusterStore:
        url = options.pop("redis_url", None) or request.getfixturevalue("cluster").url
        store = open_store_at(url, route, **options)
        assert isinstance(store, ClusterStore)
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.aclose()


@pytest.fixture(params=["memory", "redis, same worker", "redis, other worker", "cluster, other worker"])
async def stores(
    request: pytest.FixtureRequest, open_redis: OpenStore, open_cluster: Callable[..., ClusterStore]
) -> Stores:
    if request.param == "memory":
        store = open_store_at("memory://")
        return Stores(store, store)
    if "cluster" in request.param:
        return Stores(open_cluster(redis_timeout=3), open_cluster(redis_timeout=3))
    own = open_redis(redis_timeout=3)
    return Stores(own, own if "same" in request.param else open_redis(redis_timeout=3))
