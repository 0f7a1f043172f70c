"""Following the logs of other workers: whatever publications bring or lose, Redis's log is the truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
from testkit.inprocess import Changes
from testkit.logs import begin, holds, new_log, reading, sealed, slot_named, until, whole
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi.outcome import Outcome
from resumable_asgi.store.redis import tailer
from resumable_asgi.store.redis.keys import SEAL_MESSAGE
from resumable_asgi.store.redis.store import RedisStore
from resumable_asgi.stream.log import Log

from .conftest import OpenStore
from .raw import SEAL, RawLog, raw_client

SLOT = slot_named("a" * 32)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks every 0.1 s, and takes 0.3 s for silence."""
    monkeypatch.setattr(tailer, "_PERIOD", 0.1)
    monkeypatch.setattr(tailer, "_SILENT_ROUNDS", 3)


@pytest.fixture
def server(valkey: Valkey) -> Iterator[redis.Redis]:
    with raw_client(valkey) as client:
        yield client


@pytest.fixture
def raw(server: redis.Redis) -> RawLog:
    return RawLog(server, SLOT.name)


@contextlib.asynccontextmanager
async def followed(store: RedisStore, raw: RawLog) -> AsyncIterator[Log]:
    """A log of another worker, once its publications come."""
    found = await store.find(SLOT)
    assert found is not None
    with reading(found.log):
        await wait_until(raw.followed)
        yield found.log


@contextlib.contextmanager
def held(store: RedisStore, command: bytes) -> Iterator[tuple[Callable[[], int], asyncio.Event]]:
    """Hold back every such command on the connection that reads: how many wait, and the release."""
    changes, release = Changes(), asyncio.Event()
    waiting = [0]
    original = store.reader.ask

    async def ask(*commands: bytes) -> Any:
        if any(command in each for each in commands) and not release.is_set():
            waiting[0] += 1
            changes.notify()
            await release.wait()
        return await original(*commands)

    store.reader.ask = ask  # type: ignore[method-assign]
    try:
        yield lambda: waiting[0], release
    finally:
        release.set()
        store.reader.ask = original  # type: ignore[method-assign]


async def test_what_comes_between_subscribing_and_reading_is_not_missed(
    open_redis: OpenStore, raw: RawLog
) -> None:
    store = open_redis()
    raw.begin().add(2, b"12")
    with held(store, b"$6\r\nXRANGE") as (waiting, release):
        found = await store.find(SLOT)
        assert found is not None
        with reading(found.log):
            await wait_until(waiting)
            await wait_until(raw.followed)
            raw.add(3, b"3").publish(3, b"3")
            raw.add(5, b"45").publish(5, b"45")
            release.set()
            await holds(found.log, b"12345")


