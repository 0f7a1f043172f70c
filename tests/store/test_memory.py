"""What the embedded store keeps, and for how long; nobody asks it for anything meanwhile."""

from __future__ import annotations

import asyncio
import gc

import pytest
from testkit.logs import ClaimedLog, begin, key_named, new_log, reading
from testkit.wait import wait_until

from resumable_asgi.outcome import Outcome
from resumable_asgi.store import memory
from resumable_asgi.store.memory import MemoryStore

SLOT = key_named("a" * 32)
MIB = 1024 * 1024


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def deliver(store: MemoryStore, name: str, size: int) -> str:
    slot = key_named(name)
    log = await begin(store, slot, b"x" * size)
    log.copy.finish(Outcome.DONE)
    await log.copy.delivered()
    return log.id


def in_memory(stream_ids: list[str]) -> int:
    """How many of these logs somebody still refers to."""
    gc.collect()  # a test's log holds its copy, which holds the log
    return sum(type(each) is ClaimedLog and each.id in stream_ids for each in gc.get_objects())


async def test_delivered_logs_do_not_pile_up(store: MemoryStore) -> None:
    logs = [await deliver(store, f"{n:032x}", MIB) for n in range(20)]
    assert in_memory(logs) == 3
    assert in_memory([await deliver(store, "f" * 32, memory._SPENT_BYTES)]) == 0, "it is too large to be kept"


async def test_many_small_ones_do_not_either(store: MemoryStore) -> None:
    logs = [await deliver(store, f"{n:032x}", 10) for n in range(3000)]
    assert in_memory(logs) < 2100
    assert len(store._expiries) < 5000


async def test_what_was_just_delivered_is_there_for_a_client_whose_connection_broke(
    store: MemoryStore,
) -> None:
    stream_id = await deliver(store, SLOT.name, 1000)
    assert await store.find(SLOT) is None
    found = await store.find(SLOT, stream_id)
    assert found is not None
    assert (found.end, found.log.read(500, 1000)) == (1000, b"x" * 500)


async def test_a_log_that_is_let_go_of_stays_with_those_who_read_it(store: MemoryStore) -> None:
    slot = key_named("b" * 32)
    log = await begin(store, slot, b"x" * memory._SPENT_BYTES)
    with reading(log):
        log.copy.finish(Outcome.DONE)
        await log.copy.delivered()
        assert await store.find(slot, log.id) is None
        assert log.span(0, log.end) == b"x" * memory._SPENT_BYTES


@pytest.mark.parametrize("how", ["replaced before its end", "replaced after its end", "stopped"])
async def test_what_no_key_finds_is_kept_only_while_there_is_room(store: MemoryStore, how: str) -> None:
    log = await begin(store, SLOT, b"x" * memory._SPENT_BYTES)
    if how == "replaced before its end":
        await begin(store, SLOT)
    outcome = Outcome.STOPPED if how == "stopped" else Outcome.DONE
    log.copy.finish(outcome)
    if how == "replaced after its end":
        await begin(store, SLOT)
    assert await store.find(SLOT, log.id) is None


async def test_undelivered_logs_are_kept_and_then_go_by_themselves(store: MemoryStore) -> None:
    slot = key_named("c" * 32, retention=1)
    log = await begin(store, slot, b"x" * memory._SPENT_BYTES)
    log.copy.finish(Outcome.DONE)
    assert await store.find(slot) is not None
    stream_ids = [log.id]
    del log
    await wait_until(lambda: not in_memory(stream_ids), timeout=3, what="the log to go with no request")
    assert not store._logs
    assert not store._active


async def test_a_pointer_goes_by_itself_too(store: MemoryStore) -> None:
    slot = key_named("d" * 32, replay_finished=0.1)
    log = await begin(store, slot)
    log.copy.finish(Outcome.DONE)
    await log.copy.delivered()
    assert await store.find(slot) is not None
    await wait_until(lambda: not store._active, timeout=2)


def test_what_one_event_loop_left_goes_in_the_next(store: MemoryStore) -> None:
    """As with Starlette's `TestClient`, which makes one for each request."""
    slot = key_named("e" * 32, retention=1)

    async def end() -> str:
        log = await begin(store, slot)
        log.copy.finish(Outcome.DONE)
        return log.id

    async def gone() -> None:
        store.claim(SLOT, new_log(store))
        await wait_until(lambda: not in_memory([stream_id]), timeout=3)

    stream_id = asyncio.run(end())
    asyncio.run(gone())


async def test_a_closed_store_leaves_no_timer(store: MemoryStore) -> None:
    await deliver(store, SLOT.name, 1)
    timer = store._timer
    assert timer is not None
    await store.aclose()
    assert timer.handle.cancelled()
    assert await store.find(SLOT, "f" * 32) is None
    assert store._timer is not None
    await store.aclose()
