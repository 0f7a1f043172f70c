"""What each script answers: on a real Valkey, and on a simulation that needs no server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
import redis

from resumable_asgi.store.redis import keys
from resumable_asgi.store.redis.keys import SEAL_ID, SEAL_MESSAGE, Keys, Script

K = Keys("p")
SLOT = "s" * 32
OLD, NEW = "1" * 32, "2" * 32
POINTER = K.pointer(SLOT)
CHANNEL = b"channel"


@pytest.fixture(params=["simulated", "real"])
def server(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "simulated":
        with fakeredis.FakeRedis() as client:
            yield client
        return
    valkey = request.getfixturevalue("valkey")
    with redis.Redis(port=valkey.port, socket_timeout=5) as client:
        yield client


def run(server: redis.Redis, script: Script, names: list[bytes], *arguments: bytes) -> Any:
    answer = server.eval(script.text.decode(), len(names), *names, *arguments)
    for key in server.scan_iter():
        assert server.pttl(key) != -1, f"{key!r} stays for ever"
    return answer


def begin(server: redis.Redis, log: str) -> None:
    """What a first claim does."""
    server.xadd(K.log(SLOT, log), {"head": "head"}, id="0-1")
    server.pexpire(K.log(SLOT, log), 60000)
    server.set(POINTER, log, px=60000)


def claim(server: redis.Redis, log: str, *, findable: bool = True, latest: bool = False) -> Any:
    names, flag = [POINTER, K.log(SLOT, log)], b"2" if latest else b"1" if findable else b"0"
    return run(server, keys.CLAIM, names, log.encode(), b"head", b"60000", flag)


def seal(
    server: redis.Redis, log: str, outcome: bytes = b"done", at: bytes = b"", delivered: bytes = b""
) -> Any:
    names = [POINTER, K.log(SLOT, log)]
    arguments = (log.encode(), outcome, b"why", b"30000", CHANNEL, b"PUBLISH", at, delivered)
    return run(server, keys.SEAL, names, *arguments)


def find(server: redis.Redis, log: str = "") -> Any:
    return run(server, keys.FIND, [POINTER], K.log(SLOT, ""), log.encode())


def clear(server: redis.Redis, log: str, ms: int = 0) -> Any:
    return run(server, keys.CLEAR, [POINTER, K.log(SLOT, log)], log.encode(), b"%d" % ms, b"0", b"20000")


def add(server: redis.Redis, log: str, end: int, data: bytes = b"x") -> None:
    server.xadd(K.log(SLOT, log), {"b": data}, id=f"{end}-0", nomkstream=True)


def active(server: redis.Redis) -> str | None:
    value: Any = server.get(POINTER)
    return None if value is None or value.endswith(b"-") else value.decode()


def test_a_claim_makes_a_log_that_is_not_there(server: redis.Redis) -> None:
    assert claim(server, NEW) == [b"0"]
    assert server.xrange(K.log(SLOT, NEW)) == [(b"0-1", {b"head": b"head"})]
    assert active(server) == NEW


def test_a_claim_again_tells_how_far_the_log_is_and_renews_it(server: redis.Redis) -> None:
    begin(server, NEW)
    add(server, NEW, 7)
    server.pexpire(K.log(SLOT, NEW), 5000)
    server.pexpire(POINTER, 5000)
    assert claim(server, NEW) == [b"7"]
    assert server.pttl(K.log(SLOT, NEW)) > 50000
    assert server.pttl(POINTER) > 50000


def test_a_claim_of_a_sealed_log_tells_its_end_and_changes_nothing(server: redis.Redis) -> None:
    begin(server, NEW)
    add(server, NEW, 7)
    seal(server, NEW, b"lost")
    assert claim(server, NEW) == [b"7", b"lost", b"why"]
    assert server.pttl(K.log(SLOT, NEW)) <= 30000


def test_a_sealed_log_without_bytes_ends_at_0(server: redis.Redis) -> None:
    begin(server, NEW)
    seal(server, NEW)
    assert claim(server, NEW) == [b"0", b"done", b"why"]
    assert find(server) == [NEW.encode(), b"head", b"0", b"done", b"why", None, None, None]


@pytest.mark.parametrize(
    ("log", "there", "findable", "expected"),
    [
        (OLD, None, True, OLD),
        (NEW, OLD, True, NEW),
        (NEW, f"{OLD}-", True, NEW),
        (NEW, None, False, None),
        (NEW, OLD, False, OLD),
    ],
)
def test_a_log_that_vanished_takes_the_pointer_from_nobody_newer(
    server: redis.Redis, log: str, there: str | None, findable: bool, expected: str | None
) -> None:
    if there is not None:
        server.set(POINTER, there, px=60000)
    assert claim(server, log, findable=findable) == [b"0"]
    assert active(server) == expected


@pytest.mark.parametrize("there", [NEW, f"{NEW}-"])
def test_a_claim_tells_that_a_newer_stream_has_or_had_the_pointer(server: redis.Redis, there: str) -> None:
    server.set(POINTER, there, px=60000)
    assert claim(server, OLD) == [b"0", b"replaced"]
    assert server.get(POINTER) == there.encode()


def test_a_claim_restores_a_pointer_that_was_evicted(server: redis.Redis) -> None:
    begin(server, NEW)
    server.delete(POINTER)
    assert claim(server, NEW) == [b"0"]
    assert active(server) is None, "there may have been a newer one"
    assert claim(server, NEW, latest=True) == [b"0"]
    assert active(server) == NEW


def test_a_claim_again_takes_no_pointer_from_an_older_stream_that_began_later(server: redis.Redis) -> None:
    """By a worker whose clock is behind."""
    begin(server, NEW)
    begin(server, OLD)
    assert claim(server, NEW) == [b"0"]
    assert active(server) == OLD


@pytest.mark.parametrize("how", ["delivered", "stopped", "cleared"])
def test_an_older_stream_does_not_come_back_when_the_newer_one_is_over(server: redis.Redis, how: str) -> None:
    begin(server, OLD)
    begin(server, NEW)
    if how == "cleared":
        clear(server, NEW)
    else:
        seal(server, NEW, b"stopped" if how == "stopped" else b"done", delivered=b"0")
    assert find(server) is None
    assert claim(server, OLD, latest=True) == [b"0", b"replaced"]
    assert find(server) is None
    assert 0 < server.pttl(POINTER) <= 30000


def test_a_seal_that_cannot_be_published_stands_and_says_so(server: redis.Redis) -> None:
    begin(server, NEW)
    names = [POINTER, K.log(SLOT, NEW)]
    arguments = (NEW.encode(), b"done", b"", b"30000", CHANNEL, b"NOCOMMAND", b"", b"")
    sealed, error = run(server, keys.SEAL, names, *arguments)
    assert sealed == b"sealed"
    assert b"nknown" in error
    assert seal(server, NEW) == [b"was", b"done", b""]


def test_the_first_seal_wins_and_refuses_every_later_append(server: redis.Redis) -> None:
    begin(server, NEW)
    add(server, NEW, 7)
    assert seal(server, NEW) == [b"sealed"]
    assert seal(server, NEW, b"lost") == [b"was", b"done", b"why"]
    last: Any = server.xrevrange(K.log(SLOT, NEW), count=1)
    assert last == [(SEAL_ID, {b"outcome": b"done", b"detail": b"why"})]
    with pytest.raises(redis.ResponseError, match=r"last possible ID|equal or smaller"):
        add(server, NEW, 8)


def test_a_seal_is_only_set_at_the_end_it_is_meant_for(server: redis.Redis) -> None:
    begin(server, NEW)
    assert seal(server, NEW, at=b"7") == [b"at", b"0"]
    add(server, NEW, 7)
    assert seal(server, NEW, at=b"6") == [b"at", b"7"]
    assert seal(server, NEW, at=b"7") == [b"sealed"]


def test_a_log_that_is_not_there_cannot_be_sealed(server: redis.Redis) -> None:
    assert seal(server, NEW) == [b"gone"]
    assert not server.exists(K.log(SLOT, NEW))


def test_a_seal_shortens_the_pointer_and_a_stop_clears_it(server: redis.Redis) -> None:
    begin(server, NEW)
    seal(server, NEW)
    assert 20000 < server.pttl(POINTER) <= 30000
    begin(server, OLD)
    seal(server, OLD, b"stopped")
    assert active(server) is None


def test_a_seal_of_a_log_that_was_delivered_clears_the_pointer_or_leaves_it_some_time(
    server: redis.Redis,
) -> None:
    begin(server, OLD)
    seal(server, OLD, delivered=b"0")
    assert active(server) is None
    begin(server, NEW)
    seal(server, NEW, delivered=b"5000")
    assert 0 < server.pttl(POINTER) <= 5000


@pytest.mark.parametrize("outcome", [b"done", b"stopped"])
def test_the_seal_of_an_old_log_leaves_the_new_pointer(server: redis.Redis, outcome: bytes) -> None:
    begin(server, OLD)
    begin(server, NEW)
    seal(server, OLD, outcome)
    assert active(server) == NEW
    assert server.pttl(POINTER) > 50000


def test_a_seal_is_published(server: redis.Redis) -> None:
    with server.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe(CHANNEL)
        begin(server, NEW)
        seal(server, NEW)
        messages = [subscription.get_message(timeout=2) for _ in range(2)]
        assert [message["data"] for message in messages if message] == [SEAL_MESSAGE]


def test_clearing_compares_and_may_leave_some_time(server: redis.Redis) -> None:
    assert clear(server, NEW) == 0
    begin(server, NEW)
    assert clear(server, OLD) == 0
    assert clear(server, NEW, 5000) == 1
    assert 0 < server.pttl(POINTER) <= 5000
    assert clear(server, NEW, 50000) == 1
    assert server.pttl(POINTER) <= 5000, "a second delivery gave it more time"
    assert clear(server, NEW) == 1
    assert active(server) is None


def test_find_gives_the_resumable_log_or_the_one_with_an_id(server: redis.Redis) -> None:
    assert find(server) is None
    assert find(server, NEW) is None
    begin(server, OLD)
    begin(server, NEW)
    add(server, NEW, 7)
    assert find(server) == [NEW.encode(), b"head", b"7", None, None, b"7", b"x", None]
    assert find(server, OLD) == [OLD.encode(), b"head", b"0", None, None, None, None, None]
    seal(server, NEW, b"error")
    assert find(server) == [NEW.encode(), b"head", b"7", b"error", b"why", b"7", b"x", None]


def test_a_pointer_to_a_log_that_is_gone_finds_nothing(server: redis.Redis) -> None:
    begin(server, NEW)
    server.delete(K.log(SLOT, NEW))
    assert find(server) is None


def test_a_log_without_its_head_is_not_found(server: redis.Redis) -> None:
    begin(server, NEW)
    add(server, NEW, 7)
    server.xdel(K.log(SLOT, NEW), "0-1")
    assert find(server) == [NEW.encode(), None, b"7", None, None, None, None, None]


def test_a_log_that_has_outgrown_its_limit_tells_its_worker(server: redis.Redis) -> None:
    begin(server, NEW)
    server.xadd(K.log(SLOT, NEW), {"b": b"x", "w": "worker"}, id="7-0")
    server.xdel(K.log(SLOT, NEW), "0-1")
    assert find(server, NEW) == [NEW.encode(), None, b"7", None, None, None, None, b"worker"]
    seal(server, NEW, b"stopped")
    assert find(server, NEW) == [NEW.encode(), None, b"7", b"stopped", b"why", None, None, b"worker"]


def test_post_reaches_living_workers_only(server: redis.Redis) -> None:
    worker = K.worker("w")
    assert run(server, keys.POST, [worker], NEW.encode()) == 0
    assert not server.exists(worker)
    server.set(worker, b"", px=5000)
    assert run(server, keys.POST, [worker], OLD.encode()) == 1
    assert run(server, keys.POST, [worker], NEW.encode()) == 1
    assert server.get(worker) == (OLD + NEW).encode()
    assert 0 < server.pttl(worker) <= 5000


def test_all_keys_of_a_slot_share_a_hash_tag_and_the_prefix() -> None:
    assert b"p:{" + SLOT.encode() + b"}:active" == POINTER
    assert K.log(SLOT, NEW) == b"p:{" + SLOT.encode() + b"}:log:" + NEW.encode()
    assert json.dumps(K.worker("w").decode()) == '"p:worker:w"'
