from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from testkit.inprocess import SSE

import resumable_asgi.stream.log as log_module
from resumable_asgi.outcome import Outcome
from resumable_asgi.stream.log import (
    Head,
    Log,
    SealedError,
    TrimmedError,
    new_stream_id,
    without_credentials,
)
from resumable_asgi.stream.log_states import LogState

HEAD = Head(worker="w", created=1, status=200, headers=(SSE, (b"x", b"\xe9\xff")), key="日本 🎉")


@dataclass(eq=False)
class Mark:
    offset: int


@pytest.fixture
def log() -> Log:
    return Log(new_stream_id(), HEAD)


def test_ids_are_32_hex_digits_and_sort_by_age() -> None:
    ids = [new_stream_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(len(each) == 32 and set(each) <= set("0123456789abcdef") for each in ids)
    assert all(earlier[:12] <= later[:12] for earlier, later in pairwise(ids))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that they are many, and that some appends are as large as one."""
    monkeypatch.setattr(log_module, "_BLOCK", 16)


AnyHealth = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@AnyHealth
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(0, 200), st.integers(1, 200))
def test_any_part_reads_as_it_was_written(parts: list[bytes], offset: int, limit: int) -> None:
    log = Log(new_stream_id(), HEAD)
    for part in parts:
        log.append(part)
    data = b"".join(parts)
    assert log.end == len(data)
    found = log.read(min(offset, log.end), limit)
    assert data[offset:].startswith(found)
    assert 0 < len(found) <= limit or offset >= log.end
    assert log.span(offset, offset + limit) == data[offset : offset + limit]
    assert log.span(0, log.end) == data


@AnyHealth
@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.lists(st.integers(0, 50)), st.integers(0, 99)
)
def test_trimming_lets_go_of_nothing_that_a_reader_needs(
    parts: list[bytes], offsets: list[int], floor: int
) -> None:
    log = Log(new_stream_id(), HEAD)
    for part in parts:
        log.append(part)
    data = b"".join(parts)
    floor = min(floor, len(data))
    log.readers = {Mark(min(offset, len(data))) for offset in offsets}
    log.trim(floor)
    assert log.start == max(floor, min((mark.offset for mark in log.readers), default=len(data)))
    assert log.span(log.start, len(data) + 1) == data[log.start :]
    if log.start > 0:
        with pytest.raises(TrimmedError):
            log.read(log.start - 1, 1)
    log.append(b"more")
    assert log.span(log.start, len(data) + 9) == data[log.start :] + b"more"


def test_the_first_seal_wins_and_nothing_follows_it(log: Log) -> None:
    log.append(b"1")
    assert log.seal(Outcome.STOPPED, "why")
    assert not log.seal(Outcome.DONE)
    assert (log.outcome, log.detail) == (Outcome.STOPPED, "why")
    with pytest.raises(SealedError, match=r"SEALED \(stopped\) .* APPEND"):
        log.append(b"2")
    assert log.read(0, 9) == b"1"


def test_a_log_that_waits_for_its_seal_takes_no_bytes_and_shows_it(log: Log) -> None:
    changes: list[LogState] = []
    log.on_change = lambda: changes.append(log.state)
    assert repr(log) == f"<Log {log.id} open>"
    log.close()
    log.close()
    assert repr(log) == f"<Log {log.id} closing>"
    with pytest.raises(SealedError, match=r"CLOSING .* APPEND"):
        log.append(b"2")
    assert log.seal(Outcome.DONE)
    log.close()
    assert repr(log) == f"<Log {log.id} sealed>"
    assert changes == [LogState.CLOSING, LogState.SEALED]


def test_watchers_are_told_of_each_append_and_the_seal(log: Log) -> None:
    told: list[int] = []

    def watch() -> None:
        told.append(log.end if log.outcome is None else -1)

    log.watch(watch)
    log.append(b"12")
    log.append(b"3")
    log.seal(Outcome.DONE)
    log.seal(Outcome.DONE)
    log.unwatch(watch)
    assert told == [2, 3, -1]


def test_a_watcher_may_leave_while_it_is_told(log: Log) -> None:
    told: list[str] = []

    def first() -> None:
        told.append("first")
        log.unwatch(first)
        log.unwatch(second)

    def second() -> None:
        told.append("second")

    log.watch(first)
    log.watch(second)
    log.append(b"1")
    log.append(b"2")
    assert told == ["first", "second"]


@given(
    st.builds(
        Head,
        worker=st.text("0123456789abcdef", min_size=32, max_size=32),
        created=st.integers(0, 2**53),
        status=st.integers(200, 299),
        headers=st.lists(st.tuples(st.binary(), st.binary())).map(tuple),
        key=st.text(),
    )
)
def test_a_head_survives_its_way_through_redis(head: Head) -> None:
    assert Head.from_json(head.to_json()) == head


Json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(list(json.loads(HEAD.to_json()))), Json)
@example("status", float("inf"))
@example("worker", "\ud800")
def test_a_head_that_nobody_wrote_is_a_value_error_or_a_head(name: str, value: object) -> None:
    fields = json.loads(HEAD.to_json()) | {name: value}
    try:
        head = Head.from_json(json.dumps(fields).encode())
    except ValueError:
        return
    assert Head.from_json(head.to_json()) == head


@given(st.binary() | Json.map(lambda value: json.dumps(value).encode()))
def test_bytes_that_are_no_head_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Head.from_json(data)


def test_a_deeply_nested_head_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not the head"):
        Head.from_json(b"[" * 100_000)


@pytest.mark.parametrize(
    "name",
    [
        b"Set-Cookie", b"set-cookie2", b"WWW-Authenticate", b"Authentication-Info", b"Proxy-Authenticate",
        b"Proxy-Authentication-Info", b"Authorization", b"proxy-authorization", b"X-Token", b"token",
        b"X-Amz-Security-Token", b"X-CSRFToken", b"x-csrf-token", b"csrf", b"X-XSRF-TOKEN",
    ],
)  # fmt: skip
def test_no_credential_of_a_response_is_stored(name: bytes) -> None:
    kept = (
        (b"content-type", b"text/event-stream"),
        (b"x-ratelimit-remaining-tokens", b"1"),
        (b"x-author", b"a"),
    )
    assert without_credentials([*kept, (name, b"secret"), (name.lower(), b"secret")]) == kept


def test_thousands_who_watch_come_and_go_fast(log: Log) -> None:
    """They leave together when a log ends: looking through all others for each would hold up the process."""
    watchers = [Watcher() for _ in range(20_000)]
    begun = time.perf_counter()
    for watcher in watchers:
        log.watch(watcher.wake)
    log.append(b"1")
    for watcher in watchers:
        log.unwatch(watcher.wake)
    log.append(b"2")
    assert time.perf_counter() - begun < 1
    assert {watcher.woken for watcher in watchers} == {1}


class Watcher:
    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def test_who_watches_is_called_in_order_and_may_leave_meanwhile(log: Log) -> None:
    called: list[str] = []

    def once() -> None:
        called.append("once")
        log.unwatch(once)

    log.watch(once)
    log.watch(lambda: called.append("second"))
    log.watch(lambda: called.append("first"), first=True)
    log.append(b"1")
    log.append(b"2")
    assert called == ["first", "once", "second", "first", "second"]
