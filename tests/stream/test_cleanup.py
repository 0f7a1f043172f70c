"""A stop, however it comes about, runs the clean-up of the app, without the garbage collector."""

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.sse import EventSourceResponse as FastAPIEvents
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from testkit.inprocess import Exchange, Worker, worker
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi.outcome import Outcome
from resumable_asgi.stream.run import Run

STOPS = 60
SOON = 1.5
"""Seconds from the stop to the end of the clean-up: the grace of a second, and some."""

Cleaned = list[str]
"""The keys of the streams whose clean-up ran to its end."""

Make = Callable[[Cleaned], ASGIApp]


async def paced(key: str, cleaned: Cleaned) -> AsyncIterator[str]:
    try:
        while True:
            yield "data: 1\n\n"
            await asyncio.sleep(0.01)
    finally:
        cleaned.append(key)


async def hurried(key: str, cleaned: Cleaned) -> AsyncIterator[str]:
    """Never waits for anything."""
    try:
        while True:
            yield "data: 1\n\n"
            time.sleep(0.0001)  # noqa: ASYNC251 - lest 60 of them fill the memory
    finally:
        cleaned.append(key)


async def awaiting(key: str, cleaned: Cleaned) -> AsyncIterator[str]:
    try:
        yield "data: 1\n\n"
        await asyncio.sleep(600)
    finally:
        cleaned.append(key)


async def nested(key: str, cleaned: Cleaned) -> AsyncIterator[str]:
    try:
        async for event in paced(key, []):
            yield event
    finally:
        cleaned.append(key)


def sync(key: str, cleaned: Cleaned) -> Iterator[str]:
    try:
        while True:
            yield "data: 1\n\n"
            time.sleep(0.01)
    finally:
        cleaned.append(key)


GENERATORS = (paced, hurried, awaiting, nested, sync)


def starlette(generator: Callable[..., Any], cleaned: Cleaned) -> ASGIApp:
    async def endpoint(request: Request) -> Response:
        key = (await request.json())["id"]
        return StreamingResponse(generator(key, cleaned), media_type="text/event-stream")

    return Starlette(routes=[Route("/api/chat", endpoint, methods=["POST"])])


def sse_starlette(generator: Callable[..., Any], cleaned: Cleaned) -> ASGIApp:
    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(generator((await request.json())["id"], cleaned))

    return Starlette(routes=[Route("/api/chat", endpoint, methods=["POST"])])


def fastapi_sse(generator: Callable[..., Any], cleaned: Cleaned) -> ASGIApp:
    app = FastAPI()

    if generator is sync:

        @app.post("/api/chat", response_class=FastAPIEvents)
        def events(body: dict[str, str]) -> Any:
            yield from sync(body["id"], cleaned)
    else:

        @app.post("/api/chat", response_class=FastAPIEvents)
        async def async_events(body: dict[str, str]) -> Any:
            try:
                async with contextlib.aclosing(generator(body["id"], [])) as chunks:
                    async for chunk in chunks:
                        yield chunk
            finally:
                cleaned.append(body["id"])

    return app


def dependency(generator: Callable[..., Any], cleaned: Cleaned) -> ASGIApp:
    """The clean-up of a `yield` dependency."""
    app = FastAPI()

    async def session(body: dict[str, str]) -> AsyncIterator[str]:
        try:
            yield body["id"]
        finally:
            await asyncio.sleep(0)
            cleaned.append(body["id"])

    @app.post("/api/chat")
    async def endpoint(key: Annotated[str, Depends(session)]) -> StreamingResponse:
        return StreamingResponse(generator(key, []), media_type="text/event-stream")

    return app


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def behind_middleware(generator: Callable[..., Any], cleaned: Cleaned) -> ASGIApp:
    return Passing(starlette(generator, cleaned))


