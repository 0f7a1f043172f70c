"""Stop stops: wherever it is asked, whatever the app waits for, and only what it names."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Pair
from testkit import sse
from testkit.chat import Chat
from testkit.client import End
from testkit.script import Script
from testkit.servers import Server
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

MakeChat = Callable[..., Chat]
STOPPED = {"success": True, "stopped": True}
NOTHING = {"success": True, "stopped": False}


@pytest.mark.parametrize("script", [Script(message_id="m"), Script(dialect="plain")], ids=["AI SDK", "plain"])
async def test_a_stop_reaches_an_app_that_waits_for_ever_and_ends_all_followers(
    pair: Pair, elsewhere: Server, chat: Chat, script: Script
) -> None:
    """The app is told within 1.5 s; those who read do not wait for that."""
    first = await chat.start(pair.a, script)
    await chat.emit(pair.a, 3)
    followers = [first, await chat.resume(pair.a), await chat.resume(pair.b)]
    for follower in followers:
        await follower.events(3)
    began = time.monotonic()
    assert await chat.stop(elsewhere) == STOPPED
    for follower in followers:
        body = await follower.rest(timeout=1)
        assert follower.end is End.CLEAN
        sent = b"".join(script.chunks()[:3])
        assert body.startswith(sent)
        if script.dialect == "ai":
            assert sse.payloads(body[len(sent) :]) == [{"type": "abort"}, "[DONE]"]
        else:
            assert body == sent
    state = await chat.ended(pair.a, "cancelled", timeout=began + 1.5 - time.monotonic())
    assert state["generated"] == 3
    await wait_until(lambda: wound_up(chat, pair.a), what="what follows the answer to have run")
    for server in (pair.a, pair.b):
        await chat.nothing_left(server)
        assert await chat.stop(server) == NOTHING


async def wound_up(chat: Chat, server: Server) -> bool:
    """Starlette does this for an app that was told of a disconnect, not for one that was just cancelled."""
    state = await chat.state(server)
    return state["background_ran"] and state["dependency_closed"]


async def test_a_stop_in_one_process_works_over_each_store(solo: Server, chat: Chat) -> None:
    first = await chat.start(solo, Script(message_id="m"))
    await chat.emit(solo, 2)
    await first.events(2)
    assert await chat.stop(solo, {}) == STOPPED
    assert sse.payloads(await first.rest(timeout=1))[-2:] == [{"type": "abort"}, "[DONE]"]
    await chat.ended(solo, "cancelled", timeout=1.5)
    await chat.nothing_left(solo)


async def test_a_stop_reaches_a_stream_whose_client_has_gone(
    pair: Pair, elsewhere: Server, chat: Chat
) -> None:
    first = await chat.start(pair.a)
    await chat.emit(pair.a, 2)
    await first.cut()
    assert await chat.stop(elsewhere) == STOPPED
    await chat.ended(pair.a, "cancelled", timeout=1.5)
    await chat.nothing_left(elsewhere)


async def test_delete_on_the_resume_path_stops_too(pair: Pair, elsewhere: Server, chat: Chat) -> None:
    first = await chat.start(pair.a)
    await chat.emit(pair.a, 2)
    response = await chat.resume(elsewhere, method="DELETE")
    assert (response.status, await response.json()) == (200, STOPPED)
    await first.rest(timeout=1)
    await chat.ended(pair.a, "cancelled", timeout=1.5)


async def test_a_stop_that_names_another_stream_stops_nothing(
    pair: Pair, elsewhere: Server, chat: Chat
) -> None:
    first = await chat.start(pair.a, Script(message_id="m"))
    await chat.emit(pair.a, 2)
    assert await chat.stop(elsewhere, {"activeStreamId": "another"}) == NOTHING
    await chat.finish(pair.a)
    assert await first.rest() == Script(message_id="m").body
    await chat.ended(pair.a, "finished")


@pytest.mark.parametrize("extra", [{}, {"assistantMessage": {"id": "m", "parts": []}}])
async def test_a_stop_that_names_the_running_stream_stops_it(
    pair: Pair, elsewhere: Server, chat: Chat, extra: dict[str, Any]
) -> None:
    first = await chat.start(pair.a)
    stream = first.header("resumable-stream-id")
    assert await chat.stop(elsewhere, {"activeStreamId": stream, **extra}) == STOPPED
    await chat.ended(pair.a, "cancelled", timeout=1.5)


async def test_a_stop_of_an_old_stream_leaves_the_new_one_alone(pair: Pair, chat: Chat) -> None:
    """The page that stops may not know yet that another one has sent a new message."""
    first = await chat.start(pair.a, Script(text="old"))
    second = await chat.start(pair.a, Script(text="new"))
    await chat.stop(pair.b, {"activeStreamId": first.header("resumable-stream-id")})
    await chat.finish(pair.a, run=1)
    assert sse.payloads(await second.rest())[-1] == "[DONE]"
    await chat.ended(pair.a, "finished", run=1)


async def test_another_owner_stops_nothing(pair: Pair, elsewhere: Server, chat: Chat) -> None:
    mine = {"authorization": "Bearer mine"}
    first = await chat.start(pair.a, headers=mine)
    for headers in ({"authorization": "Bearer other"}, {}):
        assert await chat.stop(elsewhere, headers=headers) == NOTHING
        response = await chat.resume(elsewhere, method="DELETE", headers=headers)
        assert await response.json() == NOTHING
    await chat.finish(pair.a)
    await first.rest()
    await chat.ended(pair.a, "finished")


async def test_there_is_nothing_to_stop_of_an_unknown_or_finished_chat(solo: Server, chat: Chat) -> None:
    assert await chat.stop(solo) == NOTHING
    first = await chat.start(solo, Script(pace=0))
    await first.rest()
    assert await chat.stop(solo) == NOTHING
    await chat.ended(solo, "finished")


async def test_a_finished_answer_that_is_still_owed_survives_a_late_stop(pair: Pair, chat: Chat) -> None:
    first = await chat.start(pair.a, Script(message_id="m"))
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    assert await chat.stop(pair.b) == NOTHING
    assert await (await chat.resume(pair.b)).rest() == Script(message_id="m").body


async def test_a_stop_with_a_body_that_is_no_json_object_is_still_answered(solo: Server, chat: Chat) -> None:
    """Whatever it does, it is no server error."""
    await chat.start(solo)
    for body in (b"{", b"[]", b"null", b"\xff"):
        response = await chat.request(solo, "POST", chat.stop_path, body=body)
        assert response.status in (200, 400)
        assert json.loads(await response.rest())


async def test_a_route_without_stop_leaves_its_paths_to_the_app(
    pair: Pair, bare: Server, chats: MakeChat
) -> None:
    chat = chats(path="/unstoppable/chat")
    first = await chat.start(pair.a, Script(message_id="m"))
    for method, path in (("POST", chat.stop_path), ("DELETE", chat.resume_path)):
        answer = await chat.request(pair.a, method, path)
        assert answer.status in (404, 405)
        assert answer.status == (await chat.request(bare, method, path)).status
    await chat.finish(pair.a)
    assert await first.rest() == Script(message_id="m").body
