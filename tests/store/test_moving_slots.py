"""Hash slots of a Redis Cluster that move while their logs are written, followed and joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from testkit.cluster import Cluster
from testkit.logs import begin, holds, key_named, open_store_at, reading, sealed
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi.errors import StoreUnavailableError
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.redis.cluster import ClusterStore
from resumable_asgi.stream.log import Log
from resumable_asgi.stream.store import Found, StreamKey

from .moving_slots import Chaos, went_well

OpenWorkers = Callable[..., tuple[ClusterStore, ...]]

SLOT = key_named("d" * 32)
POINTER = f"resumable:{{{SLOT.name}}}:active"


@pytest.fixture
async def workers() -> AsyncIterator[OpenWorkers]:
    opened: list[ClusterStore] = []

    def make(cluster: Cluster, count: int) -> tuple[ClusterStore, ...]:
        for _ in range(count):
            store = open_store_at(cluster.url, redis_timeout=1, lease=10)
            assert isinstance(store, ClusterStore)
            opened.append(store)
        return tuple(opened[-count:])

    yield make
    for store in opened:
        await store.aclose()


def another(cluster: Cluster, than: Valkey) -> Valkey:
    return next(node for node in cluster.nodes if node is not than)


async def join(store: ClusterStore, slot: StreamKey, stream_id: str | None = None) -> Log:
    """Ask until it is answered, as a client does."""

    async def found() -> Found | None:
        try:
            return await store.find(slot, stream_id)
        except StoreUnavailableError:
            return None

    return (await wait_until(found, timeout=10)).log


async def test_who_joins_before_the_old_primary_knows_of_the_move_reads_what_the_others_read(
    start_cluster: Callable[..., Cluster], workers: OpenWorkers
) -> None:
    cluster = start_cluster(node_timeout=15_000)
    own, other = workers(cluster, 2)
    log = await begin(own, SLOT, b"data: 1\n\n")
    first = await join(other, SLOT)
    with reading(first):
        await holds(first, b"data: 1\n\n")
        source = cluster.primary_of(POINTER)
        target = another(cluster, source)
        cluster.carry_keys(POINTER, target)
        source.pause()
        try:
            cluster.set_primary(POINTER, target, at=target)

            async def knows() -> bool:
                await other.topology.refresh()
                return other.at(POINTER.encode()) is not before

            before = other.at(POINTER.encode())
            await wait_until(knows, timeout=10)
            second = await join(other, SLOT)
        finally:
            source.cont()
        with reading(second):
            await wait_until(lambda: cluster.primary_of(POINTER) is target)
            log.append(b"data: 2\n\n")
            await holds(first, b"data: 1\n\ndata: 2\n\n", 15)
            await holds(second, b"data: 1\n\ndata: 2\n\n")
            log.copy.finish(Outcome.DONE)
            assert await sealed(first, 15) is await sealed(second) is Outcome.DONE


async def test_slots_that_move_back_and_forth_leave_no_reader_behind(
    start_cluster: Callable[..., Cluster],
) -> None:
    chaos = Chaos(start_cluster(), seed=1)
    async with asyncio.timeout(60):
        await chaos.run(4)
    assert went_well(chaos.counts), chaos.counts
