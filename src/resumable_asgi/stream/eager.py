"""Sending without switching to the task of the one who sends.

A task switch costs as much as sending a chunk, and nearly every send ends without having waited. So a send
is begun outside of the task, in its name, and only one that does wait, on a slow client, is left to it.
"""

from __future__ import annotations

import asyncio
import types

# documented for such use: https://docs.python.org/3/library/asyncio-extending.html
from asyncio.tasks import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any

_TOGETHER = 8
"""So many sends are done one after the other, which costs less than each right after its chunk was made;
more would let the first ones wait."""

_ENDED: Any = object()


class Deputy:
    """Acts for the task that makes it: what it calls sees that task as the current one, in a copy of its
    context."""

    __slots__ = ("_loop", "_task", "context")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = task.get_loop()
        self.context = copy_context()

    def step(self) -> None:
        """Do what there is to do; called within `context`, and in no task. Must not raise."""
        raise NotImplementedError

    def begin(self, call: Callable[[Any], Awaitable[None]], argument: Any) -> Awaitable[None] | None:
        """Within `step`: call, up to where it waits. Returns the rest of it, for the task to await, or None
        if it has ended. What is raised is raised by the rest."""
        _enter_task(self._loop, self._task)
        try:
            steps = call(argument).__await__()
            waits_for = next(steps, _ENDED)
        except BaseException as error:  # noqa: BLE001
            return _failure(error)
        finally:
            _leave_task(self._loop, self._task)
        return None if waits_for is _ENDED else _rest(steps, waits_for, self.context)


class Dispatcher:
    """Has deputies step: at the latest in the next turn of its event loop, before that if they are many."""

    __slots__ = ("_due", "_loop", "_scheduled")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[Deputy] = []
        self._scheduled = False

    def add(self, deputy: Deputy) -> None:
        due = self._due
        due.append(deputy)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        elif len(due) >= _TOGETHER:
            self._flush_now()

    def _flush_now(self) -> None:
        """As a callback of the loop would, from within whatever task runs."""
        current = asyncio.current_task(self._loop)
        if current is not None:
            _leave_task(self._loop, current)
        try:
            self._flush()
        finally:
            if current is not None:
                _enter_task(self._loop, current)

    def _turn(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        due, self._due = self._due, []
        for deputy in due:
            deputy.context.run(deputy.step)


@types.coroutine
def _failure(error: BaseException) -> Generator[Any, Any, None]:
    raise error
    yield


@types.coroutine
def _rest(steps: Generator[Any, Any, None], waits_for: Any, context: Context) -> Generator[Any, Any, None]:
    """Hands on what `steps` yields and what it is given for that, as `yield from` would from its start."""
    while True:
        try:
            answer = yield waits_for
        except BaseException as error:  # noqa: BLE001
            step = partial(steps.throw, error)
        else:
            step = partial(steps.send, answer)
        try:
            waits_for = context.run(step)
        except StopIteration:
            return
