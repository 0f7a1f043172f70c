"""The promises over other servers, and over several workers behind one port."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Fleet
from testkit import sse
from testkit.chat import Chat
from testkit.client import Cut, End
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

MakeChat = Callable[..., Chat]
SCRIPT = Script(message_id="m", split=9)


@pytest.fixture(scope="module")
def others(fleet: Fleet, valkey_server: Valkey) -> dict[str, Server]:
    env = {"REDIS_URL": valkey_server.url}
    started = {
        "hypercorn": fleet.start(kind="hypercorn", env=env, wait=False),
        "granian": fleet.start(kind="granian", env=env, wait=False),
        "uvicorn with two workers": fleet.start(env=env, workers=2, wait=False),
    }
    return {name: server.wait_ready() for name, server in started.items()}


@pytest.fixture(params=["hypercorn", "granian", "uvicorn with two workers"])
def server(request: pytest.FixtureRequest, others: dict[str, Server]) -> Server:
    return others[request.param]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_cut_stream_is_resumed_whole(server: Server, chat: Chat, how: Cut) -> None:
    """Several times, so that with two workers both are asked."""
    first = await chat.start(server, SCRIPT)
    await chat.emit(server, 20)
    await first.events(2)
    await first.cut(how)
    resumed = [await chat.resume(server) for _ in range(6)]
    for response in resumed:
        await response.events(2)
    await chat.finish(server)
    for response in resumed:
        assert (await response.rest(), response.end) == (SCRIPT.body, End.CLEAN)
    await chat.ended(server, "finished")
    await wait_until(lambda: background(chat, server), what="the background task")
    await chat.nothing_left(server)


async def background(chat: Chat, server: Server) -> bool:
    return (await chat.state(server))["background_ran"]


async def test_the_original_is_that_of_the_bare_app(server: Server, chat: Chat) -> None:
    first = await chat.start(server, SCRIPT)
    await chat.finish(server)
    assert (await first.rest(), first.end) == (SCRIPT.body, End.CLEAN)


async def test_a_stop_ends_followers_and_app(server: Server, chat: Chat) -> None:
    first = await chat.start(server, Script(message_id="m"))
    await chat.emit(server, 2)
    await first.events(2)
    resumed = await chat.resume(server)
    assert await chat.stop(server) == {"success": True, "stopped": True}
    for response in (first, resumed):
        assert sse.payloads(await response.rest(timeout=1))[-2:] == [{"type": "abort"}, "[DONE]"]
    await chat.ended(server, "cancelled", timeout=1.5)


async def test_a_failure_is_visible(server: Server, chat: Chat) -> None:
    script = Script(dialect="plain")
    first = await chat.start(server, script)
    await chat.emit(server, 2)
    await first.events(2)
    resumed = await chat.resume(server)
    await resumed.events(2)
    await chat.fail(server)
    for response in (first, resumed):
        await response.rest()
        assert response.end is End.BROKEN
        assert bytes(response.body) == b"".join(script.chunks()[:2])


async def test_nothing_is_found_of_the_unknown(server: Server, chat: Chat) -> None:
    response = await chat.resume(server)
    assert (response.status, await response.rest()) == (204, b"")
