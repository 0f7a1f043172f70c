"""The same behaviour below a `root_path` and inside and outside a `Mount`, which passes no lifespan on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Fleet
from testkit.chat import Chat
from testkit.client import End
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

MakeChat = Callable[..., Chat]


@pytest.fixture(scope="module")
def below_root_path(fleet: Fleet, valkey_server: Valkey) -> Server:
    env = {"REDIS_URL": valkey_server.url, "HARNESS_PREFIX": "below"}
    return fleet.start(env=env, extra=["--root-path", "/behind/proxy"])


@pytest.fixture(scope="module")
def mounted(fleet: Fleet, valkey_server: Valkey) -> Server:
    env = {"REDIS_URL": valkey_server.url, "HARNESS_PREFIX": "mounted", "HARNESS_APP": "mounted"}
    return fleet.start(env=env)


@pytest.mark.parametrize(
    ("fixture", "prefix"), [("below_root_path", ""), ("mounted", "/inner"), ("mounted", "/outer")]
)
async def test_a_stream_is_resumed_and_stopped(
    request: pytest.FixtureRequest, chats: MakeChat, fixture: str, prefix: str
) -> None:
    server: Server = request.getfixturevalue(fixture)
    script = Script(message_id="m")
    chat = chats(path=prefix + "/api/chat")
    first = await chat.start(server, script)
    assert first.header("resumable-stream-id")
    await chat.emit(server, 2)
    await first.events(1)
    await first.cut()
    resumed = await chat.resume(server)
    await chat.finish(server)
    assert (await resumed.rest(), resumed.end) == (script.body, End.CLEAN)
    await chat.nothing_left(server)
    again = await chat.start(server, script)
    assert await chat.stop(server) == {"success": True, "stopped": True}
    await again.rest(timeout=1)
    await chat.ended(server, "cancelled", timeout=1.5)


async def test_a_mounted_app_does_not_answer_for_its_siblings(mounted: Server, chats: MakeChat) -> None:
    """`/api/chat` outside both mounts is not recorded."""
    chat = chats()
    first = await chat.start(mounted)
    assert first.header("resumable-stream-id") is None
    assert (await chat.resume(mounted)).status == 404


async def test_one_app_at_two_mounts_keeps_their_streams_apart(mounted: Server, chats: MakeChat) -> None:
    """The same user has the same chat id in both."""
    mine = {"authorization": "Bearer mine"}
    here = chats("shared", path="/inner/api/chat")
    there = chats("shared", path="/twin/api/chat")
    first = await here.start(mounted, headers=mine)
    await here.emit(mounted, 2)
    await first.events(2)
    assert (await there.resume(mounted, headers=mine)).status == 204
    assert (await there.stop(mounted, headers=mine))["stopped"] is False
    second = await there.start(mounted, headers=mine)
    found = [await chat.resume(mounted, method="HEAD", headers=mine) for chat in (here, there)]
    ids = [response.header("resumable-stream-id") for response in (first, second)]
    assert [response.header("resumable-stream-id") for response in found] == ids
    assert (await here.stop(mounted, headers=mine))["stopped"] is True
    assert (await there.stop(mounted, headers=mine))["stopped"] is True
