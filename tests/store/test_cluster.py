"""Redis Cluster: logs on every primary, failovers, hash slots that move, nodes that are down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection
from testkit.cluster import Cluster, ask
from testkit.logs import begin, holds, open_store_at, reading, sealed, slot_named, whole
from testkit.process import free_port
from testkit.wait import wait_until

from resumable_asgi import Settings
from resumable_asgi.errors import StoreUnavailableError
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.open import open_store
from resumable_asgi.store.redis.cluster import ClusterStore
from resumable_asgi.store.redis.topology import Address, Topology
from resumable_asgi.stream.log import Log
from resumable_asgi.stream.store import Slot, Store

OpenCluster = Callable[..., ClusterStore]
StartCluster = Callable[..., Cluster]

SLOTS = [slot_named(f"{number:032x}") for number in range(12)]
"""Some on each of three primaries."""
LEASE = 2.0


def pointer(slot: Slot) -> str:
    return f"resumable:{{{slot.name}}}:active"


def log_key(slot: Slot, log: Log) -> str:
    return f"resumable:{{{slot.name}}}:log:{log.id}"


def copied(store: ClusterStore, log: Log) -> Callable[[], bool]:
    return lambda: store._home(log).writer.records[log.id].offset == log.end


async def follow(store: Store, slot: Slot) -> Log:
    found = await store.find(slot)
    assert found is not None
    return found.log


async def test_streams_are_spread_over_the_primaries_and_found_by_other_workers(
    cluster: Cluster, open_cluster: OpenCluster
) -> None:
    own, other = open_cluster(redis_timeout=3), open_cluster(redis_timeout=3)
    await own.start()
    logs = [await begin(own, slot, b"data: 1\n\n") for slot in SLOTS]
    assert {cluster.primary_of(log_key(slot, log)) for slot, log in zip(SLOTS, logs, strict=True)} == {
        *cluster.nodes
    }
    for slot, log in zip(SLOTS, logs, strict=True):
        followed = await follow(other, slot)
        with reading(followed):
            await holds(followed, b"data: 1\n\n")
            log.append(b"data: 2\n\n")
            await holds(followed, b"data: 1\n\ndata: 2\n\n")
            own.finish(log, Outcome.DONE)
            assert await sealed(followed) is Outcome.DONE


async def test_chunks_come_by_sharded_publications(cluster: Cluster, open_cluster: OpenCluster) -> None:
    own, other = open_cluster(redis_timeout=3), open_cluster(redis_timeout=3)
    log = await begin(own, SLOTS[0], b"data: 1\n\n")
    followed = await follow(other, SLOTS[0])
    with reading(followed):
        await holds(followed, b"data: 1\n\n")
        node = cluster.primary_of(pointer(SLOTS[0]))
        with node.client() as client:
            await wait_until(lambda: client.execute_command("PUBSUB", "SHARDCHANNELS"))
            assert client.execute_command("PUBSUB", "SHARDCHANNELS") == [log_key(SLOTS[0], log)]
            assert client.execute_command("PUBSUB", "CHANNELS") == []


async def test_a_worker_has_at_most_three_connections_to_each_primary(
    cluster: Cluster, open_cluster: OpenCluster
) -> None:
    def connections() -> list[int]:
        counts: list[int] = []
        for node in cluster.nodes:
            with node.client() as client:
                counts.append(sum(each["flags"] != "S" for each in client.client_list()) - 1)
        return counts

    before = connections()
    own, other = open_cluster(redis_timeout=3), open_cluster(redis_timeout=3)
    logs = [await begin(own, slot, b"data: 1\n\n") for slot in SLOTS]
    followed = [await follow(other, slot) for slot in SLOTS]
    for log in followed:
        with reading(log):
            await holds(log, b"data: 1\n\n")
    assert all(now - then <= 6 for now, then in zip(connections(), before, strict=True))
    assert len(logs) == len(SLOTS)


async def test_a_client_of_the_user_s_is_used_and_left_open(cluster: Cluster) -> None:
    client = RedisCluster.from_url(f"redis://127.0.0.1:{cluster.nodes[0].port}", decode_responses=True)
    async with client:
        make = open_store(Settings(redis_timeout=3), client)
        assert make is not None
        own, other = make(), make()
        try:
            log = await begin(own, SLOTS[1], b"data: 1\n\n")
            own.finish(log, Outcome.DONE)
            await sealed(log)
            assert await whole(await other.find(SLOTS[1])) == (b"data: 1\n\n", Outcome.DONE)
        finally:
            await own.aclose()
            await other.aclose()
        assert await client.ping()


async def test_the_death_of_a_worker_ends_its_followers(open_cluster: OpenCluster) -> None:
    own, other = open_cluster(redis_timeout=1, lease=LEASE), open_cluster(redis_timeout=1, lease=LEASE)
    log = await begin(own, SLOTS[2], b"data: 1\n\n")
    await wait_until(copied(own, log))
    followed = await follow(other, SLOTS[2])
    with reading(followed):
        await holds(followed, b"data: 1\n\n")
        await own.aclose()
        assert await sealed(followed, LEASE + 5) is Outcome.LOST


@pytest.fixture
async def workers(start_cluster: StartCluster) -> AsyncIterator[Callable[..., tuple[ClusterStore, ...]]]:
    """Make workers at a Cluster of the test's own."""
    opened: list[ClusterStore] = []

    def make(url: str, count: int = 2, **options: Any) -> tuple[ClusterStore, ...]:
        for _ in range(count):
            store = open_store_at(url, **{"redis_timeout": 1, "lease": LEASE, **options})
            assert isinstance(store, ClusterStore)
            opened.append(store)
        return tuple(opened[-count:])

    yield make
    for store in opened:
        await store.aclose()


