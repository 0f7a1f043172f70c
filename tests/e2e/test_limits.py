"""How long a stream is kept, and how much of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from conftest import Pair
from testkit.chat import Chat
from testkit.client import End
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

BareBody = Callable[[Script], Awaitable[bytes]]
MakeChat = Callable[..., Chat]


async def test_an_expired_stream_is_nothing_to_resume(pair: Pair, elsewhere: Server, chats: MakeChat) -> None:
    """Never delivered, and gone all the same: the route keeps it for one second."""
    chat = chats(path="/short/chat")
    first = await chat.start(pair.a)
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    assert (await chat.resume(elsewhere, method="HEAD")).status == 200
    await chat.nothing_left(elsewhere)


async def test_a_stream_that_outgrew_its_limit_cannot_be_resumed(
    pair: Pair, chats: MakeChat, bare_body: BareBody
) -> None:
    """From then on, while it still runs; until then it can."""
    chat = chats(path="/small/chat")
    script = Script(message_id="m", events=60)
    first = await chat.start(pair.a, script)
    await chat.emit(pair.a, 5)
    for server in (pair.a, pair.b):
        assert (await chat.resume(server, method="HEAD")).status == 200
    await chat.emit(pair.a, 50)
    await first.events(55)
    for server in (pair.a, pair.b):
        await chat.nothing_left(server)
    assert (await chat.state(pair.a))["ending"] is None
    await chat.finish(pair.a)
    assert (await first.rest(), first.end) == (await bare_body(script), End.CLEAN)


async def test_a_stream_that_outgrows_its_limit_goes_on_for_those_attached(
    pair: Pair, elsewhere: Server, chats: MakeChat
) -> None:
    chat = chats(path="/small/chat")
    script = Script(dialect="plain", events=200)
    first = await chat.start(pair.a, script)
    await chat.emit(pair.a, 5)
    follower = await chat.resume(elsewhere)
    await follower.events(5)
    await chat.finish(pair.a)
    assert (await first.rest(), first.end) == (script.body, End.CLEAN)
    assert (await follower.rest(), follower.end) == (script.body, End.CLEAN)
    await chat.nothing_left(pair.b)


async def test_a_finished_stream_is_kept_for_its_retention_and_no_longer(
    pair: Pair, valkey_server: Valkey, chat: Chat
) -> None:
    first = await chat.start(pair.a, Script())
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")

    log = next(key for key in valkey_server.all_keys() if key.endswith(first.header("resumable-stream-id")))
    pointer = log.partition(":log:")[0] + ":active"

    def settled() -> bool:
        with valkey_server.client() as client:
            return all(3500 <= client.ttl(key) <= 3600 for key in (log, pointer))

    await wait_until(settled, what="the pointer and the log to be kept for an hour")
