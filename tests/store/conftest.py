"""Stores under test. Two of them at one server are two workers that share nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
from harness.logs import open_store_at
from harness.valkey import Valkey

from resumable_asgi import ResumableRoute
from resumable_asgi.store import Store
from resumable_asgi.store.redis import RedisStore

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


@pytest.fixture(params=["memory", "redis, same worker", "redis, other worker"])
async def stores(request: pytest.FixtureRequest, open_redis: OpenStore) -> Stores:
    if request.param == "memory":
        store = open_store_at("memory://")
        return Stores(store, store)
    own = open_redis(redis_timeout=3)
    return Stores(own, own if "same" in request.param else open_redis(redis_timeout=3))
