"""How the logs of one worker get into Redis, and stay right there whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from testkit.logs import begin, deliver, holds, key_named, new_log, sealed, whole
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi import ResumableRoute
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.redis import refusals
from resumable_asgi.store.redis import store as redis_store
from resumable_asgi.store.redis.connection import Connection
from resumable_asgi.store.redis.copy_state import CopyState
from resumable_asgi.store.redis.keys import Keys
from resumable_asgi.store.redis.store import RedisStore
from resumable_asgi.stream.log import Log

from .conftest import OpenStore
from .raw import SEAL, raw_client, stored

SLOT = key_named("a" * 32)
KEYS = Keys("resumable")


@pytest.fixture
def server(valkey: Valkey) -> Iterator[redis.Redis]:
    with raw_client(valkey) as client:
        yield client


def key_of(log: Log) -> bytes:
    return KEYS.log(SLOT.name, log.id)


def in_redis(server: redis.Redis, log: Log, data: bytes, outcome: str | None = None) -> bool:
    return stored(server, key_of(log)) == (data, outcome)


async def connected(store: RedisStore) -> Connection:
    """The connection that is written over."""
    store.writer.link.need()
    connection = await wait_until(lambda: store.writer.link.connection)
    assert connection is not None
    return connection


async def lose_next_reply(store: RedisStore) -> None:
    """What is asked next is done, and the connection breaks before the answer."""
    connection = await connected(store)
    connection.data_received = lambda data: connection.abort()  # type: ignore[method-assign]


async def test_a_first_claim_makes_the_log_and_takes_the_pointer_even_from_a_newer_stream(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    store = open_redis()
    server.set(KEYS.pointer(SLOT.name), "f" * 32, px=60_000)  # by a worker whose clock is ahead
    log = await begin(store, SLOT)
    assert server.xrange(key_of(log)) == [(b"0-1", {b"head": log.head.to_json()})]
    assert server.get(KEYS.pointer(SLOT.name)) == log.id.encode()


async def test_an_append_whose_reply_was_lost_is_not_there_twice(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    store = open_redis()
    log = await begin(store, SLOT, b"1")
    await wait_until(lambda: in_redis(server, log, b"1"))
    for n in range(2, 6):
        await lose_next_reply(store)
        log.append(b"%d" % n)
        await wait_until(lambda n=n: in_redis(server, log, b"12345"[:n]))
    log.copy.finish(Outcome.DONE)
    assert await sealed(log) is Outcome.DONE
    await wait_until(lambda: in_redis(server, log, b"12345", "done"))


async def test_a_worker_whose_replies_are_all_lost_keeps_its_lease(
    open_redis: OpenStore, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_redis(lease=2)
    await begin(store, SLOT, b"1")
    receive = Connection.data_received

    def lose(self: Connection, data: bytes) -> None:
        if self is store.writer.link.connection:
            self.abort()
        else:
            receive(self, data)

    monkeypatch.setattr(Connection, "data_received", lose)
    lease = KEYS.worker(store.worker(SLOT))
    with pytest.raises(AssertionError, match="the lease to be gone"):
        await wait_until(lambda: not server.exists(lease), timeout=3.5, what="the lease to be gone")


async def test_a_seal_whose_reply_was_lost_is_the_one(open_redis: OpenStore, server: redis.Redis) -> None:
    store = open_redis(redis_timeout=3)
    log = await begin(store, SLOT, b"1")
    await lose_next_reply(store)
    log.copy.finish(Outcome.ERROR, "why")
    assert await sealed(log) is Outcome.ERROR
    assert log.detail == "why"
    await wait_until(lambda: not store.writer.copies)
    assert in_redis(server, log, b"1", "error")


async def test_a_claim_whose_reply_was_lost_takes_nothing_from_a_newer_stream(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    store, other = open_redis(redis_timeout=3), open_redis(redis_timeout=3)
    await lose_next_reply(store)
    log = new_log(store)
    log.copy = store.claim(SLOT, log)
    await wait_until(lambda: server.exists(key_of(log)))
    newer = await begin(other, SLOT)
    await log.copy.claimed()
    await wait_until(lambda: store.writer.copies[log.id].state is CopyState.SYNCED)
    assert server.get(KEYS.pointer(SLOT.name)) == newer.id.encode()


async def test_a_log_that_vanished_is_written_again(open_redis: OpenStore, server: redis.Redis) -> None:
    store = open_redis()
    log = await begin(store, SLOT, b"12")
    await wait_until(lambda: in_redis(server, log, b"12"))
    server.delete(key_of(log), KEYS.pointer(SLOT.name))
    log.append(b"3")
    await wait_until(lambda: server.exists(key_of(log)) and in_redis(server, log, b"123"))
    assert server.get(KEYS.pointer(SLOT.name)) == log.id.encode()


async def test_an_emptied_redis_gets_silent_logs_back_too(open_redis: OpenStore, server: redis.Redis) -> None:
    store, other = open_redis(), open_redis()
    log = await begin(store, SLOT, b"12")
    await wait_until(lambda: in_redis(server, log, b"12"))
    server.flushall()
    found = await wait_until(lambda: other.find(SLOT), timeout=3)
    await holds(found.log, b"12")


async def test_a_redis_that_fell_back_is_brought_up_to_date(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    """A replica that was behind is the new primary."""
    store = open_redis()
    log = await begin(store, SLOT, b"12")
    await wait_until(lambda: in_redis(server, log, b"12"))
    behind = server.dump(key_of(log))
    log.append(b"345")
    await wait_until(lambda: in_redis(server, log, b"12345"))
    server.restore(key_of(log), 60_000, behind, replace=True)
    connection = store.writer.link.connection
    assert connection is not None
    connection.abort()
    log.append(b"6")
    await wait_until(lambda: in_redis(server, log, b"123456"))


async def test_a_redis_that_holds_more_than_was_written_is_not_added_to(
    open_redis: OpenStore, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_redis()
    log = await begin(store, SLOT, b"12")
    await wait_until(lambda: in_redis(server, log, b"12"))
    server.xadd(key_of(log), {"b": b"foreign"}, id="9-0")
    log.append(b"3")
    log.copy.finish(Outcome.DONE)
    assert await sealed(log) is Outcome.DONE
    await wait_until(lambda: not store.writer.copies)
    last = server.xrevrange(key_of(log), count=1)[0][1]
    assert last[b"outcome"] == b"interrupted", "a log with foreign bytes must not look whole"
    (warned,) = [record.getMessage() for record in caplog.records]
    assert warned.startswith(f"stream {log.id} (key 'c', 3 bytes, ")
    assert "can no longer be recorded: Redis holds 9 bytes of it" in warned


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_seal_says_whether_all_of_the_log_was_delivered(
    open_redis: OpenStore, server: redis.Redis, delivered: bool
) -> None:
    store = open_redis(redis_timeout=3)
    log = await begin(store, SLOT, b"1")
    log.copy.finish(Outcome.DONE, delivered=lambda: delivered)
    assert await sealed(log) is Outcome.DONE
    assert log.delivered is delivered
    assert (await store.find(SLOT) is None) is delivered
    await log.copy.delivered()
    assert await store.find(SLOT) is None


async def test_a_foreign_seal_stops_the_writer(open_redis: OpenStore, server: redis.Redis) -> None:
    store = open_redis()
    log = await begin(store, SLOT, b"12")
    await wait_until(lambda: in_redis(server, log, b"12"))
    server.xadd(key_of(log), {"outcome": "lost", "detail": ""}, id=SEAL)
    log.append(b"3")
    assert await sealed(log) is Outcome.LOST
    assert in_redis(server, log, b"12", "lost")
    await wait_until(lambda: not store.writer.copies)


async def test_a_seal_that_came_before_ours_wins(open_redis: OpenStore, server: redis.Redis) -> None:
    store = open_redis(redis_timeout=3)
    log = await begin(store, SLOT, b"12")
    await wait_until(lambda: in_redis(server, log, b"12"))
    server.xadd(key_of(log), {"outcome": "stopped", "detail": ""}, id=SEAL)
    log.copy.finish(Outcome.DONE)
    assert await sealed(log) is Outcome.STOPPED


@pytest.mark.parametrize(
    "kind", ["a newer version's seal", "a seal of nobody's", "a pointer of another type"]
)
async def test_what_is_wrong_with_one_log_does_not_hinder_the_others(
    open_redis: OpenStore, server: redis.Redis, kind: str
) -> None:
    store = open_redis()
    log = await begin(store, SLOT, b"1")
    if kind == "a pointer of another type":
        server.delete(KEYS.pointer(SLOT.name))
        server.rpush(KEYS.pointer(SLOT.name), "x")
        server.pexpire(KEYS.pointer(SLOT.name), 60_000)
        store.writer.check(log.id)
    else:
        fields = {"outcome": "paused", "detail": "", "more": ""} if "newer" in kind else {"a": "b"}
        server.xadd(key_of(log), fields, id=SEAL)
    log.append(b"2")
    slot = key_named("b" * 32)
    for n in range(3):
        other = await begin(store, slot, b"%d" % n)
        other.copy.finish(Outcome.DONE)
        await sealed(other)
        await wait_until(lambda: not store.writer.link.down, what="Redis to count as there")
        assert await whole(await store.find(slot, other.id)) == (b"%d" % n, Outcome.DONE)
    log.copy.finish(Outcome.DONE)
    await sealed(log)
    await wait_until(lambda: not store.writer.copies)


async def test_the_lease_is_there_before_the_log_and_is_renewed(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    store = open_redis(lease=1)
    lease = KEYS.worker(store.worker(SLOT))
    assert not server.exists(lease)
    log = await begin(store, SLOT)
    assert server.pttl(lease) > 0
    await wait_until(lambda: server.pttl(lease) < 850, what="the lease to run down a little")
    await wait_until(lambda: server.pttl(lease) > 950, what="the lease to be renewed", timeout=2)
    log.copy.finish(Outcome.DONE)
    await sealed(log)
    await wait_until(lambda: not server.exists(lease), what="a worker without streams to have no lease")


async def test_a_stop_elsewhere_is_heard_within_a_second(open_redis: OpenStore, server: redis.Redis) -> None:
    store, other = open_redis(), open_redis()
    log = await begin(store, SLOT, b"1")
    await wait_until(lambda: in_redis(server, log, b"1"))
    assert await other.stop(SLOT)
    assert await sealed(log, timeout=1) is Outcome.STOPPED


async def test_a_stop_whose_post_was_lost_is_heard_when_the_lease_was(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    store = open_redis(lease=1)
    log = await begin(store, SLOT, b"1")
    await wait_until(lambda: in_redis(server, log, b"1"))
    server.xadd(key_of(log), {"outcome": "lost", "detail": ""}, id=SEAL)
    server.delete(KEYS.worker(store.worker(SLOT)))
    assert await sealed(log, timeout=2) is Outcome.LOST


async def test_live_logs_are_renewed_by_time(open_redis: OpenStore, server: redis.Redis) -> None:
    store = open_redis()
    slot = key_named("c" * 32, retention=1)
    log = await begin(store, slot, b"1")
    names = [KEYS.log(slot.name, log.id), KEYS.pointer(slot.name)]
    for name in names:
        assert server.pttl(name) > 1900
    await wait_until(lambda: min(map(server.pttl, names)) < 1500)
    await wait_until(lambda: min(map(server.pttl, names)) > 1900, what="both to be renewed")
    log.copy.finish(Outcome.DONE)
    await sealed(log)
    assert max(map(server.pttl, names)) <= 1000


async def test_every_key_has_a_ttl_at_every_step(open_redis: OpenStore, server: redis.Redis) -> None:
    store, other = open_redis(), open_redis()

    def check() -> None:
        names = list(server.scan_iter())
        assert names
        assert [name for name in names if server.pttl(name) == -1] == []

    for outcome in Outcome:
        log = await begin(store, SLOT)
        check()
        log.append(b"1")
        await wait_until(lambda log=log: in_redis(server, log, b"1"))
        check()
        server.delete(key_of(log))
        log.append(b"2")
        await wait_until(lambda log=log: server.exists(key_of(log)))
        check()
        assert await other.find(SLOT) is not None
        if outcome is Outcome.STOPPED:
            assert await other.stop(SLOT)
        else:
            log.copy.finish(outcome)
        await sealed(log)
        check()
        await deliver(other, SLOT, log)
        check()


async def test_a_redis_that_hangs_delays_a_start_only_so_long(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    store = open_redis(redis_timeout=0.1)
    await begin(store, SLOT)
    server.execute_command("CLIENT", "PAUSE", 600, "ALL")
    clock = asyncio.get_running_loop().time
    begun = clock()
    log = await begin(store, SLOT, b"1")
    assert clock() - begun < 0.4
    log.copy.finish(Outcome.DONE)
    assert await sealed(log) is Outcome.DONE
    assert clock() - begun < 0.5
    await wait_until(lambda: not server.exists("x") and in_redis(server, log, b"1", "done"))


async def test_a_refusing_redis_is_written_to_again_when_it_takes_it(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    store = open_redis()
    log = await begin(store, SLOT, b"1")
    await wait_until(lambda: in_redis(server, log, b"1"))
    server.config_set("maxmemory", 1)
    try:
        log.append(b"2")
        await wait_until(lambda: store.writer.link.down)
        late = await begin(store, key_named("b" * 32), b"late")
        log.append(b"3")
    finally:
        server.config_set("maxmemory", 0)
    await wait_until(lambda: in_redis(server, log, b"123"))
    found = await wait_until(lambda: store.find(key_named("b" * 32)))
    assert found.log is late


async def test_streams_that_end_while_redis_refuses_do_not_pile_up(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    """A store is no archive: the memory of an outage must not grow with its length."""
    store = open_redis(ResumableRoute(retention=1))
    slot = key_named("d" * 32, retention=1)
    server.config_set("maxmemory", 1)
    try:
        for n in range(5):
            log = await begin(store, slot, b"%d" % n)
            log.copy.finish(Outcome.DONE)
            await sealed(log)
            await log.copy.delivered()
        await wait_until(lambda: not store.writer.copies, timeout=3)
    finally:
        server.config_set("maxmemory", 0)


async def test_what_outgrew_its_limit_does_not_wait_for_a_redis_that_hangs(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    """The original client is never delayed beyond `redis_timeout`, here by a copy that does not get on."""
    store = open_redis(redis_timeout=0.1)
    log = await begin(store, SLOT, b"1")
    await wait_until(lambda: in_redis(server, log, b"1"))
    server.execute_command("CLIENT", "PAUSE", 1500, "ALL")
    log.copy.overflow()
    log.append(b"2" * 1000)
    await asyncio.wait_for(let_go(log), 0.8)


async def let_go(log: Log) -> None:
    """Wait as a run does until nobody needs the log's bytes any more."""
    progressed = asyncio.Event()
    log.progressed = progressed.set
    log.trim()
    while log.start < log.end:
        await progressed.wait()
        progressed.clear()
        log.trim()