def deaf(generator: Callable[..., Any], cleaned: Cleaned) -> ASGIApp:
    """Never listens for a disconnect."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        key = (await Request(scope, receive).json())["id"]
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in generator(key, cleaned):
            await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})

    return app


APPS = {
    "starlette": starlette,
    "sse_starlette": sse_starlette,
    "fastapi_sse": fastapi_sse,
    "dependency": dependency,
    "middleware": behind_middleware,
    "deaf": deaf,
}
CASES = [
    (app, generator) for app in APPS for generator in GENERATORS if not (app == "deaf" and generator is sync)
]


USUAL = [(app, paced) for app in ("starlette", "sse_starlette", "fastapi_sse", "dependency")]


@pytest.fixture(params=["memory", "redis"])
def redis_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    valkey: Valkey = request.getfixturevalue("valkey")
    return valkey.url


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("generator", [paced, awaiting, sync])
@pytest.mark.parametrize("app", ["starlette", "sse_starlette", "fastapi_sse", "dependency"])
@pytest.mark.parametrize("end", ["shutdown", "taken for dead"])
@pytest.mark.usefixtures("no_collector")
async def test_so_does_every_other_end_from_outside(
    app: str, generator: Callable[..., Any], end: str
) -> None:
    cleaned: Cleaned = []
    async with worker(APPS[app](generator, cleaned), redis_url="memory://") as made:
        await asyncio.gather(*[begun(made, key, "2.3") for key in "abcd"])
        if end == "shutdown":
            await made.shutdown()
        else:
            for run in running(made):
                assert run.log is not None
                run.log.seal(Outcome.LOST)
        await wait_until(lambda: len(cleaned) == 4, timeout=SOON, what="the clean-up of 4 streams")
    assert sorted(cleaned) == list("abcd")


def running(made: Worker) -> list[Run]:
    runtime = made.middleware._runtime
    assert runtime is not None
    return list(runtime.runs._tasks.values())


@pytest.mark.usefixtures("no_collector")
async def test_an_event_loop_that_ran_before_is_no_different() -> None:
    """Granian runs its loop for the lifespan, and once more for the requests."""
    before = sys.get_asyncgen_hooks()
    cleaned: Cleaned = []
    async with worker(starlette(sync, cleaned), redis_url="memory://") as made:
        sys.set_asyncgen_hooks(*before)
        await begun(made, "c", "2.3")
        assert await made.stop()
        await wait_until(lambda: cleaned == ["c"], timeout=SOON)


@pytest.mark.usefixtures("no_collector")
async def test_a_generator_that_others_go_on_reading_is_left_alone() -> None:
    """Begun by the handler, and read on by a task of the app's own."""
    cleaned: Cleaned = []
    read: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(events: AsyncIterator[str], queue: asyncio.Queue[str]) -> None:
        async for event in events:
            read.append(event)
            queue.put_nowait(event)

    async def drained(queue: asyncio.Queue[str]) -> AsyncIterator[str]:
        while True:
            yield await queue.get()

    async def endpoint(request: Request) -> Response:
        events = paced("c", cleaned)
        await anext(events)
        queue: asyncio.Queue[str] = asyncio.Queue()
        tasks.append(asyncio.create_task(pump(events, queue)))
        return StreamingResponse(drained(queue), media_type="text/event-stream")

    app = Starlette(routes=[Route("/api/chat", endpoint, methods=["POST"])])
    async with worker(app, redis_url="memory://") as made:
        await begun(made, "c", "2.3")
        assert await made.stop()
        await wait_until(lambda: not running(made))
        count = len(read)
        await wait_until(lambda: len(read) > count + 5)
        assert cleaned == []
        tasks[0].cancel()
        await asyncio.wait(tasks)


async def begun(made: Worker, key: str, version: str) -> Exchange:
    exchange = made.post(key, asgi={"version": "3.0", "spec_version": version})
    await exchange.changes.until(lambda: b"1" in exchange.body, "the first event")
    return exchange


@pytest.mark.parametrize("version", ["2.3", "2.4"])
@pytest.mark.parametrize(("app", "generator"), CASES, ids=lambda it: getattr(it, "__name__", it))
@pytest.mark.usefixtures("no_collector")
async def test_every_stop_runs_the_clean_up(
    app: str, generator: Callable[..., Any], version: str, redis_url: str
) -> None:
    cleaned: Cleaned = []
    count = STOPS if (app, generator) in USUAL else 4
    async with worker(APPS[app](generator, cleaned), redis_url=redis_url) as made:
        keys = [f"{number}" for number in range(count)]
        for part in range(0, count, 10):
            some = keys[part : part + 10]
            await asyncio.gather(*[begun(made, key, version) for key in some])
            assert all(await asyncio.gather(*[made.stop(key) for key in some]))
            await wait_until(
                lambda some=some: set(some) <= set(cleaned),
                timeout=SOON,
                what=f"the clean-up of {len(some)} streams; {len(cleaned)} in all ran",
            )
    assert sorted(cleaned) == sorted(keys)
