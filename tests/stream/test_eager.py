from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar, Token
from typing import Any

import pytest

from resumable_asgi.stream.eager import Deputy, Dispatcher

var: ContextVar[str] = ContextVar("var")


class Waiting:
    """A task that has a deputy and awaits what it left."""

    def __init__(self) -> None:
        self.deputy: asyncio.Future[Deputy] = asyncio.get_running_loop().create_future()
        self.rest: asyncio.Future[Awaitable[None]] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        var.set("of the task")
        self.deputy.set_result(Deputy())
        await (await self.rest)

    async def begin(self, call: Callable[[Any], Awaitable[None]]) -> Awaitable[None] | None:
        """As from a callback of the loop, where there is no current task."""
        begun: asyncio.Future[Awaitable[None] | None] = asyncio.get_running_loop().create_future()
        deputy = await self.deputy
        step = deputy.context.run
        asyncio.get_running_loop().call_soon(lambda: begun.set_result(step(deputy.begin, call, "x")))
        return await begun


@pytest.fixture
async def waiting() -> AsyncIterator[Waiting]:
    made = Waiting()
    yield made
    made.task.cancel()
    await asyncio.wait([made.task])


async def test_what_does_not_wait_ends_at_once_as_the_task(
    waiting: Waiting,
) -> None:
    seen: list[object] = []

    async def send(argument: str) -> None:
        seen.extend((argument, asyncio.current_task(), var.get()))

    assert await waiting.begin(send) is None
    assert seen == ["x", waiting.task, "of the task"]
    assert asyncio.current_task() is not waiting.task


async def test_what_waits_goes_on_in_the_task_and_in_one_context(waiting: Waiting) -> None:
    opened = asyncio.Event()
    seen: list[object] = []

    async def send(argument: str) -> None:
        token: Token[str] = var.set("of the send")
        for _ in range(2):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):  # bound to the current task
            await opened.wait()
        seen.extend((asyncio.current_task(), var.get()))
        var.reset(token)  # raises in another context

    rest = await waiting.begin(send)
    assert rest is not None
    waiting.rest.set_result(rest)
    opened.set()
    await asyncio.wait_for(waiting.task, 5)
    assert seen == [waiting.task, "of the send"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_is_raised_is_raised_in_the_task(waiting: Waiting, at_once: bool) -> None:
    async def send(argument: str) -> None:
        if not at_once:
            await asyncio.sleep(0)
        raise OSError("gone")

    rest = await waiting.begin(send)
    assert rest is not None
    waiting.rest.set_result(rest)
    with pytest.raises(OSError, match="gone"):
        await asyncio.wait_for(waiting.task, 5)


async def test_cancelling_the_task_reaches_what_waits(waiting: Waiting) -> None:
    ended: list[str] = []

    async def send(argument: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    rest = await waiting.begin(send)
    assert rest is not None
    waiting.rest.set_result(rest)
    await asyncio.sleep(0)
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting.task, 5)
    assert ended == ["cancelled"]


async def test_many_at_once_do_not_wait_for_the_next_turn_and_the_last_ones_are_not_forgotten() -> None:
    stepped: list[int] = []
    current: list[object] = []

    class Numbered(Deputy):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def step(self) -> None:
            stepped.append(self.number)
            current.append(asyncio.current_task())

    dispatcher = Dispatcher()
    me = asyncio.current_task()
    for number in range(10):
        dispatcher.add(Numbered(number))
    assert stepped == list(range(8))
    assert asyncio.current_task() is me
    await asyncio.sleep(0)
    assert stepped == list(range(10))
    assert not any(current), "a step in the name of whoever made the chunk"
