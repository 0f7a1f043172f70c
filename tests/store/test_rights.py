"""A Redis user without all rights: streams go on, followers end truthfully, and the log says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from testkit.logs import begin, deliver, key_named, reading, sealed, until
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi.errors import StoreUnavailableError
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.redis import refusals
from resumable_asgi.store.redis.store import RedisStore
from resumable_asgi.stream.store import Found

from .conftest import OpenStore
from .raw import RawLog, raw_client

SLOT = key_named("a" * 32)
LEASE = 1.0
BOUND = LEASE + 5

ALWAYS_SENT = frozenset(
    (
        "multi",
        "xadd",
        "pexpire",
        "set",
        "exec",
        "eval",
        "xrange",
        "xrevrange",
        "exists",
        "publish",
        "subscribe",
        "ping",
    )
)
"""By the test below, whatever happens."""
ASKED_IN_SILENCE = ("exists", "ping", "set")
COMMANDS = [*sorted(ALWAYS_SENT), "get", "pttl", "xdel", "append", "unsubscribe"]


@pytest.fixture
def server(valkey: Valkey) -> Iterator[redis.Redis]:
    refusals.forget()
    with raw_client(valkey) as client:
        yield client
        client.execute_command("ACL", "DELUSER", "app")


@pytest.fixture
def allow(server: redis.Redis) -> Callable[..., None]:
    def allow(*rules: str) -> None:
        every = ("reset", "on", ">secret", "~resumable:*", "&resumable:*", "+@all")
        server.execute_command("ACL", "SETUSER", "app", *every, *rules)

    allow()
    return allow


@pytest.fixture
def open_app(open_redis: OpenStore, valkey: Valkey, allow: Callable[..., None]) -> Callable[..., RedisStore]:
    url = f"redis://app:secret@127.0.0.1:{valkey.port}/0"
    return lambda: open_redis(redis_url=url, lease=LEASE, redis_timeout=0.3)


async def found_by(store: RedisStore) -> Found | None:
    try:
        return await store.find(SLOT)
    except StoreUnavailableError:
        return None


def names(caplog: pytest.LogCaptureFixture, command: str) -> list[str]:
    said = [record.getMessage() for record in caplog.records if "Redis refuses" in record.getMessage()]
    return [line for line in said if f"+{command}" in line or f"+{command.upper()}" in line]


@pytest.mark.parametrize("when", ["from the start", "later"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_without_one_command_streams_go_on_and_followers_end(
    open_app: Callable[..., RedisStore],
    allow: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    command: str,
    when: str,
) -> None:
    own, other = open_app(), open_app()
    if when == "from the start":
        allow(f"-{command}")
    clock = asyncio.get_running_loop().time
    begun = clock()
    log = await begin(own, SLOT, b"1" * 100)
    assert clock() - begun < 0.8
    await asyncio.sleep(0.15)  # so that it is written, if it can be
    found = await found_by(other)
    if found is None:
        log.copy.finish(Outcome.DONE)
        assert await sealed(log) is Outcome.DONE
    else:
        with reading(found.log):
            await until(found.log, lambda: found.log.end >= 100 or found.log.outcome, "the past")
            if when == "later":
                allow(f"-{command}")
            log.append(b"2" * 100)
            if command in ASKED_IN_SILENCE:
                await wait_until(lambda: names(caplog, command))
            if not log.closed:
                log.copy.finish(Outcome.DONE)
            own_end = await sealed(log)
            outcome = await sealed(found.log, BOUND)
            data = found.log.span(0, found.log.end)
            assert log.span(0, log.end).startswith(data)
            assert outcome is Outcome.LOST or (outcome, len(data)) == (own_end, log.end) == (
                Outcome.DONE,
                200,
            )
    if command in ALWAYS_SENT and (when == "from the start" or command not in ("multi", "exec")):
        assert names(caplog, command), caplog.text


@pytest.mark.parametrize(
    "rules", [["-exists"], ["resetkeys", "~resumable:{*"], ["-eval"], ["-xadd"], ["-publish"]]
)
async def test_followers_of_a_dead_worker_end(
    open_app: Callable[..., RedisStore],
    allow: Callable[..., None],
    server: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    rules: list[str],
) -> None:
    raw = RawLog(server, SLOT.name).begin(alive=False).add(2, b"12")
    store = open_app()
    found = await store.find(SLOT)
    assert found is not None
    allow(*rules)
    with reading(found.log):
        assert await sealed(found.log, BOUND) is Outcome.LOST
        assert found.log.span(0, 9) == b"12"
    assert "Redis refuses" in caplog.text
    warned = [line for line in caplog.text.splitlines() if raw.id in line]
    assert len(warned) == 1
    assert "is lost" in warned[0]
    assert "2 bytes" in warned[0]


async def test_a_follower_of_a_worker_that_is_heard_goes_on_without_exists(
    open_app: Callable[..., RedisStore], allow: Callable[..., None]
) -> None:
    own, other = open_app(), open_app()
    log = await begin(own, SLOT, b"1")
    found = await wait_until(lambda: found_by(other))
    assert found is not None
    allow("-exists")
    with reading(found.log):
        for n in range(2, 8):
            log.append(b"%d" % n)
            await until(found.log, lambda n=n: found.log.end == n, "what was appended")
            await asyncio.sleep(LEASE / 3)
        log.copy.finish(Outcome.DONE)
        assert await sealed(found.log) is Outcome.DONE


async def test_the_default_rights_of_new_users_are_enough(
    open_app: Callable[..., RedisStore], allow: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """No channels: followers read the log."""
    allow("resetchannels")
    own, other = open_app(), open_app()
    log = await begin(own, SLOT, b"1")
    found = await wait_until(lambda: found_by(other))
    assert found is not None
    clock = asyncio.get_running_loop().time
    with reading(found.log):
        for n in range(2, 5):
            log.append(b"%d" % n)
            begun = clock()
            await until(found.log, lambda n=n: found.log.end == n, "what was appended")
            assert clock() - begun < 1.5
        log.copy.finish(Outcome.DONE, delivered=lambda: True)
        assert await sealed(log) is Outcome.DONE
        assert await sealed(found.log, 1.5) is Outcome.DONE
    assert not own.writer.link.down
    assert log.delivered
    stopped = await begin(own, SLOT)
    assert await other.stop(SLOT)
    assert await sealed(stopped) is Outcome.STOPPED
    said = [record.getMessage() for record in caplog.records if "Redis refuses" in record.getMessage()]
    assert {line.split()[2].strip(":") for line in said} == {"PUBLISH", "SUBSCRIBE"}
    assert all("&<prefix>:*" in line for line in said)
    assert "unrecorded" not in caplog.text


async def test_it_is_said_once_a_minute(
    open_app: Callable[..., RedisStore],
    allow: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allow("-eval")
    store = open_app()
    for _ in range(5):
        assert await found_by(store) is None
    assert caplog.text.count("Redis refuses EVAL (find.lua") == 1
    clock = refusals.time.monotonic
    monkeypatch.setattr(refusals.time, "monotonic", lambda: clock() + 61)
    assert await found_by(store) is None
    assert caplog.text.count("Redis refuses EVAL (find.lua") == 2
    assert "ACL SETUSER <user> +eval" in caplog.text


async def test_a_server_that_does_not_tell_of_its_memory_is_not_complained_of(
    open_app: Callable[..., RedisStore], allow: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    allow("-info")
    store = open_app()
    await store.start()
    await store.find(SLOT)
    assert caplog.records == []


def test_what_is_no_refusal_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    for error in (
        "MOVED 1 a:1",
        "LOADING",
        "WRONGTYPE x",
        "ERR The ID specified in XADD is equal or smaller",
    ):
        refusals.note(b"*1\r\n$4\r\nXADD\r\n", error)
    assert caplog.text == ""


async def test_the_documented_rights_are_enough(
    open_app: Callable[..., RedisStore], allow: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    rules = text.partition("ACL SETUSER app on ")[2].partition("\n\n")[0].split()
    assert "+xadd" in rules
    allow("-@all", *(rule for rule in rules if rule.startswith("+")))
    own, other = open_app(), open_app()
    await own.start()
    log = await begin(own, SLOT, b"1")
    found = await wait_until(lambda: found_by(other))
    assert found is not None
    with reading(found.log):
        own.writer.check(log.id)
        log.append(b"2")
        await until(found.log, lambda: found.log.end == 2, "what was appended")
        await asyncio.sleep(LEASE)  # the lease, the pointer and silence are seen to
        assert await other.stop(SLOT)
        assert await sealed(found.log) is Outcome.STOPPED
    log = await begin(own, SLOT, b"1")
    log.copy.overflow()
    log.append(b"2")
    log.copy.finish(Outcome.DONE)
    await sealed(log)
    log = await begin(own, SLOT, b"1")
    log.copy.finish(Outcome.DONE)
    await sealed(log)
    await deliver(other, SLOT, log)
    assert caplog.records == []
