from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar, Token
from typing import Any

import pytest
from starlette.types import Message

from resumable_asgi.stream.eager import EagerSender, outside_tasks

var: ContextVar[str] = ContextVar("var")


class Waiting:
    """A task that has a sender and awaits the rest of what others begin."""

    def __init__(self) -> None:
        self.sender: asyncio.Future[EagerSender] = asyncio.get_running_loop().create_future()
        self.call: Callable[[Any], Awaitable[None]] | None = None
        self.rest: asyncio.Future[Awaitable[None]] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        var.set("of the task")
        self.sender.set_result(EagerSender(self._send))
        await (await self.rest)

    async def begin(self, call: Callable[[Any], Awaitable[None]]) -> Awaitable[None] | None:
        """From the task of the test."""
        self.call = call
        sender = await self.sender
        me = asyncio.current_task()
        begun: list[Awaitable[None] | None] = []
        outside_tasks(lambda: begun.append(sender.begin({"type": "x"})))
        assert asyncio.current_task() is me
        return begun[0]

    async def _send(self, message: Message) -> None:
        assert self.call is not None
        await self.call(message["type"])


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


async def test_a_callback_of_the_loop_can_begin_too(waiting: Waiting) -> None:
    seen: list[object] = []
    sender = await waiting.sender

    async def call(argument: str) -> None:
        seen.append(asyncio.current_task())

    waiting.call = call
    done = asyncio.get_running_loop().create_future()

    def callback() -> None:
        seen.append(sender.begin({"type": "x"}))
        done.set_result(asyncio.current_task())

    asyncio.get_running_loop().call_soon(callback)
    assert await done is None
    assert seen == [waiting.task, None]