async def test_the_past_is_read_again_once_publications_come(
    open_redis: OpenStore, raw: RawLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was added after the first reading and published before the subscription."""
    monkeypatch.setattr(tailer, "_SILENT_ROUNDS", 10_000)
    store = open_redis()
    raw.begin().add(2, b"12")
    connect, go = store.tailer.subscription.open, asyncio.Event()

    async def late() -> Any:
        await go.wait()
        return await connect()

    store.tailer.subscription.open = late  # type: ignore[method-assign]
    found = await store.find(SLOT)
    assert found is not None
    with reading(found.log):
        await holds(found.log, b"12")
        raw.add(3, b"3").publish(3, b"3")
        go.set()
        await holds(found.log, b"123")


async def test_publications_that_came_before_the_past_was_read_are_cut(
    open_redis: OpenStore, raw: RawLog
) -> None:
    store = open_redis()
    raw.begin()
    with held(store, b"$6\r\nXRANGE") as (waiting, release):
        found = await store.find(SLOT)
        assert found is not None
        with reading(found.log):
            await wait_until(waiting)
            await wait_until(raw.followed)
            raw.add(2, b"12").publish(2, b"12")
            await holds(found.log, b"12")
            raw.add(4, b"34")
            release.set()
            await holds(found.log, b"1234")


async def test_an_overlap_is_cut_and_a_repetition_ignored(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin()
    async with followed(open_redis(), raw) as log:
        raw.add(3, b"123").publish(3, b"123").publish(3, b"123").publish(2, b"12")
        await holds(log, b"123")
        raw.add(6, b"23456").publish(6, b"23456")
        await holds(log, b"123456")


async def test_a_gap_is_healed_from_the_log(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin()
    async with followed(open_redis(), raw) as log:
        raw.add(2, b"12").add(4, b"34").add(6, b"56").publish(6, b"56")
        await holds(log, b"123456", timeout=0.5)


async def test_lost_publications_are_healed_in_silence(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin()
    async with followed(open_redis(), raw) as log:
        raw.add(2, b"12")
        await holds(log, b"12", timeout=2)
        raw.add(4, b"34").seal(told=False)
        assert await sealed(log, timeout=2) is Outcome.DONE
        assert log.read(0, 9) == b"1234"


@pytest.mark.parametrize(
    "payload", [b"", b":", b"x:1", b"-1:1", b"9", b"9:", b"9" * 30 + b":1", b"1.0:1", b"\xff"]
)
async def test_foreign_publications_do_no_harm(open_redis: OpenStore, raw: RawLog, payload: bytes) -> None:
    raw.begin().add(2, b"12")
    async with followed(open_redis(), raw) as log:
        await holds(log, b"12")
        raw.client.publish(raw.key, payload)
        raw.add(3, b"3").publish(3, b"3").seal()
        assert await sealed(log) is Outcome.DONE
        assert log.read(0, 9) == b"123"


async def test_a_lost_subscription_is_made_again(open_redis: OpenStore, raw: RawLog) -> None:
    store = open_redis()
    raw.begin()
    async with followed(store, raw) as log:
        for n in range(1, 4):
            connection = store.tailer.subscription.connection
            assert connection is not None
            connection.abort()
            raw.add(n, b"%d" % n).publish(n, b"%d" % n)
            await holds(log, b"123"[:n])
            await wait_until(raw.followed)


async def test_killed_connections_are_opened_again(open_redis: OpenStore, raw: RawLog) -> None:
    store = open_redis()
    raw.begin()
    async with followed(store, raw) as log:
        raw.client.execute_command("CLIENT", "KILL", "SKIPME", "yes")
        raw.add(1, b"1").publish(1, b"1")
        await holds(log, b"1")
        await wait_until(raw.followed)
        raw.seal()
        assert await sealed(log) is Outcome.DONE


async def test_a_worker_that_died_has_its_log_sealed_lost_once(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin(alive=False).add(2, b"12")
    stores = [open_redis(lease=0.6) for _ in range(4)]
    with raw.client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe(raw.key)

        async def follow(store: RedisStore) -> tuple[bytes, Outcome]:
            return await whole(await store.find(SLOT), timeout=3)

        results = await asyncio.gather(*[follow(store) for store in stores for _ in range(3)])
        assert results == [(b"12", Outcome.LOST)] * 12
        told = [subscription.get_message(timeout=0.05) for _ in range(4)]
    assert [message["data"] for message in told if message] == [SEAL_MESSAGE]
    assert [entry for entry, _ in raw.client.xrange(raw.key)] == [b"0-1", b"2-0", SEAL.encode()]
    found = await stores[0].find(SLOT)
    assert found is not None
    assert found.outcome is Outcome.LOST


async def test_a_lease_that_comes_back_in_time_is_no_death(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin()
    store = open_redis(lease=3)
    async with followed(store, raw) as log:
        raw.client.delete(raw.lease)
        await wait_until(lambda: store.tailer._missing)
        raw.client.set(raw.lease, "", px=60_000)
        await wait_until(lambda: not store.tailer._missing)
        assert log.outcome is None


async def test_an_emptied_redis_is_no_death(open_redis: OpenStore, server: redis.Redis) -> None:
    own, other = open_redis(), open_redis()
    log = await begin(own, SLOT, b"12")
    found = await other.find(SLOT)
    assert found is not None
    with reading(found.log):
        await holds(found.log, b"12")
        server.flushall()
        log.append(b"3")
        await holds(found.log, b"123")
        server.flushall()
        own.finish(log, Outcome.DONE)
        assert await sealed(found.log) is Outcome.DONE
        assert found.log.read(0, 9) == b"123"


async def test_a_log_that_stays_away_is_lost(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin().add(2, b"12")
    async with followed(open_redis(lease=0.6), raw) as log:
        await holds(log, b"12")
        raw.client.delete(raw.key)
        assert await sealed(log, timeout=3) is Outcome.LOST


async def test_a_redis_that_stays_away_ends_followers(
    open_redis: OpenStore, start_valkey: Callable[..., Valkey]
) -> None:
    valkey = start_valkey()
    own, other = (open_redis(redis_url=valkey.url, lease=0.6) for _ in range(2))
    log = await begin(own, SLOT, b"12")
    found = await other.find(SLOT)
    assert found is not None
    with reading(found.log):
        await holds(found.log, b"12")
        valkey.stop()
        assert await sealed(found.log, timeout=5.6) is Outcome.LOST
    assert log.outcome is None


async def test_there_is_one_tail_however_many_follow_and_none_afterwards(
    open_redis: OpenStore, raw: RawLog
) -> None:
    store = open_redis()
    raw.begin().add(2, b"12")
    founds = [await store.find(SLOT) for _ in range(20)]
    logs = {found.log for found in founds if found is not None}
    assert len(logs) == 1
    async with followed(store, raw) as log:
        await holds(log, b"12")
        counts: Any = raw.client.pubsub_numsub(raw.key)
        assert counts[0][1] == 1
    await wait_until(lambda: not raw.followed())
    assert not store.tailer._tails
    raw.add(3, b"3").publish(3, b"3")
    async with followed(store, raw) as log:
        await holds(log, b"123")


async def test_a_long_log_is_read_page_by_page(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin()
    data = bytes(range(256)) * 8
    for n in range(200):
        raw.add((n + 1) * len(data), data)
    raw.seal()
    assert await whole(await open_redis(redis_timeout=3).find(SLOT)) == (data * 200, Outcome.DONE)


HUGE = 2**64 - 2


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"status": 1e999}',
        b'{"worker": "w", "created": 1, "status": 1e999, "headers": [], "key": "c"}',
        b'{"worker": "", "created": 1, "status": 9, "headers": [["\\u65e5", ""]]}',
        b'{"worker": "w", "created": 1, "status": 200, "headers": [["a"]], "key": "c"}',
    ],
    ids=lambda head: repr(head[:90]),
)
async def test_a_log_with_a_head_that_cannot_be_read_is_not_found(
    open_redis: OpenStore, raw: RawLog, head: bytes
) -> None:
    raw.begin(head).add(2, b"12")
    store = open_redis()
    assert await store.find(SLOT) is None
    assert await store.find(SLOT, raw.id) is None
    assert await store.stop(SLOT) in (True, False)


async def test_a_worker_of_an_impossible_name_counts_as_dead(open_redis: OpenStore, raw: RawLog) -> None:
    raw.begin(raw.head().replace(raw.worker.encode(), b"\\ud800")).add(2, b"12")
    store = open_redis(lease=0.6)
    found = await store.find(SLOT)
    if found is not None:
        assert await whole(found) == (b"12", Outcome.LOST)


@pytest.mark.parametrize(
    ("spoil", "prefix"),
    [
        (lambda raw: raw.client.xadd(raw.key, {"c": "x"}, id="3-0"), b"12"),
        (lambda raw: raw.client.xadd(raw.key, {"b": "x", "z": "newer"}, id="4-0"), b"12"),
        (lambda raw: raw.client.xadd(raw.key, {"b": "x"}, id=f"{HUGE}-0"), b"12"),
        (lambda raw: raw.client.xadd(raw.key, {"b": "x"}, id="9-0"), b"12"),
        (lambda raw: raw.client.xadd(raw.key, {"outcome": "paused", "detail": ""}, id=SEAL), b"12"),
        (lambda raw: raw.client.xadd(raw.key, {"a": "b"}, id=SEAL), b"12"),
        (lambda raw: raw.client.xadd(raw.key, {"outcome": "\xff", "detail": b"\xff"}, id=SEAL), b"12"),
        (lambda raw: raw.client.xdel(raw.key, "2-0"), b""),
    ],
)
async def test_entries_that_cannot_be_read_end_a_log_as_lost(
    open_redis: OpenStore, raw: RawLog, spoil: Callable[[RawLog], None], prefix: bytes
) -> None:
    """Followers that were there before, and those who come after: a prefix and LOST, or nothing."""
    raw.begin().add(2, b"12")
    store, late = open_redis(lease=0.6), open_redis(lease=0.6)
    async with followed(store, raw) as log:
        await holds(log, b"12")
        spoil(raw)
        if raw.client.xinfo_stream(raw.key)["last-generated-id"] != SEAL.encode():
            raw.add(2**63, b"y").publish(2**63, b"y") if prefix == b"" else raw.publish(99, b"")
        assert await sealed(log) is Outcome.LOST
        assert log.read(0, 9) == b"12"
    found = await late.find(SLOT)
    if found is not None:
        data, outcome = await whole(found)
        assert outcome is Outcome.LOST
        assert data == prefix


@pytest.mark.parametrize("fields", [{"c": "x"}, {"z": "newer", "b": "x"}])
async def test_a_first_entry_that_cannot_be_read_gives_no_bytes(
    open_redis: OpenStore, raw: RawLog, fields: dict[Any, Any]
) -> None:
    raw.begin()
    raw.client.xadd(raw.key, fields, id="1-0")
    found = await open_redis(lease=0.6).find(SLOT)
    assert found is not None
    assert await whole(found) == (b"", Outcome.LOST)


@pytest.mark.parametrize("kind", ["string", "list", "hash"])
@pytest.mark.parametrize("which", ["pointer", "log"])
async def test_keys_of_another_type_give_no_log(
    open_redis: OpenStore, raw: RawLog, kind: str, which: str
) -> None:
    from resumable_asgi.errors import StoreUnavailableError

    raw.begin()
    key = raw.pointer if which == "pointer" else raw.key
    raw.client.delete(key)
    {
        "string": lambda: raw.client.set(key, "../" * 9),
        "list": lambda: raw.client.rpush(key, "x"),
        "hash": lambda: raw.client.hset(key, "a", "b"),
    }[kind]()
    raw.client.pexpire(key, 60_000)
    store = open_redis()
    for ask in (store.find, store.stop):
        with contextlib.suppress(StoreUnavailableError):
            assert await ask(SLOT) in (None, False)


async def test_a_pointer_to_another_slots_log_finds_nothing(open_redis: OpenStore, raw: RawLog) -> None:
    theirs = RawLog(raw.client, "b" * 32).begin().add(6, b"secret")
    for pointer in (theirs.id, f"{theirs.id}}}", theirs.key, ""):
        raw.client.set(raw.pointer, pointer, px=60_000)
        assert await open_redis().find(SLOT) is None


async def test_followers_of_many_logs_share_one_connection(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    own, other = open_redis(redis_timeout=3), open_redis(redis_timeout=3)
    before = server.info("clients")["connected_clients"]
    slots = [slot_named(f"{n:032x}") for n in range(30)]
    logs = []
    for slot in slots:
        log = new_log(own)
        own.claim(slot, log)
        logs.append(log)
    await asyncio.gather(*(own.claimed(log) for log in logs))
    founds = [await other.find(slot) for slot in slots]
    for log in logs:
        log.append(b"1")
    for found in founds:
        assert found is not None
        await holds(found.log, b"1")
    assert server.info("clients")["connected_clients"] <= before + 4
    for log in logs:
        own.finish(log, Outcome.DONE)
    for found in founds:
        assert found is not None
        await until(found.log, lambda found=found: found.log.outcome is Outcome.DONE, "the end")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("died", "its worker died"),
        ("vanished", "it is gone from Redis"),
        ("corrupt", "Redis holds no whole log of it"),
        ("unreadable", "Redis could not be read for"),
    ],
)
async def test_a_followed_stream_that_is_lost_is_warned_of_once(
    open_redis: OpenStore, raw: RawLog, caplog: pytest.LogCaptureFixture, how: str, reason: str
) -> None:
    raw.begin(raw.head(key="chat\n7")).add(2, b"12")
    async with followed(open_redis(lease=0.6), raw) as log:
        await holds(log, b"12")
        if how == "died":
            raw.client.delete(raw.lease)
        elif how == "vanished":
            raw.client.delete(raw.key)
        elif how == "corrupt":
            raw.add(9, b"9").publish(9, b"")
        else:
            raw.client.delete(raw.key)
            raw.client.set(raw.key, "", px=60_000)
        assert await sealed(log, timeout=5) is Outcome.LOST
        warned = [record.getMessage() for record in caplog.records if raw.id in record.getMessage()]
        assert len(warned) == 1
        assert warned[0].startswith(f"stream {raw.id} (key 'chat\\n7', 2 bytes, ")
        assert f"s old) is lost: {reason}" in warned[0]
    if how == "died":  # a replay of what is known to be lost is no news
        assert (await whole(await open_redis().find(SLOT)))[1] is Outcome.LOST
        assert caplog.text.count("is lost") == 1
