"""A wake-up for several waiting tasks."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits for it. It remembers nothing: look first, then wait."""

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