async def test_large_logs_are_written_piece_by_piece(open_redis: OpenStore, server: redis.Redis) -> None:
    store = open_redis(redis_timeout=3)
    logs = [await begin(store, SLOT) for _ in range(3)]
    data = bytes(range(256)) * 4096
    for log in logs:
        log.append(data)
        log.copy.finish(Outcome.DONE)
    for log in logs:
        await sealed(log)
        assert in_redis(server, log, data, "done")
        assert max(len(fields[b"b"]) for _, fields in server.xrange(key_of(log))[1:-1]) <= 256 * 1024


async def test_a_thousand_small_appends_cost_few_entries(open_redis: OpenStore, server: redis.Redis) -> None:
    store = open_redis()
    log = await begin(store, SLOT)
    await wait_until(lambda: store.writer.copies[log.id].state is CopyState.SYNCED)
    for n in range(1000):
        log.append(b"%03d" % n)
        if n % 100 == 0:
            await asyncio.sleep(0)
    log.copy.finish(Outcome.DONE)
    await sealed(log)
    assert in_redis(server, log, b"".join(b"%03d" % n for n in range(1000)), "done")
    assert server.xlen(key_of(log)) < 20


async def test_an_overflowing_log_that_holds_nothing_yet_can_be_sealed(
    open_redis: OpenStore, server: redis.Redis
) -> None:
    """Without its head the log is empty, but not gone."""
    store = open_redis(redis_timeout=0.2)
    log = await begin(store, SLOT)
    log.copy.overflow()
    await wait_until(lambda: not server.exists(key_of(log)) or not server.xlen(key_of(log)))
    log.copy.finish(Outcome.DONE)
    await sealed(log)
    await wait_until(lambda: not store.writer.copies, timeout=2, what="the writer to come to rest")


