"""The AI SDK's own client against two workers: what a user sees after a reload or a lost network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Pair
from requirements import need_node
from testkit.aisdk import install, page
from testkit.chat import Chat
from testkit.script import Script
from testkit.servers import Server

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

VERSIONS = ("v5", "v6", "v7")
MODES = [(version, mode) for version in VERSIONS for mode in ("reload", "transport")] + [("v7", "same")]
SCRIPT = Script(events=12)
"""Without a message id, as some servers answer: the middleware has to add one."""


@pytest.fixture(scope="session")
def node() -> str:
    return need_node()


@pytest.fixture
def sdk(node: str, version: str) -> Path:
    return install(version)


def options(pair: Pair, chat: Chat, resuming: Server, **more: object) -> dict[str, object]:
    return {
        "api": pair.a.base + chat.path,
        "resumeOrigin": resuming.base,
        "chatId": chat.id,
        "body": {"script": SCRIPT.to_mapping()},
        "cutAfter": 5,
        **more,
    }


@pytest.mark.parametrize(("version", "mode"), MODES)
async def test_a_page_that_lost_its_stream_gets_the_whole_answer_once(
    pair: Pair, chats: Callable[..., Chat], node: str, sdk: Path, mode: str
) -> None:
    """Lost in the middle of an event, and lost again while it resumes; the app goes on all the time."""
    chat = chats("a chat/1 " + Chat().id)
    wanted = options(pair, chat, pair.b, mode=mode, cutInside=17, recutAfter=8)
    async with page(node, sdk, **wanted) as client:
        await chat.started(pair.a)
        await chat.emit(pair.a, 7)
        await client.cut()
        await chat.emit(pair.a, 3)
        client.reconnect()
        await client.cut()
        await chat.finish(pair.a)
        client.reconnect()
        report = await client.report()
    assert report["texts"] == [SCRIPT.full_text], report
    assert report["partial"]
    assert report["partial"] != SCRIPT.full_text
    assert (report["error"], report["status"]) == (None, None if mode == "transport" else "ready")
    assert report["afterwards"] == "nothing"
    assert [request["status"] for request in report["requests"]] == [200, 200, 200, 204]
    assert (await chat.state(pair.a))["ending"] == "finished"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_page_that_comes_after_the_end_gets_the_whole_answer(
    pair: Pair, elsewhere: Server, chat: Chat, node: str, sdk: Path
) -> None:
    async with page(node, sdk, **options(pair, chat, elsewhere)) as client:
        await chat.started(pair.a)
        await chat.emit(pair.a, 7)
        await client.cut()
        await chat.finish(pair.a)
        await chat.ended(pair.a, "finished")
        client.reconnect()
        report = await client.report()
    assert (report["texts"], report["status"]) == ([SCRIPT.full_text], "ready")
    assert report["afterwards"] == "nothing"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", ["stopped", "failed"])
async def test_a_page_can_tell_a_stopped_answer_from_a_failed_one(
    pair: Pair, chat: Chat, node: str, sdk: Path, how: str
) -> None:
    async with page(node, sdk, **options(pair, chat, pair.b)) as client:
        await chat.started(pair.a)
        await chat.emit(pair.a, 7)
        await client.cut()
        client.reconnect()
        await client.receiving()
        if how == "stopped":
            assert (await chat.stop(pair.b))["stopped"]
        else:
            await chat.fail(pair.a)
        report = await client.report()
    assert len(report["texts"]) == 1
    assert SCRIPT.full_text.startswith(report["texts"][0])
    if how == "stopped":
        assert (report["status"], report["error"]) == ("ready", None)
        assert report["afterwards"] == "nothing"
    else:
        assert report["status"] == "error"
        assert report["error"]
