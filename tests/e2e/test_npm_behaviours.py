"""The behaviours that the tests of the npm package `resumable-stream` ask for, restated over HTTP.

There a second call with the same id reads along; here that is a resume, asked of the other worker too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from conftest import Pair
from testkit.chat import Chat
from testkit.client import End
from testkit.script import Script
from testkit.servers import Server

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

MakeChat = Callable[..., Chat]
SCRIPT = Script(dialect="plain", events=3, text="line")
ONE, TWO, THREE = SCRIPT.chunks()


async def test_acts_like_a_normal_stream(pair: Pair, chat: Chat) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.finish(pair.a)
    assert (await first.rest(), first.end) == (SCRIPT.body, End.CLEAN)


@pytest.mark.parametrize("original_first", [True, False], ids=["original first", "resume first"])
async def test_two_readers_in_either_order_get_everything(
    pair: Pair, elsewhere: Server, chat: Chat, original_first: bool
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    second = await chat.resume(elsewhere)
    await chat.finish(pair.a)
    for response in (first, second) if original_first else (second, first):
        assert (await response.rest(), response.end) == (SCRIPT.body, End.CLEAN)


async def test_resumes_a_stream_in_progress(pair: Pair, elsewhere: Server, chat: Chat) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 1)
    second = await chat.resume(elsewhere)
    await chat.finish(pair.a)
    assert await first.rest() == await second.rest() == SCRIPT.body


async def test_says_whether_there_is_a_stream(pair: Pair, elsewhere: Server, chat: Chat) -> None:
    """Unknown, then running, then done: HEAD tells without reading."""
    assert (await chat.resume(elsewhere, method="HEAD")).status == 204
    first = await chat.start(pair.a, SCRIPT)
    assert (await chat.resume(elsewhere, method="HEAD")).status == 200
    await chat.finish(pair.a)
    await first.rest()
    await chat.nothing_left(elsewhere)


async def test_both_readers_get_the_first_event_before_the_second_exists(
    pair: Pair, elsewhere: Server, chat: Chat
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 1)
    second = await chat.resume(elsewhere)
    for response in (first, second):
        assert await response.events(1) == [ONE]
    assert (await chat.state(pair.a))["generated"] == 1
    await chat.finish(pair.a)
    assert await first.rest() == await second.rest() == SCRIPT.body


async def test_streams_to_the_original_while_the_resume_is_not_read(
    pair: Pair, elsewhere: Server, chat: Chat
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 1)
    second = await chat.resume(elsewhere)
    assert await first.events(1) == [ONE]
    await chat.finish(pair.a)
    assert await first.rest() == SCRIPT.body
    assert await second.rest() == SCRIPT.body


async def test_streams_to_the_resume_while_the_original_is_not_read(
    pair: Pair, elsewhere: Server, chat: Chat
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 1)
    second = await chat.resume(elsewhere)
    assert await second.events(1) == [ONE]
    await chat.finish(pair.a)
    assert await second.rest() == SCRIPT.body
    assert await first.rest() == SCRIPT.body


async def test_an_original_that_is_never_read_does_not_stall_the_run(
    pair: Pair, elsewhere: Server, chat: Chat
) -> None:
    """Larger than every buffer between the app and the client that does not read."""
    script = Script(dialect="plain", events=4000, text="long " * 200, pace=0)
    first = await chat.start(pair.a, script, receive_buffer=4096)
    await chat.ended(pair.a, "finished")
    second = await chat.resume(elsewhere)
    assert await second.rest() == script.body
    assert await first.rest() == script.body


async def test_many_readers_that_come_at_different_times_get_the_same(pair: Pair, chat: Chat) -> None:
    readers = [await chat.start(pair.a, SCRIPT)]
    for _ in SCRIPT.chunks():
        readers += [await chat.resume(pair.a), await chat.resume(pair.b)]
        await chat.emit(pair.a, 1)
    readers += [await chat.resume(pair.a), await chat.resume(pair.b)]
    await chat.finish(pair.a)
    assert set(await asyncio.gather(*(reader.rest() for reader in readers))) == {SCRIPT.body}


async def test_differentiates_between_streams(pair: Pair, elsewhere: Server, chats: MakeChat) -> None:
    one, two = chats(), chats()
    other = Script(dialect="plain", events=1, text="other")
    originals = [await one.start(pair.a, SCRIPT), await two.start(pair.a, other)]
    resumed = [await one.resume(elsewhere), await two.resume(elsewhere)]
    await one.finish(pair.a)
    await two.finish(pair.a)
    for responses in (originals, resumed):
        assert [await response.rest() for response in responses] == [SCRIPT.body, other.body]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(len(ONE), TWO + THREE), (len(ONE + TWO), THREE), (0, ONE + TWO + THREE)],
    ids=["part", "at the tail", "zero"],
)
async def test_respects_an_offset(
    pair: Pair, elsewhere: Server, chat: Chat, offset: int, expected: bytes
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 2)
    await first.events(2)
    second = await chat.resume(elsewhere, query={"offset": offset})
    await chat.finish(pair.a)
    assert await first.rest() == SCRIPT.body
    assert (await second.rest(), second.end) == (expected, End.CLEAN)


async def test_an_offset_at_the_very_end_gets_the_end_and_nothing_else(
    pair: Pair, elsewhere: Server, chat: Chat
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 3)
    await first.events(3)
    second = await chat.resume(elsewhere, query={"offset": len(SCRIPT.body)})
    assert second.status == 200
    await chat.finish(pair.a)
    assert (await second.rest(), second.end) == (b"", End.CLEAN)


async def test_there_is_nothing_once_the_stream_is_done(pair: Pair, elsewhere: Server, chat: Chat) -> None:
    """And the app is not called to find that out."""
    first = await chat.start(pair.a, SCRIPT)
    await chat.finish(pair.a)
    assert await first.rest() == SCRIPT.body
    await chat.nothing_left(elsewhere)
    assert len(await chat.states(pair.a)) == 1
