"""Getting along with the package sse-starlette, which ends its responses by itself at shutdown."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from .stream.recording import is_recording


def let_sse_starlette_wait() -> None:
    """Recorded responses of sse-starlette end with the drain, not when uvicorn is told to end.

    Its own switch, `AppStatus.disable_automatic_graceful_drain`, is for the whole process: with it the
    endless streams that are not recorded would keep uvicorn from ever ending. Without what is looked for
    here, in some other version, such a run is cut as it would be without us, and sealed as an error.
    """
    response: Any = getattr(sys.modules.get("sse_starlette.sse"), "EventSourceResponse", None)
    members: dict[str, Any] = getattr(response, "__dict__", {})
    for name in ("_listen_for_exit_signal", "listen_for_exit_signal"):  # the latter before 2.2
        original: Any = getattr(members.get(name), "__func__", None)  # a static method's function
        if original is None or getattr(original, "waits_for_runs", False):
            continue

        async def listen(original: Any = original) -> None:
            await original()
            if is_recording():
                await asyncio.get_running_loop().create_future()

        vars(listen)["waits_for_runs"] = True
        setattr(response, name, staticmethod(listen))
