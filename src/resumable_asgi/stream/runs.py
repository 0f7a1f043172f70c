"""All runs of a process, and the signal that wakes those who wait for a run."""

from __future__ import annotations

import asyncio
from typing import Protocol

STOP_GRACE = 1.0
"""Seconds between telling an app that it is stopped and cancelling its task."""


class Interruptible(Protocol):
    def interrupt(self) -> None:
        """The worker shuts down: end, and seal the log interrupted. No-op for a run that has ended."""
        ...


class Signal:
    """Wakes everybody who waits for it."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def notify(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class Runs:
    """All runs of a process; it keeps them alive, and ends them at shutdown."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], Interruptible] = {}

    def add(self, run: Interruptible, task: asyncio.Task[None]) -> None:
        self._tasks[task] = run
        task.add_done_callback(self._tasks.pop)

    async def drain(self, timeout: float) -> None:
        """Give the runs `timeout` seconds to finish, then stop those left and seal them interrupted."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout)
        for run in list(self._tasks.values()):
            run.interrupt()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=STOP_GRACE + 0.5)