MakeWorkers = Callable[..., "tuple[ClusterStore, ...]"]


async def test_hash_slots_that_move_take_live_streams_and_their_followers_along(
    start_cluster: StartCluster, workers: MakeWorkers
) -> None:
    cluster = start_cluster()
    own, other, late = workers(cluster.url, 3, lease=10)
    slot = SLOTS[3]
    moving = await begin(own, slot, b"data: 1\n\n")
    followed = await follow(other, slot)
    with reading(followed):
        await holds(followed, b"data: 1\n\n")
        source = cluster.primary_of(pointer(slot))
        cluster.move(pointer(slot), next(node for node in cluster.nodes if node is not source))
        moving.append(b"data: 2\n\n")
        await holds(followed, b"data: 1\n\ndata: 2\n\n", 8)
        moving.append(b"data: 3\n\n")
        await holds(followed, b"data: 1\n\ndata: 2\n\ndata: 3\n\n", 8)
        found = await follow(late, slot)
        await holds(found, b"data: 1\n\ndata: 2\n\ndata: 3\n\n")
        own.finish(moving, Outcome.DONE)
        assert await sealed(followed) is await sealed(found) is await sealed(moving) is Outcome.DONE


async def test_a_stream_that_moved_is_not_taken_for_dead_and_can_be_stopped(
    start_cluster: StartCluster, workers: MakeWorkers
) -> None:
    cluster = start_cluster()
    own, other = workers(cluster.url)
    slot = SLOTS[4]
    log = await begin(own, slot, b"data: 1\n\n")
    followed = await follow(other, slot)
    with reading(followed):
        await holds(followed, b"data: 1\n\n")
        source = cluster.primary_of(pointer(slot))
        cluster.move(pointer(slot), next(node for node in cluster.nodes if node is not source))
        log.append(b"data: 2\n\n")
        await holds(followed, b"data: 1\n\ndata: 2\n\n", 8)
        with pytest.raises(AssertionError):  # nothing is written meanwhile
            await sealed(followed, 2 * LEASE)
        assert await other.stop(slot)
        assert await sealed(log) is await sealed(followed) is Outcome.STOPPED


async def test_a_lease_that_moves_is_kept(start_cluster: StartCluster, workers: MakeWorkers) -> None:
    cluster = start_cluster()
    own, other = workers(cluster.url)
    slot = SLOTS[5]
    log = await begin(own, slot, b"data: 1\n\n")
    followed = await follow(other, slot)
    with reading(followed):
        await holds(followed, b"data: 1\n\n")
        lease = f"resumable:worker:{log.head.worker}"
        source = cluster.primary_of(lease)
        cluster.move(lease, next(node for node in cluster.nodes if node is not source))
        with pytest.raises(AssertionError):
            await sealed(followed, 3 * LEASE)
        log.append(b"data: 2\n\n")
        await holds(followed, b"data: 1\n\ndata: 2\n\n", 8)
        assert await other.stop(slot)
        assert await sealed(log) is Outcome.STOPPED


async def test_a_worker_that_dies_after_its_lease_moved_is_found_dead(
    start_cluster: StartCluster, workers: MakeWorkers
) -> None:
    cluster = start_cluster()
    own, other = workers(cluster.url)
    log = await begin(own, SLOTS[6], b"data: 1\n\n")
    followed = await follow(other, SLOTS[6])
    with reading(followed):
        await holds(followed, b"data: 1\n\n")
        lease = f"resumable:worker:{log.head.worker}"
        source = cluster.primary_of(lease)
        cluster.move(lease, next(node for node in cluster.nodes if node is not source))
        await own.aclose()
        assert await sealed(followed, LEASE + 5) is Outcome.LOST


