"""What a process keeps of streams that end while Redis is away, and what becomes of their copies."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from testkit.logs import ClaimedLog, begin, holds, key_named, reading, sealed, whole
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi import ResumableRoute
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.redis.store import RedisStore
from resumable_asgi.stream.log import Log
from resumable_asgi.stream.store import StreamKey

from .conftest import OpenStore

KIB = 1024
LEASE = 2.0


@pytest.fixture
def away(start_valkey: Callable[..., Valkey]) -> Valkey:
    return start_valkey(appendonly=True)


@pytest.fixture
async def store(open_redis: OpenStore, away: Valkey) -> RedisStore:
    return open_redis(ResumableRoute(), redis_url=away.url, redis_timeout=0.1, lease=LEASE)


def slot(n: int) -> StreamKey:
    return key_named(f"{n:032x}")


def bytes_held(stream_ids: list[str]) -> int:
    """Of these logs, by whomever."""
    gc.collect()  # a test's log holds its copy, which holds the log
    held = 0
    for each in gc.get_objects():
        if type(each) in (Log, ClaimedLog) and each.id in stream_ids:
            held += each.end - each.start
    return held


def limit(store: RedisStore, **limits: int) -> None:
    for name, most in limits.items():
        getattr(store.writer._backlog, f"_{name}")._limit = most


async def running(store: RedisStore, count: int, size: int = 100 * KIB) -> list[ClaimedLog]:
    """Streams of which Redis has the first part only."""
    logs = [await begin(store, slot(n), b"1" * KIB) for n in range(count)]
    for log in logs:
        await wait_until(lambda log=log: store.writer.copies[log.id].offset == KIB)
    return logs


async def goes_away(store: RedisStore, valkey: Valkey, logs: list[ClaimedLog]) -> None:
    valkey.stop()
    await wait_until(lambda: store.writer.link.down)
    for log in logs:
        log.append(b"2" * 99 * KIB)


async def test_delivered_streams_go(store: RedisStore, open_redis: OpenStore, away: Valkey) -> None:
    limit(store, delivered=250 * KIB)
    logs = await running(store, 10)
    await goes_away(store, away, logs)
    late = await begin(store, slot(99), b"late")
    ids = [log.id for log in [*logs, late]]
    for log in logs:
        log.copy.finish(Outcome.DONE)
        await log.copy.delivered()
    late.copy.finish(Outcome.DONE)
    await late.copy.delivered()
    del log, late
    logs.clear()
    assert bytes_held(ids) <= 250 * KIB
    assert ids[-1] not in store.writer.copies, "nobody ever knew of it"
    await wait_until(lambda: bytes_held(ids) == 0, timeout=LEASE + 2, what="nobody to wait for them any more")

    away.start()
    await wait_until(lambda: not store.writer.copies, what="the copies to be seen to")
    other = open_redis(redis_url=away.url, redis_timeout=3)
    for n, stream_id in enumerate(ids[:-1]):
        assert await other.find(slot(n)) is None
        found = await other.find(slot(n), stream_id)
        assert await whole(found) == (b"1" * KIB, Outcome.INTERRUPTED), "half a copy must not look whole"
    assert away.keys_without_ttl() == []


async def test_those_delivered_before_redis_was_known_to_be_away_go_too(
    store: RedisStore, away: Valkey
) -> None:
    logs = await running(store, 3)
    ids = [log.id for log in logs]
    away.pause()
    for log in logs:
        log.append(b"2" * 99 * KIB)
        log.copy.finish(Outcome.DONE)
        await sealed(log)
        await log.copy.delivered()
    del log
    logs.clear()
    await wait_until(lambda: bytes_held(ids) == 0, timeout=LEASE + 5)
    away.cont()


async def test_a_copy_that_lacks_its_seal_only_is_sealed_as_what_it_is(
    store: RedisStore, open_redis: OpenStore, away: Valkey
) -> None:
    limit(store, delivered=0)
    logs = await running(store, 2)
    away.stop()
    await wait_until(lambda: store.writer.link.down)
    logs[0].copy.finish(Outcome.DONE)
    await logs[0].copy.delivered()
    logs[1].copy.finish(Outcome.STOPPED)
    away.start()
    await wait_until(lambda: not store.writer.copies)
    other = open_redis(redis_url=away.url, redis_timeout=3)
    assert await whole(await other.find(slot(0), logs[0].id)) == (b"1" * KIB, Outcome.DONE)
    assert await whole(await other.find(slot(1), logs[1].id)) == (b"1" * KIB, Outcome.STOPPED)
    assert await other.find(slot(0)) is None
    assert await other.find(slot(1)) is None


async def test_an_emptied_redis_hears_nothing_of_what_was_let_go(store: RedisStore, away: Valkey) -> None:
    limit(store, delivered=0)
    logs = await running(store, 2)
    await goes_away(store, away, logs)
    for log in logs:
        log.copy.finish(Outcome.DONE)
        await log.copy.delivered()
    away.restart(keep_data=False)
    await wait_until(lambda: not store.writer.copies)
    assert [key for key in away.all_keys() if ":log:" in key] == []


async def test_of_the_others_the_newest_are_kept_and_written(
    store: RedisStore,
    open_redis: OpenStore,
    away: Valkey,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit(store, waiting=500 * KIB)
    logs = await running(store, 8)
    await goes_away(store, away, logs)
    logs.append(await begin(store, slot(8), b"2" * 100 * KIB))
    ids = [log.id for log in logs]
    for log in logs:
        log.copy.finish(Outcome.DONE)
    del log
    logs.clear()
    await wait_until(lambda: bytes_held(ids) <= 500 * KIB)
    assert bytes_held(ids) == 500 * KIB
    assert [stream_id in caplog.text for stream_id in ids] == [True] * 4 + [False] * 5
    assert caplog.text.count("can no longer be recorded") == 4

    away.start()
    await wait_until(lambda: not store.writer.copies)
    assert bytes_held(ids) == 0
    other = open_redis(redis_url=away.url, redis_timeout=3)
    for n, stream_id in enumerate(ids):
        found = await other.find(slot(n))
        assert found is not None
        assert found.log.id == stream_id
        data, outcome = await whole(found)
        expected = (KIB, Outcome.INTERRUPTED) if n < 4 else (100 * KIB, Outcome.DONE)
        assert (len(data), outcome) == expected


async def test_a_resume_here_of_what_was_let_go_is_no_half_answer(store: RedisStore, away: Valkey) -> None:
    from resumable_asgi.errors import StoreUnavailableError

    limit(store, waiting=50 * KIB)
    logs = await running(store, 1)
    await goes_away(store, away, logs)
    logs[0].copy.finish(Outcome.DONE)
    await wait_until(lambda: store.writer.copies[logs[0].id].released)
    for stream_id in (None, logs[0].id):
        with pytest.raises(StoreUnavailableError):
            await store.find(slot(0), stream_id)


@pytest.mark.parametrize("joined", ["before", "when it was back"])
async def test_those_who_follow_elsewhere_get_the_rest_if_redis_is_soon_back(
    store: RedisStore, open_redis: OpenStore, away: Valkey, joined: str
) -> None:
    limit(store, delivered=50 * KIB if joined == "before" else 200 * KIB)
    other = open_redis(redis_url=away.url, redis_timeout=3, lease=LEASE)
    (log,) = await running(store, 1)
    found = await other.find(slot(0))
    assert found is not None
    if joined == "before":
        await holds(found.log, b"1" * KIB)
        log.append(b"1" * KIB)
        await holds(found.log, b"1" * 2 * KIB)
    with reading(found.log):
        await goes_away(store, away, [log])
        log.copy.finish(Outcome.DONE)
        await log.copy.delivered()
        away.start()
        assert await sealed(found.log) is Outcome.DONE
        assert found.log.end == log.end
    assert await other.find(slot(0)) is None
