"""What is measured without a server: calls of the app with a `send` that does nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import uvloop
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings

_CALLS = 100


def _scope(method: str, path: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"bench"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def memory_replay(size: int, count: int) -> float:
    """Bytes of body a second that resumes of a finished log of `size` bytes hand to `send`."""
    piece = b"data: " + b"x" * 92 + b"\n\n"

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        headers: Any = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(size // len(piece)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    route = ResumableRoute("/chat/{id}", key="path:id", owner="public", replay_finished=3600)
    app = ResumableStreamMiddleware(stream, settings=Settings(redis_url="memory://", routes=[route]))

    async def measure() -> float:
        got = 0

        async def send(message: Message) -> None:
            nonlocal got
            got += len(message.get("body", b""))

        await app(_scope("POST", "/chat/1"), _receive_forever(), send)
        got = 0
        began = time.perf_counter()
        for _ in range(count):
            await app(_scope("GET", "/chat/1/stream"), _receive_forever(), send)
        taken = time.perf_counter() - began
        if got != count * size:
            raise RuntimeError(f"{got} bytes replayed in place of {count * size}")
        return got / taken

    return uvloop.run(measure())


def _receive_forever() -> Receive:
    """One empty request body, then nothing, as from a client that stays."""
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.get_running_loop().create_future()
        asked = True
        return await _receive()

    return receive


class _Nothing:
    """A middleware that does nothing: what it takes to be there at all."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def _plain(request: object) -> JSONResponse:
    return JSONResponse({"ok": True})


def _app(*middleware: tuple[Any, dict[str, Any]]) -> Starlette:
    app = Starlette(routes=[Route("/plain", _plain)])
    for kind, options in middleware:
        app.add_middleware(kind, **options)
    return app


def pass_through(rounds: int) -> tuple[float, dict[str, float]]:
    """Microseconds of CPU of a request without middleware, and for each middleware the ratio to that.

    Each round takes the bare app and one with the middleware in turn, so that both meet the same machine.
    """
    settings = Settings(redis_url="memory://", routes=[ResumableRoute("/chat/{id}", key="path:id")])
    ours = ResumableStreamMiddleware
    bare = _app()
    others: dict[str, Starlette] = {
        "an unconfigured route": _app((ours, {"settings": settings})),
        "no REDIS_URL": _app((ours, {"settings": Settings()})),
        "a middleware that does nothing": _app((_Nothing, {})),
    }

    async def measure() -> tuple[float, dict[str, float]]:
        for app in (bare, *others.values()):
            await _calls(app)
        gc.collect()
        gc.disable()
        try:
            costs: list[float] = []
            ratios: dict[str, float] = {}
            for name, app in others.items():
                found: list[float] = []
                for number in range(rounds):
                    first, second = (bare, app) if number % 2 else (app, bare)
                    taken = {id(each): await _calls(each) for each in (first, second)}
                    costs.append(taken[id(bare)])
                    found.append(taken[id(app)] / taken[id(bare)])
                ratios[name] = median(found)
        finally:
            gc.enable()
        return median(costs), ratios

    return uvloop.run(measure())


async def _calls(app: Callable[..., Any]) -> float:
    """Microseconds of CPU per call."""

    async def send(message: Message) -> None:
        return

    scopes = [_scope("GET", "/plain") for _ in range(_CALLS)]
    began = time.thread_time_ns()
    for scope in scopes:
        await app(scope, _receive, send)
    return (time.thread_time_ns() - began) / 1000 / _CALLS
