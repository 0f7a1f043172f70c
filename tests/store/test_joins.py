"""The seam between the past and what is still to come, at every offset and in every window."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import Any

import pytest
import redis
from testkit import sse
from testkit.inprocess import Exchange, HostRun, Worker, worker
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi.store.redis.keys import FIND
from resumable_asgi.store.redis.store import RedisStore

EVENTS = [
    b"data: one\n\n",
    b"data: zwei\r\n\r\n",
    "data: 日本 🎉\r\ndata: naïve\r\n\r\n".encode(),
    b": a comment\n\n",
    "event: é\ndata: five\n\n".encode(),
    b"data: six\r\rdata: seven\r\r",
    b"data: the last has no end\n",
]
DATA = b"".join(EVENTS)
BOUNDARIES = [0, *accumulate(map(len, sse.split(DATA)[0]))]


def expected(offset: int) -> set[bytes]:
    """From the start of the event at `offset`; a lone LF of a CRLF may come first, which ends no event."""
    from_event = DATA[max(boundary for boundary in BOUNDARIES if boundary <= offset) :]
    split_line_end = DATA[offset - 1 : offset + 1] == b"\r\n"
    return {from_event, DATA[offset:]} if split_line_end else {from_event}


def write(run: HostRun, start: int, end: int, size: int) -> None:
    for at in range(start, end, size):
        run.emit(DATA[at : min(end, at + size)])


@pytest.fixture(params=["memory", "redis, same worker", "redis, other worker"])
def where(request: pytest.FixtureRequest) -> tuple[str, bool]:
    if request.param == "memory":
        return "memory://", False
    return request.getfixturevalue("valkey").url, "other" in request.param


Requests = Callable[[Worker], "list[Exchange]"]


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_a_resume_at_every_offset_gives_the_right_bytes(where: tuple[str, bool], size: int) -> None:
    """While the log is live, half of it written, and when it is sealed."""
    url, elsewhere = where
    options: dict[str, Any] = {"redis_url": url, "redis_timeout": 5}
    async with worker(**options) as own, worker(**options) as other:
        asked = other if elsewhere else own
        exchange, run = await own.begin()
        half = len(DATA) // 2
        write(run, 0, half, size)
        await exchange.until(DATA[:half])
        live = [asked.resume(offset=offset) for offset in range(len(DATA) + 1)]
        for follower in live:
            await follower.until_started()
        write(run, half, len(DATA), size)
        run.finish()
        assert (await exchange.ended()).body == DATA
        for offset, follower in enumerate(live):
            await follower.ended()
            assert follower.body in expected(offset), offset
            assert follower.complete
        for offset in range(len(DATA) + 1):
            position = (b"last-event-id", f"{exchange.stream_id}.{offset}".encode())
            sealed = await asked.resume(headers=[position]).ended()
            if offset == len(DATA):
                assert sealed.status == 204
            else:
                assert sealed.body in expected(offset), offset
                assert sealed.complete


WINDOWS = ["before the pointer", "after the pointer", "before the past", "after the past"]


def at_window(store: RedisStore, window: str, action: Callable[[], Awaitable[None]]) -> Callable[[], bool]:
    """Have `action` happen in one window of the next resume; returns whether it did."""
    original = store.reader.ask
    wanted = FIND.text if "pointer" in window else b"$6\r\nXRANGE"
    begun, done = [False], [False]

    async def ask(*commands: bytes) -> list[asyncio.Future[Any]]:
        hit = not begun[0] and any(wanted in command for command in commands)
        begun[0] = begun[0] or hit
        if hit and window.startswith("before"):
            await action()
        answers = await original(*commands)
        return [asyncio.create_task(act_after(answers[0])), *answers[1:]] if hit else answers

    async def act_after(answer: asyncio.Future[Any]) -> Any:
        reply = await answer
        if window.startswith("after"):
            await action()
        done[0] = True
        return reply

    store.reader.ask = ask  # type: ignore[method-assign]
    return lambda: done[0]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("action", ["append", "seal", "fail", "clear", "expiry", "replace", "overtake"])
async def test_whatever_happens_in_between_no_byte_is_lost_or_doubled(
    valkey: Valkey, window: str, action: str
) -> None:
    options: dict[str, Any] = {"redis_url": valkey.url, "redis_timeout": 5}
    async with worker(**options) as own, worker(**options) as other:
        exchange, run = await own.begin()
        run.emit(DATA[:20])
        await exchange.until(DATA[:20])
        client = redis.Redis(port=valkey.port)
        key = next(each for each in client.scan_iter() if b":log:" in each)
        pointer = next(each for each in client.scan_iter() if each.endswith(b":active"))
        await wait_until(lambda: client.xrevrange(key, count=1)[0][0] == b"20-0")
        at = [20]

        def append(count: int) -> None:
            write(run, at[0], at[0] + count, 3)
            at[0] += count

        async def happen() -> None:
            if action in ("append", "overtake"):
                append(21)
                await wait_until(lambda: client.xrevrange(key, count=1)[0][0] == b"%d-0" % at[0])
                if action == "overtake":  # and is published later, too
                    client.publish(key, b"%d:%b" % (30, DATA[20:30]))
                    client.publish(key, b"%d:%b" % (at[0], DATA[20 : at[0]]))
            elif action == "seal":
                exchange.disconnect()
                append(len(DATA) - at[0])
                run.finish()
                await wait_until(lambda: client.xrevrange(key, count=1)[0][1].get(b"outcome") == b"done")
            elif action == "fail":
                exchange.disconnect()
                run.fail(LookupError())
                await wait_until(lambda: client.xrevrange(key, count=1)[0][1].get(b"outcome") == b"error")
            elif action == "clear":
                client.delete(pointer)
            elif action == "expiry":
                client.delete(pointer, key)
            else:
                await own.begin()

        store = other.store
        assert isinstance(store, RedisStore)
        await store.start()
        happened = at_window(store, window, happen)
        resumed = await other.resume().until_started()
        await wait_until(happened)
        if resumed.status == 204:
            assert window == "before the pointer"
            assert action in ("clear", "expiry")
        elif resumed.stream_id != exchange.stream_id:
            assert (window, action) == ("before the pointer", "replace")
        elif action == "fail":
            await resumed.ended()
            assert (resumed.body, resumed.complete) == (DATA[:20], False)
        else:
            if action != "seal":
                append(len(DATA) - at[0])
                run.finish()
            await resumed.ended()
            assert resumed.body == DATA
            assert resumed.complete
        client.close()
