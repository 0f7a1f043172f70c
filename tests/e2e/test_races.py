"""Several things at once: followers that come at any moment, two starts, slow readers, reused connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from conftest import Pair
from testkit.chat import Chat
from testkit.client import End, Response
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

BareBody = Callable[[Script], Awaitable[bytes]]
MakeChat = Callable[..., Chat]


@pytest.mark.parametrize("split", [0, 1, 11])
async def test_followers_that_come_at_any_moment_of_a_fast_stream_get_the_same(
    pair: Pair, chat: Chat, bare_body: BareBody, split: int
) -> None:
    """History and live tail are joined at another place for each of them."""
    script = Script(message_id="m", events=60, split=split, pace=0.001 if split != 1 else 0)
    first = await chat.start(pair.a, script)
    readers: list[asyncio.Task[Response]] = []

    async def follow(server: Server) -> Response:
        response = await chat.resume(server)
        if response.status == 200:
            await response.rest()
        return response

    while (await chat.state(pair.a))["ending"] is None and len(readers) < 60:
        readers += [asyncio.create_task(follow(server)) for server in (pair.b, pair.a)]
    await first.rest()
    followed = [response for response in await asyncio.gather(*readers) if response.status == 200]
    assert {bytes(response.body) for response in (first, *followed)} == {await bare_body(script)}
    assert {response.end for response in followed} <= {End.CLEAN}


async def test_two_starts_at_once_each_answer_their_own_client(pair: Pair, chat: Chat) -> None:
    """One of the two is the resumable one, whole and for every worker the same."""
    scripts = {pair.a: Script(message_id="m", text="one"), pair.b: Script(message_id="m", text="two")}
    first, second = await asyncio.gather(*(chat.start(server, script) for server, script in scripts.items()))
    found = [await chat.resume(server) for server in (pair.a, pair.b)]
    names = {response.header("resumable-stream-id") for response in found}
    assert len(names) == 1
    await chat.finish(pair.a)
    await chat.finish(pair.b)
    assert await first.rest() == scripts[pair.a].body
    assert await second.rest() == scripts[pair.b].body
    winner = scripts[pair.a] if names == {first.header("resumable-stream-id")} else scripts[pair.b]
    assert [await response.rest() for response in found] == [winner.body] * 2


async def test_a_slow_follower_slows_nobody_down(pair: Pair, elsewhere: Server, chat: Chat) -> None:
    script = Script(dialect="plain", events=4000, text="long " * 200)
    first = await chat.start(pair.a, script)
    slow = await chat.resume(elsewhere, receive_buffer=4096)
    fast = await chat.resume(elsewhere)
    await chat.finish(pair.a)
    assert await first.rest() == script.body
    assert await fast.rest() == script.body
    assert await slow.rest() == script.body


async def test_a_client_that_leaves_before_the_response_begins_finds_it_later(
    pair: Pair, elsewhere: Server, chat: Chat, bare_body: BareBody
) -> None:
    """A page that was loaded again at once, while the app still waited for its model."""
    script = Script(message_id="m", held_back=True)
    connection = await chat.connect(pair.a)
    leaving = asyncio.create_task(chat.start(pair.a, script, on=connection))
    await chat.started(pair.a)
    await connection.cut("reset")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await leaving
    assert (await chat.resume(elsewhere)).status == 204
    await chat.emit(pair.a, 1)

    async def found() -> Response | None:
        response = await chat.resume(elsewhere)
        return response if response.status == 200 else None

    resumed = await wait_until(found, what="the stream to be found")
    await chat.finish(pair.a)
    assert await resumed.rest() == await bare_body(script)


async def test_a_connection_is_used_again_after_a_stream(pair: Pair, chat: Chat) -> None:
    connection = await chat.connect(pair.a)
    script = Script(message_id="m", pace=0)
    for _ in range(3):
        response = await chat.start(pair.a, script, on=connection)
        assert (response.status, await response.rest()) == (200, script.body)
        assert await (await connection.request("GET", "/control/worker")).json()


async def test_connections_to_redis_do_not_grow_with_followers(
    pair: Pair, valkey_server: Valkey, chats: MakeChat
) -> None:
    def connections() -> int:
        with valkey_server.client() as client:
            return len(client.client_list())

    made = [chats() for _ in range(10)]
    for chat in made:
        await chat.start(pair.a)
        await chat.resume(pair.b)
    before = connections()
    for chat in made:
        for server in (pair.a, pair.b, pair.b, pair.b):
            await chat.resume(server)
    assert connections() == before
    for chat in made:
        await chat.finish(pair.a)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
async def test_a_last_event_id_of_the_apps_own_is_looked_up(
    pair: Pair, elsewhere: Server, chat: Chat, newline: str
) -> None:
    script = Script(dialect="plain", own_ids=True, newline=newline)  # type: ignore[arg-type]
    await chat.start(pair.a, script)
    await chat.emit(pair.a, 4)
    await (await chat.resume(elsewhere)).events(4)
    found = await chat.resume(elsewhere, headers={"last-event-id": "own-1"})
    unknown = await chat.resume(elsewhere, headers={"last-event-id": "own-17"})
    await chat.finish(pair.a)
    assert await found.rest() == b"".join(script.chunks()[2:])
    assert await unknown.rest() == script.body


async def test_the_id_of_another_chats_stream_opens_nothing(
    pair: Pair, elsewhere: Server, chats: MakeChat
) -> None:
    mine, other = chats(), chats()
    await mine.start(pair.a)
    secret = await other.start(pair.a)
    stolen = {"last-event-id": f"{secret.header('resumable-stream-id')}.0"}
    assert (await mine.resume(elsewhere, headers=stolen)).status == 204
