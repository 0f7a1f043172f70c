"""What the log says of a stream: its start, its stop, its end, and nothing of its contents."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from testkit.inprocess import worker
from testkit.valkey import Valkey
from testkit.wait import wait_until

EVENT = b"data: the body\n\n"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "resumable_asgi")
    return caplog


def about(lines: pytest.LogCaptureFixture, stream_id: str | None) -> list[tuple[str, str]]:
    """The level of each line about a stream, and what it says without its id and times."""
    assert stream_id is not None
    messages = [(record.levelname, record.message) for record in lines.records]
    assert "the body" not in lines.text
    return [
        (level, re.sub(r"\d+\.\d s", "1.0 s", message.replace(stream_id, "ID")))
        for level, message in messages
        if stream_id in message
    ]


async def test_a_stream_that_ends_by_itself(lines: pytest.LogCaptureFixture) -> None:
    async with worker(redis_url="memory://") as made:
        exchange, run = await made.begin()
        for _ in range(10):
            run.emit(EVENT)
        run.finish()
        await exchange.ended()
    assert about(lines, exchange.stream_id) == [
        ("DEBUG", "stream ID: started recording, key 'c'"),
        ("DEBUG", f"stream ID (key 'c', {10 * len(EVENT)} bytes, 1.0 s old) ended done"),
    ]


async def test_a_stream_that_is_stopped(lines: pytest.LogCaptureFixture) -> None:
    async with worker(redis_url="memory://") as made:
        exchange, run = await made.begin()
        run.emit(EVENT)
        await exchange.until(EVENT)
        assert await made.stop()
        await exchange.ended()
    assert about(lines, exchange.stream_id) == [
        ("DEBUG", "stream ID: started recording, key 'c'"),
        ("DEBUG", "stream ID: stopping, the app is told"),
        ("DEBUG", f"stream ID (key 'c', {len(EVENT)} bytes, 1.0 s old) ended stopped"),
    ]


async def test_a_stream_that_a_shutdown_interrupts(lines: pytest.LogCaptureFixture) -> None:
    async with worker(redis_url="memory://") as made:
        exchange, run = await made.begin()
        run.emit(EVENT)
        await exchange.until(EVENT)
        await made.shutdown()
    said = about(lines, exchange.stream_id)
    assert (
        "WARNING",
        f"stream ID (key 'c', {len(EVENT)} bytes, 1.0 s old) ended interrupted: shutdown",
    ) in said
    assert not [record for record in lines.records if record.exc_info and record.levelno > logging.DEBUG]


async def test_a_stream_that_outgrows_its_limit(lines: pytest.LogCaptureFixture) -> None:
    async with worker(redis_url="memory://", max_bytes=20) as made:
        exchange, run = await made.begin()
        run.emit(2 * EVENT)
        run.emit(2 * EVENT)
        run.finish()
        await exchange.ended()
    (warning,) = [message for level, message in about(lines, exchange.stream_id) if level == "WARNING"]
    size = f"{2 * len(EVENT)} bytes"
    assert warning.startswith(f"stream ID (key 'c', {size}, 1.0 s old) is longer than max_bytes=20")


async def test_a_stream_whose_worker_was_taken_for_dead(
    lines: pytest.LogCaptureFixture, valkey: Valkey
) -> None:
    """Somebody else has sealed its log: the worker says so when it notices."""
    async with worker(redis_url=valkey.url) as made:
        exchange, run = await made.begin()
        run.emit(EVENT)
        await exchange.until(EVENT)
        assert exchange.stream_id is not None
        (key,) = [key for key in valkey.all_keys() if exchange.stream_id in key]
        seal: dict[Any, Any] = {"outcome": "lost", "detail": ""}
        with valkey.client() as client:
            client.xadd(key, seal, id="18446744073709551615-18446744073709551615")
        run.emit(EVENT)
        await wait_until(lambda: ("WARNING", "lost") in summary(lines), what="a warning")
        run.leave()


def summary(lines: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage().rpartition(" ended ")[2].partition(":")[0])
        for record in lines.records
    ]
