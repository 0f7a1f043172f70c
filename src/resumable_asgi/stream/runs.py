"""All runs of an event loop: what keeps them alive, and ends them at shutdown."""

from __future__ import annotations

import asyncio

from .run import STOP_GRACE, Run


class Runs:
    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], Run] = {}

    def add(self, run: Run, task: asyncio.Task[None]) -> None:
        self._tasks[task] = run
        task.add_done_callback(self._tasks.pop)

    async def drain(self, timeout: float) -> None:
        """Give the runs `timeout` seconds to finish, then stop the rest and seal their logs interrupted."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout)
        for run in list(self._tasks.values()):
            run.interrupt()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=STOP_GRACE + 0.5)