async def test_over_a_new_connection_every_log_is_looked_at_before_anything_is_added(
    open_redis: OpenStore,
    server: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, other = open_redis(), open_redis()
    idle = [await begin(store, key_named(f"{n:032x}"), b"1") for n in range(4)]
    slots = [key_named(f"{n:032x}") for n in range(4, 11)]
    logs = [await begin(store, slot, b"1") for slot in slots]
    followed: list[Log] = []
    for slot in slots:
        found = await other.find(slot)
        assert found is not None
        followed.append(found.log)
    for log in followed:
        await holds(log, b"1")
    for log, slot in zip([*idle, *logs], [key_named(f"{n:032x}") for n in range(11)], strict=True):
        log.append(b"2")
        name = KEYS.log(slot.name, log.id)
        await wait_until(lambda name=name: stored(server, name) == (b"12", None))
    connection = store.writer.link.connection
    assert connection is not None
    connection.abort()
    await asyncio.sleep(0)
    for log in logs:  # they are due, but there is nothing to send it over
        log.append(b"3")
    sent: list[bytes] = []
    call = Connection.call

    def watched(self: Connection, commands: list[bytes], answered: Any) -> None:
        sent.extend(commands)
        call(self, commands, answered)

    monkeypatch.setattr(Connection, "call", watched)
    for log in followed:
        await holds(log, b"123")
    names = [KEYS.log(slot.name, log.id) for slot, log in zip(slots, logs, strict=True)]
    for name in names:
        first = next(command for command in sent if name in command)
        assert b"EVAL" in first
    assert "unexpected reply" not in caplog.text


@pytest.mark.parametrize("gone", ["pointer", "pointer and log"])
async def test_what_was_evicted_is_put_right_within_a_lease(
    open_redis: OpenStore, server: redis.Redis, gone: str
) -> None:
    """The app may be silent meanwhile, and the lease may still be there."""
    store, other = open_redis(lease=1), open_redis(lease=1)
    log = await begin(store, SLOT, b"12")
    await wait_until(lambda: in_redis(server, log, b"12"))
    for _ in range(2):
        server.delete(KEYS.pointer(SLOT.name), *([key_of(log)] if "log" in gone else []))
        found = await wait_until(lambda: other.find(SLOT), timeout=1.2)
        assert found.log.id == log.id
        await holds(found.log, b"12")


@pytest.mark.parametrize("newer", ["live", "delivered", "stopped", "outgrown", "undelivered"])
async def test_a_stream_that_was_replaced_does_not_take_the_pointer_back(
    open_redis: OpenStore, server: redis.Redis, newer: str
) -> None:
    store, other = open_redis(lease=0.5), open_redis(lease=10)
    older = await begin(store, SLOT, b"1")
    log = await begin(other, SLOT, b"2")
    if newer == "stopped":
        assert await store.stop(SLOT, log.id)
    elif newer == "outgrown":
        log.copy.overflow()
    elif newer != "live":
        log.copy.finish(Outcome.DONE)
        await sealed(log)
    if newer == "delivered":
        await deliver(other, SLOT, log)
    expected = log.id if newer in ("live", "undelivered") else None
    record = store.writer.copies[older.id]
    for _ in range(3):  # its worker has looked that often
        renewed = record.renew_at
        await wait_until(
            lambda renewed=renewed: record.renew_at > renewed and record.state is CopyState.SYNCED
        )
        record.renew_at = 0
    found = await other.find(SLOT)
    assert (found and found.log.id) == expected
    assert older.outcome is None


@pytest.mark.parametrize("asked", ["at start", "with the first stream"])
async def test_a_server_that_evicts_is_warned_of_once(
    open_redis: OpenStore,
    server: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
) -> None:
    monkeypatch.setattr(redis_store, "_LOOK_AFTER", 0.05)
    refusals.forget()
    server.config_set("maxmemory-policy", "volatile-lru")
    try:
        for _ in range(2):
            store = open_redis()
            if asked == "at start":
                await store.start()
            else:
                await begin(store, SLOT)
            await wait_until(lambda: "noeviction" in caplog.text)
        assert caplog.text.count("maxmemory-policy volatile-lru") == 1
    finally:
        server.config_set("maxmemory-policy", "noeviction")


async def test_a_server_that_does_not_evict_is_not(
    open_redis: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    refusals.forget()
    store = open_redis()
    await store.start()
    await store.find(SLOT)  # answered after the question
    assert "maxmemory" not in caplog.text
