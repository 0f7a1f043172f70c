"""Keeps the package sse-starlette from ending recorded responses at shutdown."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from .stream.recording import is_recording


def let_sse_starlette_wait() -> None:
    """Let recorded responses of sse-starlette end with the drain, not when uvicorn is told to end.

    The package's own switch, `AppStatus.disable_automatic_graceful_drain`, applies to the whole process:
    endless streams that are not recorded would then keep uvicorn from ending. If a version of the package
    has none of the names below, it cuts recorded responses as all others, and they are sealed as errors.
    """
    response: Any = getattr(sys.modules.get("sse_starlette.sse"), "EventSourceResponse", None)
    members: dict[str, Any] = getattr(response, "__dict__", {})
    for name in ("_listen_for_exit_signal", "listen_for_exit_signal"):  # the latter before version 2.2
        original: Any = getattr(members.get(name), "__func__", None)  # a static method's function
        if original is None or getattr(original, "waits_for_runs", False):
            continue

        async def listen(original: Any = original) -> None:
            await original()
            if is_recording():
                await asyncio.get_running_loop().create_future()

        vars(listen)["waits_for_runs"] = True
        setattr(response, name, staticmethod(listen))
