"""What belongs to the app of a run: whether its response is recorded, and the generators of its body.

A response class that is cancelled while its generator waits at a `yield` leaves it there, and what is left
often hangs in a reference cycle of its task group: its `finally` runs when the garbage collector comes by. So
the generators are noted when a response begins with them, and after a stop those left are closed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
import weakref
from collections.abc import AsyncGenerator
from contextvars import Context, ContextVar
from types import AsyncGeneratorType, GeneratorType
from typing import Any, TypeAlias, cast

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

logger = logging.getLogger(__name__)

_RESPONSES = frozenset(
    {"starlette.responses", "starlette.middleware.base", "sse_starlette.sse", "fastapi.routing"}
)
"""Modules that iterate a generator only as the body of one response, so that nobody else needs it."""

_CLEAN_UP = 30.0
"""Seconds that the clean-up of generators may take."""

_UNSET: Any = object()

_Body: TypeAlias = "AsyncGeneratorType[Any, Any] | GeneratorType[Any, Any, Any]"


class Recording:
    """In the context of an app's task and of those that it starts. Not the run itself, since the task is the
    run's: the two would be garbage that only the collector finds."""

    def __init__(self) -> None:
        self.active = False
        """Whether the response is recorded."""
        self._bodies: list[weakref.ref[_Body]] = []

    def note(self, body: AsyncGeneratorType[Any, Any]) -> None:
        self._bodies.append(weakref.ref(body))
        if body.ag_frame is not None and body.ag_code is iterate_in_threadpool.__code__:
            iterator: object = body.ag_frame.f_locals.get("iterator")
            if isinstance(iterator, GeneratorType):
                self._bodies.append(weakref.ref(cast("_Body", iterator)))

    async def close_bodies(self, stream_id: str) -> None:
        """Close the generators that the app has left as they were. For an app that has ended."""
        bodies, self._bodies = self._bodies, []
        for reference in bodies:
            try:
                async with asyncio.timeout(_CLEAN_UP):
                    await _close(reference())
            except Exception:
                logger.exception("stream %s: the app's generator could not be closed", stream_id)


async def _close(body: _Body | None) -> None:
    if isinstance(body, AsyncGeneratorType):
        if body.ag_frame is not None and not body.ag_running:
            await body.aclose()
    elif body is not None and body.gi_frame is not None and not body.gi_running:
        await run_in_threadpool(body.close)


current: ContextVar[Recording | None] = ContextVar("resumable_asgi.recording", default=None)


def is_recording() -> bool:
    """Whether the calling code belongs to an app whose response is being recorded."""
    recording = current.get()
    return recording is not None and recording.active


def adopt_values(context: Context) -> None:
    """Give the variables of the caller's context the values that an app gave them in its own."""
    for variable, value in context.items():
        if variable is not current and variable.get(_UNSET) is not value:
            variable.set(value)


def note_bodies() -> None:
    """From now on, while the running event loop runs, note the generators of responses.

    For each run: granian's loop ends after the lifespan's startup and runs again, which undoes it.
    """
    follows = sys.get_asyncgen_hooks().firstiter
    if getattr(follows, "notes_bodies", False):
        return

    def begins(generator: AsyncGenerator[Any, Any]) -> None:
        recording = current.get()
        if recording is not None and isinstance(generator, AsyncGeneratorType):
            iterating = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
            if iterating.f_globals.get("__name__") in _RESPONSES:
                recording.note(generator)
        if follows is not None:
            follows(generator)

    vars(begins)["notes_bodies"] = True
    sys.set_asyncgen_hooks(firstiter=begins)


def forget_frames(error: BaseException) -> None:
    """Let go of what the frames of an error hold that nobody will look at: as part of a cycle they would keep
    the app's generators until the garbage collector comes by."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            left += [each.__cause__, each.__context__]
            if isinstance(each, BaseExceptionGroup):
                left += each.exceptions  # pyright: ignore[reportUnknownMemberType]
