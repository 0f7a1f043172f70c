"""The app under test, served by uvicorn in each worker. It keeps a journal of all it sends.

Environment: `FAULTS_DIR` for the journals, `FAULTS_INCARNATION` names this process, `FAULTS_SETTINGS` (JSON)
goes into `Settings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings

from .journal import JournalWriter
from .plan import Plan

DIRECTORY = Path(os.environ["FAULTS_DIR"])
INCARNATION = os.environ["FAULTS_INCARNATION"]
_TICK = 0.05
_STALL = 0.25
"""Seconds by which the event loop may be late before the machine is to blame for what follows."""


class Answer(StreamingResponse):
    """A stream whose journal is ended when the response is, also if its generator is left where it stands."""

    def __init__(self, plan: Plan, journal: JournalWriter) -> None:
        super().__init__(produce(plan, journal), media_type="text/event-stream", headers=plan.headers())
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._journal.end("left")


async def chat(request: Request) -> Answer:
    plan = Plan.from_mapping(await request.json())
    return Answer(plan, JournalWriter(DIRECTORY / "journals", plan.run, INCARNATION))


async def produce(plan: Plan, journal: JournalWriter) -> AsyncIterator[bytes]:
    try:
        for delay, chunk in plan.steps():
            await asyncio.sleep(delay)
            journal.chunk(chunk)
            yield chunk
    except BaseException as error:
        journal.end(type(error).__name__)
        raise
    if plan.ending == "raise":
        journal.end("raised")
        raise RuntimeError("the plan says so")
    journal.end("finished")


async def health(request: Request) -> JSONResponse:
    """What is open in this process: files and tasks."""
    tasks = sorted(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    return JSONResponse({"files": len(os.listdir("/dev/fd")), "tasks": tasks, "incarnation": INCARNATION})


async def watch_stalls() -> None:
    """Note when this process did not get to run: a starved machine is no fault of the middleware's."""
    with (DIRECTORY / "stalls" / INCARNATION).open("a", buffering=1) as file:
        before = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            if now - before > _STALL:
                file.write(f"{before} {now}\n")
            before = now


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    watcher = asyncio.create_task(watch_stalls())
    yield
    watcher.cancel()


def create() -> Starlette:
    routes = [Route("/api/chat", chat, methods=["POST"]), Route("/health", health)]
    app = Starlette(routes=routes, lifespan=lifespan)
    settings = json.loads(os.environ["FAULTS_SETTINGS"])
    route = ResumableRoute("/api/chat", owner="public", **settings.pop("route"))
    app.add_middleware(ResumableStreamMiddleware, settings=Settings(routes=[route], **settings))
    return app


app = create()
