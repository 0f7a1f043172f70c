"""The apps under test; the environment chooses (`HARNESS_APP`, `HARNESS_BARE`, `REDIS_URL`).

`chat` has every route below with the middleware outermost; `mounted` is the same app twice below an outer
one: at `/inner` and `/twin` with the middleware inside the mount, at `/outer` with it around all.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.routing import Mount

from . import control
from .control import RUNS, Run
from .script import Script

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

ROUTES: Mapping[str, Mapping[str, Any]] = {
    "/api/chat": {},
    "/keepalive/chat": {"keepalive": 0.2},
    "/short/chat": {"retention": 1},
    "/replay/chat": {"replay_finished": 60},
    "/cookie/chat": {"owner": "cookie:sid"},
    "/unstoppable/chat": {"stop": None},
    "/small/chat": {"max_bytes": 2000},
    "/raw/chat": {},
    "/events/{run_id}": {"methods": {"GET"}, "key": "path:run_id"},
}
"""What each recorded route is configured with; `/free/chat` is not configured at all."""

_CHATS = [path for path in ROUTES if path.endswith("/chat") and path != "/raw/chat"] + ["/free/chat"]


async def open_run(request: Request) -> AsyncIterator[Run]:
    """A `yield` dependency that sees the whole request and is closed after the answer."""
    if request.method == "POST":
        body = await request.json()
        chat, script = str(body["id"]), body.get("script", {})
    else:
        chat, script = request.path_params["run_id"], json.loads(request.query_params.get("script", "{}"))
    run = Run(Script.from_mapping(script))
    run.request_headers = dict(request.headers)
    RUNS[chat].append(run)
    try:
        yield run
    finally:
        run.dependency_closed = True


async def answer(run: Annotated[Run, Depends(open_run)], background: BackgroundTasks) -> Response:
    """Answer as the request's script says."""
    if run.script.kind == "bad":
        raise HTTPException(400, "the script says so")
    if run.script.kind == "json":
        return JSONResponse({"answer": "not a stream"})

    def after() -> None:
        run.background_ran = True

    background.add_task(after)
    await run.begin()
    response = StreamingResponse(run.chunks(), media_type="text/event-stream", headers=run.script.headers())
    response.set_cookie("visit", "1")
    return response


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """A plain ASGI app that returns without its final body."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: unfinished\n\n", "more_body": True})


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("echo " + await websocket.receive_text())
    await websocket.close()


def host_app() -> FastAPI:
    """The app without the middleware."""
    started: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        started.append("started")
        yield
        print("the app's own shutdown ran", flush=True)

    app = FastAPI(lifespan=lifespan)
    for path in _CHATS:
        app.post(path)(answer)
    app.get("/events/{run_id}")(answer)
    app.websocket("/api/chat")(echo)
    app.include_router(control.router)

    @app.get("/lifespan")
    async def lifespan_state() -> list[str]:
        return started

    app.mount("/raw", raw)
    return app


def wrap(app: FastAPI | Starlette, prefix: str = "") -> None:
    """The one line under test, and the settings of its routes."""
    from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings

    settings = Settings(
        redis_url=os.environ.get("REDIS_URL"),
        routes=[ResumableRoute(prefix + path, **options) for path, options in ROUTES.items()],
        lease=float(os.environ.get("HARNESS_LEASE", "10")),
        drain_timeout=float(os.environ.get("HARNESS_DRAIN", "2")),
        prefix=os.environ.get("HARNESS_PREFIX", "resumable"),
    )
    app.add_middleware(ResumableStreamMiddleware, settings=settings)


def create() -> ASGIApp:
    """The app that the environment asks for."""
    bare = "HARNESS_BARE" in os.environ
    if os.environ.get("HARNESS_APP", "chat") == "chat":
        app = host_app()
        if not bare:
            wrap(app)
        return app
    inner = host_app()
    if not bare:
        wrap(inner)
    mounts = [
        Mount("/inner", inner),
        Mount("/twin", inner),
        Mount("/outer", host_app()),
        Mount("/", host_app()),
    ]
    outer = Starlette(routes=mounts)
    if not bare:
        wrap(outer, "/outer")
    return outer


app = create()
