"""What the app's context knows of its run: the state, and the generators of the response's body.

A response class that is cancelled while its generator waits at a `yield` leaves the generator there, often in
a reference cycle of its task group, so that its `finally` runs only when the garbage collector finds it. We
therefore note each generator when a response starts to iterate it, and close those left after a stop.
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

from ..states import after
from .run_states import RUN_TABLE, RunEvent, RunState

logger: logging.Logger = logging.getLogger(__name__)

_RESPONSES = frozenset(
    {"starlette.responses", "starlette.middleware.base", "sse_starlette.sse", "fastapi.routing"}
)
"""Modules that iterate a generator only as the body of one response, so nobody else needs it."""

_CLEAN_UP = 30.0
"""Seconds that the clean-up of one generator may take."""

_UNSET: Any = object()

_Body: TypeAlias = "AsyncGeneratorType[Any, Any] | GeneratorType[Any, Any, Any]"


class Recording:
    """Stands in the context of the app's task and of the tasks that it starts. The run itself does not,
    because it refers to the task: only the garbage collector would free the two."""

    def __init__(self) -> None:
        self.state: RunState = RunState.UNDECIDED
        self._bodies: list[weakref.ref[_Body]] = []

    def change(self, event: RunEvent) -> None:
        """Raises `IllegalTransitionError`."""
        self.state = after(RUN_TABLE, self.state, event)

    def note(self, body: AsyncGeneratorType[Any, Any]) -> None:
        self._bodies.append(weakref.ref(body))
        if body.ag_frame is not None and body.ag_code is iterate_in_threadpool.__code__:
            iterator: object = body.ag_frame.f_locals.get("iterator")
            if isinstance(iterator, GeneratorType):
                self._bodies.append(weakref.ref(cast("_Body", iterator)))

    async def close_bodies(self, stream_id: str) -> None:
        """Close the generators that the app left open; called when the app has ended."""
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
    """Whether the calling code belongs to an app whose response is recorded."""
    recording = current.get()
    return recording is not None and recording.state not in (RunState.UNDECIDED, RunState.PASSED)


def adopt_values(context: Context) -> None:
    """Set the variables of the caller's context to the values that an app set in its own."""
    for variable, value in context.items():
        if variable is not current and variable.get(_UNSET) is not value:
            variable.set(value)


def note_bodies() -> None:
    """Note the generators of responses as long as the running event loop runs.

    Called for each run: granian runs its loop once for the lifespan's startup and again for the requests, and
    each end of the loop removes the hook.
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
    """Clear the frames of an error that nobody will look at. As part of a reference cycle they would keep the
    app's generators alive until the garbage collector runs."""
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
