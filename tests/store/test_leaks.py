"""A thousand streams later the process is as it was."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

from starlette.types import Receive, Scope, Send
from testkit.inprocess import Worker, worker
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi.store.redis.store import RedisStore

EVENTS = [b"data: %d\n\n" % n for n in range(4)]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in EVENTS:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def stream(own: Worker, other: Worker, number: int) -> None:
    """One stream: read to its end, cut, or followed from elsewhere."""
    exchange = own.post(f"c{number}")
    if number % 3 == 0:
        await exchange.until_started()
        exchange.disconnect()
    if number % 3 != 1:
        await exchange.until_started()
        resumed = await other.resume(f"c{number}").ended()
        assert resumed.body in (b"".join(EVENTS), b"")
    await exchange.ended()
    if number % 3 != 0:
        assert exchange.body == b"".join(EVENTS)


async def streams(own: Worker, other: Worker, numbers: range) -> None:
    for first in range(numbers.start, numbers.stop, 20):
        await asyncio.gather(*(stream(own, other, number) for number in range(first, first + 20)))
        own.exchanges.clear()
        other.exchanges.clear()


async def nothing_is_left(made: Worker) -> None:
    store = made.store
    assert isinstance(store, RedisStore)
    await wait_until(
        lambda: (
            not (
                store.writer.copies
                or store.writer._newest
                or store.writer._due
                or store.tailer._tails
                or made.middleware._current_runtime().runs._tasks
            )
        ),
        what="records, tails and runs to be gone",
    )


async def test_a_thousand_streams_leave_nothing_behind(valkey: Valkey) -> None:
    options: dict[str, Any] = {"redis_url": valkey.url, "redis_timeout": 2}
    with valkey.client() as client:
        clients = client.info("clients")["connected_clients"]
        async with (
            worker(app, lifespan=False, **options) as own,
            worker(app, lifespan=False, **options) as other,
        ):
            own.middleware._has_lifespan = other.middleware._has_lifespan = True  # calls do not wait
            await streams(own, other, range(200))
            for made in (own, other):
                await nothing_is_left(made)
            tasks = len(asyncio.all_tasks())
            gc.collect()
            tracemalloc.start()
            try:
                await streams(own, other, range(200, 400))
                for made in (own, other):
                    await nothing_is_left(made)
                gc.collect()
                before = tracemalloc.get_traced_memory()[0]
                await streams(own, other, range(400, 1200))
                for made in (own, other):
                    await nothing_is_left(made)

                def flat() -> bool:  # timers of `redis_timeout` still hold the newest logs for a moment
                    gc.collect()
                    return tracemalloc.get_traced_memory()[0] - before < 300_000

                await wait_until(flat, what="the memory of 800 streams to be let go of")
            finally:
                tracemalloc.stop()
            assert len(asyncio.all_tasks()) <= max(tasks, 1 + 2 * 3)  # ours, and one a connection
            assert client.info("clients")["connected_clients"] <= clients + 6
        await wait_until(lambda: client.info("clients")["connected_clients"] <= clients)
