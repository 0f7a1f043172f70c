"""Where in a log a resume begins: `?offset=` and `Last-Event-ID`, over logs that are the app's own bytes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from conftest import Pair
from testkit.chat import Chat
from testkit.client import End, Response
from testkit.script import Script
from testkit.servers import Server
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

MakeChat = Callable[..., Chat]
SCRIPT = Script(dialect="plain", newline="\r\n")
CHUNKS = SCRIPT.chunks()
TWO = len(CHUNKS[0] + CHUNKS[1])
FOUR = len(b"".join(CHUNKS[:4]))


@pytest.fixture(params=["query", "header"])
def by(request: pytest.FixtureRequest) -> str:
    return request.param


async def resume_at(
    chat: Chat, server: Server, by: str, first: Response, offset: int, *, method: str = "GET"
) -> Response:
    if by == "query":
        return await chat.resume(server, method=method, query={"offset": offset})
    stream = first.header("resumable-stream-id")
    return await chat.resume(server, method=method, headers={"last-event-id": f"{stream}.{offset}"})


@pytest.mark.parametrize(
    ("offset", "begin"),
    [(0, 0), (TWO, TWO), (TWO + 1, TWO), (TWO - 1, len(CHUNKS[0])), (5, 0), (TWO + 40, TWO)],
    ids=["zero", "between events", "just inside", "in the blank line", "in the first", "in a character"],
)
async def test_a_position_begins_at_its_event(
    pair: Pair, elsewhere: Server, chat: Chat, by: str, offset: int, begin: int
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 4)
    await first.events(4)
    resumed = await resume_at(chat, elsewhere, by, first, offset)
    assert resumed.status == 200
    await chat.finish(pair.a)
    assert await resumed.rest() == SCRIPT.body[begin:]
    assert resumed.end is End.CLEAN


@pytest.mark.parametrize(
    "position", [{"query": {"offset": -1}}, {"query": {"offset": ""}}, {"headers": {"last-event-id": "-1"}}]
)
async def test_minus_one_and_empty_mean_from_the_start(
    solo: Server, chat: Chat, position: dict[str, dict[str, str]]
) -> None:
    first = await chat.start(solo, SCRIPT)
    await chat.emit(solo, 4)
    await first.events(4)
    resumed = await chat.resume(solo, query=position.get("query"), headers=position.get("headers"))
    assert await resumed.events(4) == CHUNKS[:4]


async def test_a_position_at_the_tail_of_a_live_log_gets_only_what_comes(
    pair: Pair, elsewhere: Server, chat: Chat, by: str
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 4)
    await first.events(4)
    resumed = await resume_at(chat, elsewhere, by, first, FOUR)
    assert (resumed.status, resumed.body) == (200, b"")
    await chat.emit(pair.a, 1)
    assert await resumed.events(1) == CHUNKS[4:5]
    await chat.finish(pair.a)
    assert await resumed.rest() == SCRIPT.body[FOUR:]


async def test_a_position_ahead_of_a_live_log_waits_for_it(
    pair: Pair, elsewhere: Server, chat: Chat, by: str
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await chat.emit(pair.a, 2)
    await first.events(2)
    resumed = await resume_at(chat, elsewhere, by, first, FOUR)
    assert resumed.status == 200
    await chat.emit(pair.a, 1)
    await first.events(3)
    await chat.emit(pair.a, 2)
    assert await resumed.events(1) == CHUNKS[4:5]
    await chat.finish(pair.a)
    assert await resumed.rest() == SCRIPT.body[FOUR:]


async def test_a_position_into_a_sealed_log_is_served(
    pair: Pair, elsewhere: Server, chat: Chat, by: str
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    resumed = await resume_at(chat, elsewhere, by, first, TWO)
    assert (resumed.status, await resumed.rest()) == (200, SCRIPT.body[TWO:])


async def test_there_is_nothing_left_at_the_very_end_of_a_sealed_log(
    pair: Pair, elsewhere: Server, chat: Chat, by: str
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await first.cut()
    await chat.finish(pair.a)

    async def gone() -> bool:
        end = len(SCRIPT.body)
        return (await resume_at(chat, elsewhere, by, first, end, method="HEAD")).status == 204

    await wait_until(gone, what="the log to be sealed")
    assert (await chat.resume(elsewhere, method="HEAD")).status == 200


async def test_a_position_beyond_the_end_of_a_sealed_log_is_refused(
    pair: Pair, elsewhere: Server, chat: Chat, by: str
) -> None:
    first = await chat.start(pair.a, SCRIPT)
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    beyond = len(SCRIPT.body) + 1

    async def sealed() -> bool:
        """Until then a resume would wait for more; HEAD does not."""
        return (await resume_at(chat, elsewhere, by, first, beyond, method="HEAD")).status == 400

    await wait_until(sealed, what="the log to be sealed")
    await refused(await resume_at(chat, elsewhere, by, first, beyond))
    assert (await chat.resume(elsewhere, method="HEAD")).status == 200, "the refusal took no delivery"


@pytest.mark.parametrize("offset", ["abc", "-2", "1.5", "1e3", "٣", "1" * 30, "+1", " 1"])
async def test_a_malformed_offset_is_refused(solo: Server, chat: Chat, offset: str) -> None:
    await chat.start(solo, SCRIPT)
    await refused(await chat.resume(solo, query={"offset": offset}))


async def refused(response: Response) -> None:
    assert response.status == 400
    assert response.header("content-type") == "application/json"
    answer = await response.json()
    assert isinstance(answer, dict)
    assert re.search("offset|position|end", str(answer)), "it says which"
