"""The test's hand inside the app under test: what each run does next, and what became of it."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from .script import Script


class Run:
    """One answer being generated in this process."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.released = 0
        self.free = script.pace is not None
        self.failing = False
        self.generated = 0
        self.ending: str | None = None
        self.background_ran = False
        self.dependency_closed = False
        self.request_headers: dict[str, str] = {}
        self._changed = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer, as fast as the test lets it; however it is left, `ending` says so."""
        try:
            for index, chunk in enumerate(self.script.chunks()):
                await self._may_go_on(index)
                self.generated += 1
                yield chunk
            await self._may_go_on(None)
            self.ending = "finished"
        except RuntimeError:
            self.ending = "raised"
            raise
        finally:
            self.ending = self.ending or "cancelled"

    async def begin(self) -> None:
        """What the app does before its response begins."""
        if self.script.held_back:
            await self._may_go_on(0)

    async def _may_go_on(self, index: int | None) -> None:
        if self.script.pace:
            await asyncio.sleep(self.script.pace)
        while not (self.free or self.failing or (index is not None and index < self.released)):
            self._changed.clear()
            await self._changed.wait()
        if self.failing and (index is None or index >= self.released):
            raise RuntimeError("the app under test was told to raise")

    def emit(self, count: int) -> None:
        self.released += count
        self._changed.set()

    def finish(self) -> None:
        self.free = True
        self._changed.set()

    def fail(self) -> None:
        self.failing = True
        self._changed.set()

    def state(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "generated": self.generated,
            "ending": self.ending,
            "background_ran": self.background_ran,
            "dependency_closed": self.dependency_closed,
            "request_headers": self.request_headers,
        }


RUNS: defaultdict[str, list[Run]] = defaultdict(list)
"""By chat id, in the order they began; only those of this process."""

router = APIRouter(prefix="/control")


def _answer(chat: str) -> JSONResponse:
    return JSONResponse([run.state() for run in RUNS.get(chat, [])])


@router.get("/worker")
async def worker() -> dict[str, int]:
    """Which process this is."""
    return {"pid": os.getpid()}


@router.get("/state")
async def state(chat: str) -> JSONResponse:
    return _answer(chat)


@router.post("/emit")
async def emit(chat: str, count: int = 1, run: int = -1) -> JSONResponse:
    if RUNS.get(chat):
        RUNS[chat][run].emit(count)
    return _answer(chat)


@router.post("/finish")
async def finish(chat: str, run: int = -1) -> JSONResponse:
    if RUNS.get(chat):
        RUNS[chat][run].finish()
    return _answer(chat)


@router.post("/fail")
async def fail(chat: str, run: int = -1) -> JSONResponse:
    if RUNS.get(chat):
        RUNS[chat][run].fail()
    return _answer(chat)