@pytest.mark.parametrize("how", ["on demand", "since the primary died"])
async def test_a_failover_loses_nothing(start_cluster: StartCluster, workers: MakeWorkers, how: str) -> None:
    cluster = start_cluster(replicas=1)
    primary, replica = cluster.nodes[0], cluster.nodes[3]
    slot = next(slot for slot in SLOTS if cluster.primary_of(pointer(slot)) is primary)
    own, other = workers(cluster.url, lease=10)
    log = await begin(own, slot, b"data: 1\n\n")
    followed = await follow(other, slot)
    with reading(followed):
        await holds(followed, b"data: 1\n\n")
        if how == "on demand":
            ask(replica, "FAILOVER")
        else:
            primary.stop()
        await wait_until(lambda: ask(replica, "INFO")["cluster_state"] == "ok", timeout=20)
        await wait_until(lambda: "myself,master" in str(_flags(replica)), timeout=20)
        log.append(b"data: 2\n\n")
        await holds(followed, b"data: 1\n\ndata: 2\n\n", 10)
        own.finish(log, Outcome.DONE)
        assert await sealed(followed, 10) is Outcome.DONE


def _flags(node: Any) -> list[str]:
    return [each["flags"] for each in ask(node, "NODES").values()]


async def test_a_cluster_that_comes_later_gets_the_streams_that_began_without_it(
    start_cluster: StartCluster, workers: MakeWorkers
) -> None:
    cluster = start_cluster()
    for node in cluster.nodes:
        node.pause()
    own, other = workers(cluster.url, redis_timeout=0.3)
    await own.start()
    logs = [await begin(own, slot, b"data: 1\n\n") for slot in SLOTS[:6]]
    with pytest.raises(StoreUnavailableError):
        await other.find(SLOTS[0])
    for node in cluster.nodes:
        node.cont()
    for slot, log in zip(SLOTS, logs, strict=False):

        async def found(slot: Slot = slot) -> Any:
            try:
                return await other.find(slot)
            except StoreUnavailableError:
                return None

        followed = (await wait_until(found, timeout=20)).log
        own.finish(log, Outcome.DONE)
        with reading(followed):
            assert await sealed(followed, 10) is Outcome.DONE
            assert followed.span(0, followed.end) == b"data: 1\n\n"


async def test_one_node_that_is_down_does_not_keep_others_from_being_asked(cluster: Cluster) -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.nodes[1].port}"
    store = open_store_at(url, redis_timeout=3)
    try:
        for slot in SLOTS[:6]:
            assert await store.find(slot) is None
    finally:
        await store.aclose()


class _Answers(Connection):
    """A node that answers what it is told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    async def send_command(self, *command: Any, **options: Any) -> None:
        assert command == ("CLUSTER", "SLOTS")

    async def read_response(self, *positional: Any, **options: Any) -> Any:
        return self.answer


def topology(answer: Any, *seeds: Address) -> Topology:
    async def connect(address: Address, patience: float) -> AbstractConnection:
        return _Answers(answer)

    return Topology(seeds or [("seed", 1)], connect, 1)


async def test_a_node_without_a_host_is_the_one_that_was_asked() -> None:
    known = topology([[0, 99, [b"", 7000, b"id"]], [100, 16383, [None, 7001, b"id"], [b"r", 7002, b"id"]]])
    await known.refresh()
    assert known.primary(0) == ("seed", 7000)
    assert known.primary(99) == ("seed", 7000)
    assert known.primary(100) == ("seed", 7001)
    assert known.primaries == {("seed", 7000), ("seed", 7001)}


async def test_addresses_that_nodes_name_are_remapped_and_those_that_were_given_are_not() -> None:
    asked: list[Address] = []

    async def connect(address: Address, patience: float) -> AbstractConnection:
        asked.append(address)
        return _Answers([[0, 16383, [b"inside", 1, b"id"]]])

    known = Topology([("seed", 9)], connect, 1, {("inside", 1): ("outside", 7001)}.__getitem__)
    await known.connect(5)
    assert asked == [("seed", 9), ("outside", 7001)]


async def test_a_hash_slot_that_nobody_serves_has_no_primary() -> None:
    known = topology([[10, 20, [b"a", 1, b"id"]], [30, 40, [b"b", 2, b"id"]]])
    await known.refresh()
    assert [known.primary(number) for number in (9, 10, 20, 21, 29, 30, 41)] == [
        None,
        ("a", 1),
        ("a", 1),
        None,
        None,
        ("b", 2),
        None,
    ]
    with pytest.raises(ConnectionError, match="hash slot 25"):
        await known.connect(25)


@pytest.mark.parametrize(
    "answer", [[], None, b"OK", [[1]], [[0, 1, [b"\xff", 1]]], [[b"x", 1, [b"a", 1]]], 5]
)
async def test_an_answer_that_cannot_be_understood_is_none(answer: Any) -> None:
    known = topology(answer)
    with pytest.raises(ConnectionError, match="no node says which node serves which hash slot"):
        await known.refresh()
    assert not known.known


async def test_many_that_ask_at_once_are_one_question() -> None:
    asked = 0

    async def connect(address: Address, patience: float) -> AbstractConnection:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return _Answers([[0, 16383, [b"a", 1, b"id"]]])

    known = Topology([("seed", 1)], connect, 1)
    await asyncio.gather(*[known.refresh() for _ in range(10)])
    assert asked == 1
