"""What every store promises, in memory and in Redis, to the worker that writes and to any other."""

from __future__ import annotations

import pytest
from testkit.logs import ClaimedLog, begin, deliver, holds, key_named, new_log, sealed, whole
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi.errors import StoreUnavailableError
from resumable_asgi.outcome import Outcome
from resumable_asgi.stream.store import Store, StreamKey

from .conftest import OpenStore, Stores

SLOT = key_named("a" * 32)
ELSEWHERE = key_named("b" * 32)


async def end(log: ClaimedLog, outcome: Outcome = Outcome.DONE, detail: str = "") -> None:
    log.copy.finish(outcome, detail)
    await sealed(log)


async def found_id(store: Store, slot: StreamKey = SLOT, stream_id: str | None = None) -> str | None:
    found = await store.find(slot, stream_id)
    return None if found is None else found.log.id


async def test_a_claimed_log_is_found_with_its_head_and_its_bytes(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    found = await stores.asked.find(SLOT)
    assert found is not None
    assert (found.log.id, found.log.head, found.outcome) == (log.id, log.head, None)
    await holds(found.log, b"data: 1\n\n")


async def test_what_is_appended_reaches_those_who_follow(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    found = await stores.asked.find(SLOT)
    assert found is not None
    await holds(found.log, b"data: 1\n\n")
    log.append(b"data: \xf0\x9f")
    log.append(b"\x8e\x89\r\n\r\n")
    await holds(found.log, b"data: 1\n\ndata: \xf0\x9f\x8e\x89\r\n\r\n")
    await end(log)
    assert await sealed(found.log) is Outcome.DONE


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.STOPPED])
async def test_a_sealed_log_is_found_with_its_end_and_its_outcome(stores: Stores, outcome: Outcome) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    await end(log, outcome, "why")
    found = await stores.asked.find(SLOT)
    assert found is not None
    assert (found.end, found.outcome) == (9, outcome)
    assert await whole(found) == (b"data: 1\n\n", outcome)
    assert found.log.detail == "why"


async def test_an_empty_log_can_be_sealed_and_found(stores: Stores) -> None:
    await end(await begin(stores.own, SLOT))
    found = await stores.asked.find(SLOT)
    assert found is not None
    assert (found.end, found.outcome) == (0, Outcome.DONE)
    assert await whole(found) == (b"", Outcome.DONE)


async def test_an_unknown_slot_has_nothing(stores: Stores) -> None:
    log = await begin(stores.own, SLOT)
    assert await found_id(stores.asked, ELSEWHERE) is None
    assert await found_id(stores.asked, ELSEWHERE, log.id) is None
    assert await found_id(stores.asked, SLOT, new_log(stores.own).id) is None
    assert not await stores.asked.stop(ELSEWHERE)
    assert not await stores.asked.stop(ELSEWHERE, log.id)
    assert log.outcome is None


async def test_the_newest_log_of_a_slot_is_the_resumable_one(stores: Stores) -> None:
    first = await begin(stores.own, SLOT, b"old")
    second = await begin(stores.own, SLOT, b"new")
    assert await found_id(stores.asked) == second.id
    assert await found_id(stores.asked, SLOT, first.id) == first.id
    first.append(b"er")
    found = await stores.asked.find(SLOT, first.id)
    assert found is not None
    await holds(found.log, b"older")


@pytest.mark.parametrize("how", ["done", "error", "delivered", "overflow", "stopped"])
async def test_the_end_of_an_old_log_leaves_the_new_one_its_place(stores: Stores, how: str) -> None:
    first = await begin(stores.own, SLOT, b"old")
    second = await begin(stores.own, SLOT, b"new")
    if how == "overflow":
        first.copy.overflow()
    await end(first, Outcome.DONE if how not in Outcome.__members__.values() else Outcome(how))
    await deliver(stores.asked, SLOT, first)
    await first.copy.delivered()
    assert await found_id(stores.asked) == second.id
    second.append(b"er")
    await end(second)
    assert await whole(await stores.asked.find(SLOT)) == (b"newer", Outcome.DONE)


