"""Waiting for something to become true, bounded; no test sleeps for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.01


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], *, timeout: float = 5, what: str | None = None
) -> T:
    """Poll until the condition is truthy and return its value; fail with the last one seen otherwise."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        seen: T = await value if inspect.isawaitable(value) else value  # type: ignore[assignment]
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {timeout} s: {what or inspect.getsource(condition)}; last: {seen!r}"
            )
        await asyncio.sleep(INTERVAL)


def wait_until_sync(condition: Callable[[], T], *, timeout: float = 10, what: str) -> T:
    """The same for fixtures that are not coroutines."""
    deadline = time.monotonic() + timeout
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}; last: {seen!r}")
        time.sleep(INTERVAL)
    return seen
