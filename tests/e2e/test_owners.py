"""A stream belongs to who started it, and nobody learns from Redis who that is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Pair
from testkit.chat import Chat
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

MakeChat = Callable[..., Chat]


async def test_another_owners_stream_is_nothing_to_resume(pair: Pair, elsewhere: Server, chat: Chat) -> None:
    """Answered exactly as absence, and the owner still finds it."""
    mine, other = {"authorization": "Bearer mine"}, {"authorization": "Bearer other"}
    await chat.start(pair.a, headers=mine)
    await chat.emit(pair.a, 2)
    for headers in (other, {}):
        refused = await chat.resume(elsewhere, headers=headers)
        unknown = await Chat().resume(elsewhere, headers=headers)
        assert (refused.status, await refused.rest()) == (204, b"")
        assert {name for name, _ in refused.headers} == {name for name, _ in unknown.headers}
        await unknown.connection.close()
    resumed = await chat.resume(elsewhere, headers=mine)
    assert resumed.status == 200
    await resumed.events(2)


async def test_another_owners_start_replaces_nothing(pair: Pair, chat: Chat) -> None:
    mine, other = {"authorization": "Bearer mine"}, {"authorization": "Bearer other"}
    first = await chat.start(pair.a, headers=mine)
    second = await chat.start(pair.b, headers=other)
    found = [await chat.resume(pair.b, method="HEAD", headers=headers) for headers in (mine, other)]
    assert [response.header("resumable-stream-id") for response in found] == [
        first.header("resumable-stream-id"),
        second.header("resumable-stream-id"),
    ]


async def test_a_stream_belongs_to_the_cookie_that_started_it(
    pair: Pair, elsewhere: Server, chats: MakeChat
) -> None:
    chat = chats(path="/cookie/chat")
    await chat.start(pair.a, headers={"cookie": "theme=dark; sid=alice"})
    for cookie in ({}, {"cookie": "sid=bob"}, {"cookie": "theme=alice"}):
        assert (await chat.resume(elsewhere, headers=cookie)).status == 204
    assert (await chat.resume(elsewhere, headers={"cookie": "sid=alice; theme=light"})).status == 200


async def test_a_start_without_the_owners_mark_is_not_recorded(pair: Pair, chats: MakeChat) -> None:
    chat = chats(path="/cookie/chat")
    first = await chat.start(pair.a)
    assert first.header("resumable-stream-id") is None
    assert (await chat.resume(pair.a)).status == 204
    await chat.finish(pair.a)
    assert await first.rest() == Script().body


async def test_no_secret_is_stored(pair: Pair, valkey: Valkey, chat: Chat) -> None:
    """Neither the token nor the chat's key opens anything to one who reads Redis: digests do."""
    first = await chat.start(pair.a, headers={"authorization": "Bearer sesame-token"})
    await chat.emit(pair.a, 1)
    await first.events(1)
    stored: list[str] = []
    with valkey.client() as client:
        for key in valkey.all_keys():
            value = client.xrange(key) if client.type(key) == "stream" else client.get(key)
            stored.append(f"{key} {value}")
    assert stored
    assert not [entry for entry in stored if "sesame-token" in entry]
    assert first.header("set-cookie") is not None, "its own client is given it"
    assert not [entry for entry in stored if "visit=" in entry]
