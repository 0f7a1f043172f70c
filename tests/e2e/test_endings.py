"""How a stream ends that did not end well, what runs after its client has gone, and how it is kept alive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from conftest import Pair
from testkit import sse
from testkit.chat import Chat
from testkit.client import Cut, End, Response
from testkit.script import Script
from testkit.servers import Server
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

BareBody = Callable[[Script], Awaitable[bytes]]
MakeChat = Callable[..., Chat]
dialects = pytest.mark.parametrize(
    "script", [Script(message_id="m"), Script(dialect="plain")], ids=["AI SDK", "plain"]
)


async def check_failed(response: Response, script: Script, chunks: int) -> None:
    """What there is, then a failure that a client of the dialect can see."""
    sent = b"".join(script.chunks()[:chunks])
    body = await response.rest()
    assert body.startswith(sent)
    if script.dialect == "plain":
        assert (body, response.end) == (sent, End.BROKEN)
        return
    error, done = sse.payloads(body[len(sent) :])
    assert error["type"] == "error"
    assert isinstance(error["errorText"], str)
    assert "told to raise" not in error["errorText"], "the app's exception is nobody's business"
    assert (done, response.end) == ("[DONE]", End.CLEAN)


@dialects
async def test_an_app_that_raises_breaks_the_original_and_fails_every_follower_visibly(
    pair: Pair, bare: Server, chats: MakeChat, script: Script
) -> None:
    """Those attached, and those that come later, any number of times."""
    plain, chat = chats(), chats()
    answers: list[Response] = []
    for target, server in ((plain, bare), (chat, pair.a)):
        answers.append(await target.start(server, script))
        await target.emit(server, 3)
        await answers[-1].events(3)
    followers = [await chat.resume(pair.a), await chat.resume(pair.b)]
    for follower in followers:
        await follower.events(3)
    await plain.fail(bare)
    await chat.fail(pair.a)
    expected, original = [(await answer.rest(), answer.end) for answer in answers]
    assert original == expected
    assert original == (b"".join(script.chunks()[:3]), End.BROKEN)
    for follower in followers:
        await check_failed(follower, script, 3)
    await chat.ended(pair.a, "raised")
    for server in (pair.b, pair.a, pair.b):
        await check_failed(await chat.resume(server), script, 3)


@dialects
async def test_a_failure_after_the_client_has_gone_is_found_by_a_resume(
    solo: Server, chat: Chat, script: Script
) -> None:
    first = await chat.start(solo, script)
    await chat.emit(solo, 3)
    await first.cut()
    await chat.fail(solo)
    await chat.ended(solo, "raised")
    for _ in range(2):
        await check_failed(await chat.resume(solo), script, 3)


async def test_a_failure_is_replaced_by_the_next_message(pair: Pair, chat: Chat) -> None:
    first = await chat.start(pair.a)
    await chat.fail(pair.a)
    await first.rest()
    second = await chat.start(pair.b, Script(message_id="m", pace=0))
    assert await second.rest() == Script(message_id="m").body
    await chat.nothing_left(pair.a)


async def test_an_app_that_forgets_its_final_body_has_failed(
    pair: Pair, bare: Server, elsewhere: Server, chats: MakeChat
) -> None:
    chat = chats(path="/raw/chat")
    original = await chat.start(pair.a)
    unwrapped = await chats(path="/raw/chat").start(bare)
    for response in (original, unwrapped):
        assert (await response.rest(), response.end) == (b"data: unfinished\n\n", End.BROKEN)
    resumed = await chat.resume(elsewhere)
    assert (await resumed.rest(), resumed.end) == (b"data: unfinished\n\n", End.BROKEN)


@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_background_tasks_and_dependencies_run_after_the_client_has_gone(
    solo: Server, chat: Chat, how: Cut
) -> None:
    first = await chat.start(solo)
    await chat.emit(solo, 2)
    await first.events(1)
    await first.cut(how)
    await chat.emit(solo, 1)
    state = await chat.state(solo)
    assert (state["ending"], state["dependency_closed"]) == (None, False)
    await chat.finish(solo)
    await chat.ended(solo, "finished")

    async def all_done() -> bool:
        state = await chat.state(solo)
        return state["background_ran"] and state["dependency_closed"]

    await wait_until(all_done, what="the background task and the dependency's end")


async def test_keepalives_come_between_events_and_never_inside_one(
    pair: Pair, elsewhere: Server, chats: MakeChat, bare_body: BareBody
) -> None:
    """Held once between two events and once inside of one, each for several periods of 0.2 s."""
    chat = chats(path="/keepalive/chat")
    script = Script(dialect="plain", split=9)
    inside = 3
    sent = b"".join(script.chunks()[:inside])
    first = await chat.start(pair.a, script)
    resumed = await chat.resume(elsewhere)
    for response in (first, resumed):
        await response.comment(2, timeout=3)
    await chat.emit(pair.a, inside)
    for response in (first, resumed):
        await response.until(lambda: response.body.endswith(sent), "part of the first event")  # noqa: B023
        await response.silence(0.5)
    await chat.finish(pair.a)
    for response in (first, resumed):
        assert sse.without_comments(await response.rest()) == await bare_body(script)
        assert response.end is End.CLEAN


async def test_keepalives_are_not_recorded(pair: Pair, elsewhere: Server, chats: MakeChat) -> None:
    chat = chats(path="/keepalive/chat")
    script = Script(message_id="m")
    first = await chat.start(pair.a, script)
    await chat.emit(pair.a, 1)
    await first.comment(2, timeout=3)
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    assert await (await chat.resume(elsewhere)).rest() == script.body
