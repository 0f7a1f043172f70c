"""Sending without a switch to the sender's task.

A task switch costs as much as sending a chunk, and almost every `send` ends without waiting. So whoever has a
chunk begins the `send` itself, in the name of the follower's task. Only a `send` that waits, because its
client is slow, is left to that task.
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

from starlette.types import Message, Send

_ENDED: Any = object()


class EagerSender:
    """Begins `send` for the task that makes this object: `send` sees that task as the current one, and a copy
    of its context."""

    __slots__ = ("_context", "_loop", "_send", "_task")

    def __init__(self, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._send = send
        self._task = task
        self._loop = task.get_loop()
        self._context = copy_context()

    def begin(self, message: Message) -> Awaitable[None] | None:
        """Call `send(message)`, up to where it waits. No task may be the current one, see `outside_tasks`.

        Returns None if the call has ended, otherwise the rest of it, which the task that made this object has
        to await. An exception of `send` is raised by the rest.
        """
        _enter_task(self._loop, self._task)
        try:
            return self._context.run(self._first_step, message)
        finally:
            _leave_task(self._loop, self._task)

    def _first_step(self, message: Message) -> Awaitable[None] | None:
        try:
            steps = self._send(message).__await__()
            waits_for = next(steps, _ENDED)
        except BaseException as error:  # noqa: BLE001
            return _failure(error)
        return None if waits_for is _ENDED else _rest(steps, waits_for, self._context)


def outside_tasks(call: Callable[[], None]) -> None:
    """Call as a callback of the event loop would, from within whatever task is the current one."""
    loop = asyncio.get_running_loop()
    current = asyncio.current_task(loop)
    if current is None:
        call()
        return
    _leave_task(loop, current)
    try:
        call()
    finally:
        _enter_task(loop, current)


@types.coroutine
def _failure(error: BaseException) -> Generator[Any, Any, None]:
    raise error
    yield


@types.coroutine
def _rest(steps: Generator[Any, Any, None], waits_for: Any, context: Context) -> Generator[Any, Any, None]:
    """Goes on with `steps` as `yield from` would have done from the start, in `context`."""
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
