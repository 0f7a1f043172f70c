"""A run whose log has outgrown its limit, so that nobody new can follow it."""

from __future__ import annotations

import asyncio
import logging

import pytest
from testkit.inprocess import HostRun, worker
from testkit.valkey import Valkey
from testkit.wait import wait_until

BIG = b"data: " + b"x" * 300 + b"\n\n"


@pytest.fixture(params=["memory", "redis"])
def redis_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    valkey: Valkey = request.getfixturevalue("valkey")
    return valkey.url


async def heard_within(run: HostRun, timeout: float) -> None:
    await run.changes.until(lambda: run.heard, "the app to hear of the disconnect", timeout)
    assert run.heard == ["http.disconnect"]


async def test_nobody_follows_it_any_more(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with worker(redis_url=redis_url, max_bytes=200) as made:
        exchange, run = await made.begin()
        run.emit(BIG)
        await exchange.until(BIG)
        listener = asyncio.create_task(run.listen())
        exchange.disconnect()
        await exchange.ended()
        await heard_within(run, 4)
        await listener
        run.leave()
        await run.until_ended("returned")
        assert await made.nothing()
        ends = [record for record in caplog.records if "ended interrupted" in record.getMessage()]
        assert [record.levelno for record in ends] == [logging.WARNING]


async def test_nobody_follows_it_and_it_goes_on_writing(redis_url: str) -> None:
    """Faster than anybody is looked for."""

    async def write(run: HostRun) -> None:
        while not run.heard:
            await run.send({"type": "http.response.body", "body": BIG, "more_body": True})
            await asyncio.sleep(0.01)

    async with worker(redis_url=redis_url, max_bytes=200) as made:
        exchange, run = await made.begin()
        run.call(write)
        await exchange.until(BIG)
        listener = asyncio.create_task(run.listen())
        exchange.disconnect()
        await heard_within(run, 4)
        await listener
        run.leave()
        await run.until_ended("returned")


async def test_its_client_still_follows(redis_url: str) -> None:
    async with worker(redis_url=redis_url, max_bytes=200) as made:
        exchange, run = await made.begin()
        run.emit(BIG)
        await exchange.until(BIG)
        listener = asyncio.create_task(run.listen())
        done, _ = await asyncio.wait([listener], timeout=3)
        assert not done
        run.emit(BIG)
        run.finish()
        await exchange.ended()
        assert (exchange.body, exchange.complete) == (2 * BIG, True)
        await listener


async def test_somebody_elsewhere_follows(valkey: Valkey) -> None:
    async with worker(redis_url=valkey.url, max_bytes=200) as made, worker(redis_url=valkey.url) as other:
        exchange, run = await made.begin()
        run.emit(b"data: 1\n\n")
        await exchange.until(b"data: 1\n\n")
        follower = await other.resume().until(b"data: 1\n\n")
        exchange.disconnect()
        await exchange.ended()
        run.emit(BIG)
        await follower.until(b"data: 1\n\n" + BIG)
        listener = asyncio.create_task(run.listen())
        done, _ = await asyncio.wait([listener], timeout=3)
        assert not done
        follower.disconnect()
        await follower.ended()
        await wait_until(lambda: run.heard or run.emit(BIG), timeout=6, what="the app to hear")
        await listener
