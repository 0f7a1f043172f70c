"""An app whose answers are larger than what the sockets on the way to a client hold.

`POST /api/chat` answers with `SIZE` bytes at once; `GET /state` tells how many calls are open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings

SIZE = 24 * 1024 * 1024
STALL_TIMEOUT = 1.5
_EVENT = b"data: " + b"x" * 16_376 + b"\n\n"


class Counting:
    """How many calls for streams are open."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/state":
            await self.app(scope, receive, send)
            return
        self.open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= 1


async def chat(request: Request) -> StreamingResponse:
    async def events() -> AsyncIterator[bytes]:
        for _ in range(SIZE // len(_EVENT)):
            yield _EVENT

    await request.body()
    return StreamingResponse(events(), media_type="text/event-stream")


async def state(request: Request) -> JSONResponse:
    return JSONResponse({"open": app.open})


_settings = Settings(
    redis_url="memory://", routes=[ResumableRoute(stall_timeout=STALL_TIMEOUT, max_bytes=2 * SIZE)]
)
app = Counting(
    ResumableStreamMiddleware(
        Starlette(routes=[Route("/api/chat", chat, methods=["POST"]), Route("/state", state)]),
        settings=_settings,
    )
)