async def test_a_delivered_log_is_found_by_its_id_only(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    await end(log)
    assert await found_id(stores.asked) == log.id
    await deliver(stores.asked, SLOT, log)
    assert await found_id(stores.asked) is None
    assert await whole(await stores.asked.find(SLOT, log.id)) == (b"data: 1\n\n", Outcome.DONE)


async def test_delivery_may_be_noted_twice(stores: Stores) -> None:
    log = await begin(stores.own, SLOT)
    await end(log)
    await deliver(stores.asked, SLOT, log)
    await log.copy.delivered()
    assert await found_id(stores.asked) is None


async def test_a_delivered_log_is_replayed_for_as_long_as_asked(stores: Stores) -> None:
    slot = key_named("c" * 32, replay_finished=0.6)
    log = await begin(stores.own, slot, b"data: 1\n\n")
    await end(log)
    await deliver(stores.asked, slot, log)
    assert await whole(await stores.asked.find(slot)) == (b"data: 1\n\n", Outcome.DONE)
    await deliver(stores.asked, slot, log)  # a second delivery does not begin the time anew

    async def gone() -> bool:
        return await found_id(stores.asked, slot) is None

    await wait_until(gone, timeout=2)
    assert await found_id(stores.asked, slot, log.id) == log.id


async def test_a_sealed_log_is_gone_after_its_retention(stores: Stores) -> None:
    slot = key_named("d" * 32, retention=1)
    log = await begin(stores.own, slot, b"data: 1\n\n")
    await end(log)
    assert await found_id(stores.asked, slot) == log.id

    async def gone() -> bool:
        return await found_id(stores.asked, slot) is None

    await wait_until(gone, timeout=3)
    assert await found_id(stores.asked, slot, log.id) is None


async def test_a_stop_seals_the_running_log(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    assert await stores.asked.stop(SLOT)
    assert await sealed(log) is Outcome.STOPPED
    assert await found_id(stores.asked) is None
    assert await whole(await stores.asked.find(SLOT, log.id)) == (b"data: 1\n\n", Outcome.STOPPED)


async def test_a_stop_tells_those_who_follow(stores: Stores) -> None:
    log = await begin(stores.own, SLOT)
    found = await stores.asked.find(SLOT)
    assert found is not None
    assert await stores.own.stop(SLOT, log.id)
    assert await sealed(found.log) is Outcome.STOPPED
    assert await sealed(log) is Outcome.STOPPED


async def test_a_stop_for_another_stream_stops_nothing(stores: Stores) -> None:
    log, theirs = await begin(stores.own, SLOT), await begin(stores.own, ELSEWHERE)
    for stream_id in ("f" * 32, "", "-", f"{log.id}-", f"{log.id}}}", theirs.id):
        assert not await stores.asked.stop(SLOT, stream_id)
    assert log.outcome is theirs.outcome is None
    assert await stores.asked.stop(SLOT, log.id)
    assert await sealed(log) is Outcome.STOPPED


async def test_a_stop_by_id_reaches_a_stream_that_was_replaced(stores: Stores) -> None:
    first, second = await begin(stores.own, SLOT, b"1"), await begin(stores.own, SLOT)
    assert await stores.asked.stop(SLOT, first.id)
    assert await sealed(first, timeout=1) is Outcome.STOPPED
    assert second.outcome is None
    assert not await stores.asked.stop(SLOT, first.id)
    assert await found_id(stores.asked) == second.id
    assert await stores.asked.stop(SLOT)
    assert await sealed(second, timeout=1) is Outcome.STOPPED


async def test_a_stop_by_id_reaches_a_stream_that_has_outgrown_its_limit(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    log.copy.overflow()
    log.append(b"data: 2\n\n")

    assert not await stores.asked.stop(ELSEWHERE, log.id)
    assert await stores.asked.stop(SLOT, log.id)
    assert await sealed(log, timeout=1) is Outcome.STOPPED
    assert not await stores.asked.stop(SLOT, log.id)


async def test_what_has_ended_cannot_be_stopped(stores: Stores) -> None:
    log = await begin(stores.own, SLOT)
    await end(log)
    assert not await stores.asked.stop(SLOT)
    assert log.outcome is Outcome.DONE
    second = await begin(stores.own, SLOT)
    assert await stores.asked.stop(SLOT)
    assert not await stores.asked.stop(SLOT)
    assert await sealed(second) is Outcome.STOPPED


async def test_the_first_seal_wins(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    assert await stores.asked.stop(SLOT)
    log.copy.finish(Outcome.DONE)
    assert await sealed(log) is Outcome.STOPPED
    found = await stores.asked.find(SLOT, log.id)
    assert found is not None
    assert found.outcome is Outcome.STOPPED


async def test_a_second_finish_does_nothing(stores: Stores) -> None:
    log = await begin(stores.own, SLOT)
    log.copy.finish(Outcome.ERROR)
    log.copy.finish(Outcome.DONE)
    assert await sealed(log) is Outcome.ERROR
    log.copy.finish(Outcome.STOPPED)
    found = await stores.asked.find(SLOT)
    assert found is not None
    assert found.outcome is Outcome.ERROR


async def test_an_overflowing_log_is_not_found_and_goes_on_for_those_attached(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    found = await stores.asked.find(SLOT)
    assert found is not None
    await holds(found.log, b"data: 1\n\n")
    log.copy.overflow()

    async def hidden() -> bool:
        return await found_id(stores.asked) is None

    await wait_until(hidden)
    log.append(b"data: 2\n\n")
    await holds(found.log, b"data: 1\n\ndata: 2\n\n")
    await end(log)
    assert await sealed(found.log) is Outcome.DONE
    assert await found_id(stores.asked) is None


async def test_an_overflowing_log_is_not_found_by_its_id_either(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    log.copy.overflow()

    async def hidden() -> bool:
        return await found_id(stores.asked) is None

    await wait_until(hidden)
    assert await found_id(stores.asked, SLOT, log.id) is None


async def test_an_overflowing_log_leaves_the_place_to_the_next(stores: Stores) -> None:
    first = await begin(stores.own, SLOT)
    first.copy.overflow()
    second = await begin(stores.own, SLOT)
    await end(first)
    assert await found_id(stores.asked) == second.id


async def test_many_streams_in_one_slot_each_keep_their_own_bytes(stores: Stores) -> None:
    logs = [await begin(stores.own, SLOT, b"%d" % n) for n in range(20)]
    for log in logs:
        log.append(b"!")
        log.copy.finish(Outcome.DONE)
    for n, log in enumerate(logs):
        await sealed(log)
        assert await whole(await stores.asked.find(SLOT, log.id)) == (b"%d!" % n, Outcome.DONE)
    assert await found_id(stores.asked) == logs[-1].id


async def test_a_store_can_be_used_again_after_it_was_closed(stores: Stores) -> None:
    await stores.own.start()
    await begin(stores.own, SLOT, b"1")
    await stores.own.flush(1)
    await stores.own.aclose()
    log = await begin(stores.own, SLOT, b"2")
    await end(log)
    assert await whole(await stores.asked.find(SLOT)) == (b"2", Outcome.DONE)


async def test_flush_waits_for_seals(stores: Stores) -> None:
    log = await begin(stores.own, SLOT, b"data: 1\n\n")
    log.copy.finish(Outcome.DONE)
    await stores.own.flush(5)
    assert log.outcome is Outcome.DONE


async def test_a_redis_that_cannot_be_reached_is_said_to_be_away(open_redis: OpenStore) -> None:
    store = open_redis(redis_url="redis://127.0.0.1:1/0", redis_timeout=0.1)
    with pytest.raises(StoreUnavailableError):
        await store.find(SLOT)
    with pytest.raises(StoreUnavailableError):
        await store.stop(SLOT)
    log = await begin(store, SLOT, b"1")
    found = await store.find(SLOT)
    assert found is not None
    assert found.log is log
    assert await store.stop(SLOT)
    assert await sealed(log) is Outcome.STOPPED
    await log.copy.delivered()
    await store.start()
    await store.flush(0.05)


async def test_a_worker_whose_lease_was_missing_hears_of_a_stop_all_the_same(
    open_redis: OpenStore, valkey: Valkey
) -> None:
    own, asked = open_redis(redis_timeout=3), open_redis(redis_timeout=3)
    log = await begin(own, SLOT, b"data: 1\n\n")
    with valkey.client() as client:
        client.delete(f"resumable:worker:{own.worker}")
    assert await asked.stop(SLOT)
    assert await sealed(log) is Outcome.STOPPED
