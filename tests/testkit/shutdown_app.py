"""An app whose runs write a journal on the side, so that a test knows what was sent when its process ended.

A request's JSON body says which run it starts: `{"id", "events", "dialect", "sse_starlette"}`. Each run sends
`HELD` events, waits until the test has made the file `release`, and goes on to its last event, if it has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HELD = 3
PACE = 0.03
JOURNAL = Path(os.environ.get("HARNESS_JOURNAL", "."))

_running: set[str] = set()


def event(chat: str, index: int) -> bytes:
    """What a run sends as its event `index`; also what a test computes."""
    return b'data: {"type":"data-n","data":"%b %d"}\n\n' % (chat.encode(), index)


class Journal:
    """What one run has got rid of: a line for each event, written when `send` had taken it."""

    def __init__(self, chat: str) -> None:
        self._file = (JOURNAL / chat).open("ab", buffering=0)
        self._chat = chat

    def __enter__(self) -> Journal:
        _running.add(self._chat)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        _running.discard(self._chat)
        self._file.write(b"" if kind is None else b"left by %b\n" % kind.__name__.encode())
        self._file.close()

    def sent(self, index: int) -> None:
        self._file.write(b"%d\n" % index)


async def released() -> None:
    while not (JOURNAL / "release").exists():  # noqa: ASYNC110 - the test is another process
        await asyncio.sleep(PACE)


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """The plain ASGI way."""
    asked: dict[str, Any] = await Request(scope, receive).json()
    if asked.get("sse_starlette"):
        await EventSourceResponse(events(asked), sep="\n")(scope, receive, send)
        return
    headers = [(b"content-type", b"text/event-stream")]
    if asked.get("dialect") == "ai":
        headers.append((b"x-vercel-ai-ui-message-stream", b"v1"))
    with Journal(asked["id"]) as journal:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for index, data in paced(asked):
            await send({"type": "http.response.body", "body": data, "more_body": True})
            journal.sent(index)
        await send({"type": "http.response.body", "body": b""})


async def events(asked: dict[str, Any]) -> AsyncIterator[str]:
    """The same for a response class that makes the events itself."""
    with Journal(asked["id"]) as journal:
        async for index, data in paced(asked):
            yield data.decode().removeprefix("data: ").rstrip("\n")
            journal.sent(index)


async def paced(asked: dict[str, Any]) -> AsyncIterator[tuple[int, bytes]]:
    for index in range(asked.get("events") or 1_000_000):
        if index == HELD:
            await released()
        elif index:
            await asyncio.sleep(PACE)
        yield index, event(asked["id"], index)


async def worker(request: Request) -> JSONResponse:
    return JSONResponse({"pid": os.getpid()})


class Endpoint:
    """What Starlette's router takes for an ASGI app, and not for a function of a request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await stream(scope, receive, send)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    (JOURNAL / f"app-shutdown-{os.getpid()}").write_text(json.dumps(sorted(_running)))


def create() -> ASGIApp:
    routes = [Route(path, Endpoint(), methods=["POST"]) for path in ("/api/chat", "/free")]
    inner: ASGIApp = Starlette(routes=[*routes, Route("/control/worker", worker)], lifespan=lifespan)
    if "HARNESS_NO_LIFESPAN" in os.environ:
        inner = without_lifespan(inner)
    settings = Settings(
        redis_url=os.environ["REDIS_URL"],
        routes=[ResumableRoute("/api/chat")],
        lease=float(os.environ.get("HARNESS_LEASE", "10")),
        drain_timeout=float(os.environ.get("HARNESS_DRAIN", "2")),
    )
    return ResumableStreamMiddleware(inner, settings=settings)


def without_lifespan(app: ASGIApp) -> ASGIApp:
    """As Django does it."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise ValueError("only HTTP is understood here")
        await app(scope, receive, send)

    return refuse


app = create()
