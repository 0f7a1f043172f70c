"""A stream that was cut goes on: two processes that share only Valkey, real sockets really closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from conftest import Pair
from testkit import sse
from testkit.chat import Chat
from testkit.client import Cut, End
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

BareBody = Callable[[Script], Awaitable[bytes]]
MakeChat = Callable[..., Chat]

SCRIPTS = {
    "AI SDK": Script(),
    "AI SDK with a message id": Script(message_id="message-1"),
    "AI SDK in pieces": Script(message_id="message-1", split=5),
    "plain": Script(dialect="plain"),
    "plain in pieces with CRLF": Script(dialect="plain", split=7, newline="\r\n"),
}
IDS = ["a/b", "with space", "日本語-🎉", "100%", "%2F", "a?b#c", "a+b&c=d", '"quoted"', "..", "x" * 512]
scripts = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())


def same(got: bytes, expected: bytes, script: Script) -> bool:
    """Byte-equal; only where the app gave its AI SDK message no id may there be one."""
    added = script.dialect == "ai" and script.message_id is None
    return (sse.without_message_id(got) if added else got) == expected


@scripts
@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_a_stream_cut_after_some_events_is_resumed_whole(
    pair: Pair, elsewhere: Server, chat: Chat, bare_body: BareBody, script: Script, how: Cut
) -> None:
    """Before the cut, between cut and resume, and after the resume: each time the app goes on."""
    first = await chat.start(pair.a, script)
    chunks = len(script.chunks())
    await chat.emit(pair.a, chunks // 3)
    await first.events(2)
    await first.cut(how)
    await chat.emit(pair.a, chunks // 3)
    resumed = await chat.resume(elsewhere)
    assert resumed.status == 200
    seen = await resumed.events(3)
    assert same(b"".join(seen), b"".join(sse.split(await bare_body(script))[0][:3]), script)
    await chat.finish(pair.a)
    assert same(await resumed.rest(), await bare_body(script), script)
    assert resumed.end is End.CLEAN
    await chat.ended(pair.a, "finished")
    await chat.nothing_left(elsewhere)


async def test_the_original_answer_is_that_of_the_bare_app(
    solo: Server, chats: MakeChat, bare_body: BareBody
) -> None:
    for script in SCRIPTS.values():
        chat = chats()
        response = await chat.start(solo, script)
        await chat.finish(solo)
        assert same(await response.rest(), await bare_body(script), script)
        assert response.end is End.CLEAN


async def test_an_ai_sdk_message_without_an_id_is_given_the_id_of_its_stream(pair: Pair, chat: Chat) -> None:
    """Every follower gets the same one: without it a replay duplicates the text."""
    first = await chat.start(pair.a)
    await chat.emit(pair.a, 1)
    resumed = await chat.resume(pair.b)
    for response in (first, resumed):
        (start,) = sse.payloads(b"".join(await response.events(1)))
        assert start == {"type": "start", "messageId": first.header("resumable-stream-id")}


@pytest.mark.parametrize(
    "script", [Script(dialect="plain", newline="\r\n"), Script(message_id="m")], ids=["plain", "AI SDK"]
)
async def test_a_cut_inside_an_event_and_inside_a_character_loses_nothing(
    pair: Pair, elsewhere: Server, chats: MakeChat, bare_body: BareBody, script: Script
) -> None:
    body = await bare_body(script)
    inside_character = body.index("🎉".encode()) + 2
    inside_event = body.index(b"word-1") + 3
    for position in (inside_character, inside_event, 1):
        chat = chats()
        first = await chat.start(pair.a, script)
        await chat.emit(pair.a, len(script.chunks()))
        assert await first.exactly(position) == body[:position]
        await first.cut("reset")
        resumed = await chat.resume(elsewhere)
        await chat.finish(pair.a)
        assert await resumed.rest() == body
        assert resumed.end is End.CLEAN


@pytest.mark.parametrize("followers", [2, 20])
async def test_simultaneous_followers_on_both_workers_get_the_same(
    pair: Pair, chat: Chat, bare_body: BareBody, followers: int
) -> None:
    script = Script(message_id="m", events=20)
    first = await chat.start(pair.a, script)
    await chat.emit(pair.a, 2)
    targets = [(pair.a, pair.b)[i % 2] for i in range(followers)]
    resumed = await asyncio.gather(*(chat.resume(target) for target in targets))
    await chat.emit(pair.a, 5)
    await asyncio.gather(*(response.events(7) for response in resumed))
    await chat.finish(pair.a)
    bodies = await asyncio.gather(*(response.rest() for response in (first, *resumed)))
    assert set(bodies) == {await bare_body(script)}
    assert {response.end for response in (first, *resumed)} == {End.CLEAN}


async def test_a_resume_before_the_first_event_waits_for_it(
    pair: Pair, elsewhere: Server, chat: Chat, bare_body: BareBody
) -> None:
    script = Script(message_id="m")
    first = await chat.start(pair.a, script)
    resumed = await chat.resume(elsewhere)
    assert (resumed.status, resumed.body) == (200, b"")
    await first.cut()
    await chat.emit(pair.a, 1)
    assert await resumed.events(1) == script.chunks()[:1]
    await chat.finish(pair.a)
    assert await resumed.rest() == await bare_body(script)


@scripts
async def test_a_finished_stream_that_nobody_received_is_replayed_once(
    pair: Pair, elsewhere: Server, chat: Chat, bare_body: BareBody, script: Script
) -> None:
    first = await chat.start(pair.a, script)
    await chat.emit(pair.a, len(script.chunks()) // 2)
    await first.exactly(1)
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    resumed = await chat.resume(elsewhere)
    assert resumed.status == 200
    assert same(await resumed.rest(), await bare_body(script), script)
    assert resumed.end is End.CLEAN
    await chat.nothing_left(pair.a)
    await chat.nothing_left(pair.b)


async def test_a_replay_that_was_cut_itself_is_not_a_delivery(
    pair: Pair, elsewhere: Server, chat: Chat, bare_body: BareBody
) -> None:
    """The log is larger than what sockets hold, so the server cannot have sent its end."""
    script = Script(message_id="m", events=6000, text="long " * 200)
    first = await chat.start(pair.a, script)
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    replay = await chat.resume(elsewhere, receive_buffer=4096)
    await replay.exactly(100)
    await replay.cut("reset")
    again = await chat.resume(elsewhere)
    assert again.status == 200
    assert await again.rest() == await bare_body(script)


async def test_a_finished_and_delivered_stream_is_not_replayed(solo: Server, chat: Chat) -> None:
    first = await chat.start(solo, Script(pace=0))
    await first.rest()
    await chat.nothing_left(solo)


async def test_a_finished_and_delivered_stream_is_replayed_where_the_route_says_so(
    pair: Pair, elsewhere: Server, chats: MakeChat, bare_body: BareBody
) -> None:
    chat = chats(path="/replay/chat")
    script = Script(pace=0, message_id="m")
    await (await chat.start(pair.a, script)).rest()
    for _ in range(2):
        resumed = await chat.resume(elsewhere)
        assert (resumed.status, await resumed.rest()) == (200, await bare_body(script))


async def test_an_unknown_chat_is_nothing_to_resume(solo: Server, chat: Chat) -> None:
    response = await chat.resume(solo)
    assert (response.status, await response.rest()) == (204, b"")
    assert response.header("resumable-stream-id") is None


async def test_two_chats_never_mix(pair: Pair, chats: MakeChat, bare_body: BareBody) -> None:
    one, two = chats(), chats()
    alpha, beta = Script(message_id="m", text="alpha"), Script(message_id="m", text="beta", events=9)
    await one.start(pair.a, alpha)
    await two.start(pair.a, beta)
    found = [await chat.resume(server) for chat in (one, two) for server in (pair.a, pair.b)]
    for _ in range(3):
        await one.emit(pair.a)
        await two.emit(pair.a)
    await one.finish(pair.a)
    await two.finish(pair.a)
    bodies = [await response.rest() for response in found]
    assert bodies == [await bare_body(alpha)] * 2 + [await bare_body(beta)] * 2


async def test_a_new_message_is_what_a_resume_finds_from_then_on(
    pair: Pair, elsewhere: Server, chat: Chat, bare_body: BareBody
) -> None:
    """The old answer goes on for its own client, and its end does not take the new one's place away."""
    older, newer = Script(message_id="m", text="older"), Script(message_id="m", text="newer")
    first = await chat.start(pair.a, older)
    await chat.emit(pair.a, 2)
    second = await chat.start(elsewhere, newer)
    await chat.emit(elsewhere, 3)
    await second.cut()
    follower = await chat.resume(pair.a)
    assert await follower.events(3) == newer.chunks()[:3]
    await chat.finish(pair.a, run=0)
    assert await first.rest() == await bare_body(older)
    await chat.ended(pair.a, "finished", run=0)
    for server in (pair.a, pair.b):
        found = await chat.resume(server)
        assert found.status == 200
        assert found.header("resumable-stream-id") == second.header("resumable-stream-id")
    await chat.finish(elsewhere)
    assert await found.rest() == await bare_body(newer)
    assert await follower.rest() == await bare_body(newer)


async def test_head_answers_the_headers_of_a_resume_and_no_body(solo: Server, chat: Chat) -> None:
    """It does not wait for the stream either: the connection is free for the next request."""
    await chat.start(solo)
    await chat.emit(solo, 2)
    connection = await chat.connect(solo)
    head = await connection.request("HEAD", chat.resume_path)
    get = await connection.request("GET", chat.resume_path)
    await get.events(2)
    assert (head.status, get.status) == (200, 200)
    ignored = {"date", "transfer-encoding", "content-length"}
    assert {h for h in head.headers if h[0] not in ignored} == {h for h in get.headers if h[0] not in ignored}


async def test_head_and_a_refusal_read_nothing_of_a_long_log(pair: Pair, valkey: Valkey, chat: Chat) -> None:
    script = Script(message_id="m", events=400, text="long " * 2000)
    first = await chat.start(pair.a, script)
    await first.cut()
    await chat.finish(pair.a)
    await chat.ended(pair.a, "finished")
    beyond = {"offset": 100_000_000}

    async def refused() -> bool:
        return (await chat.resume(pair.b, method="HEAD", query=beyond)).status == 400

    await wait_until(refused, what="the log to be sealed")
    with valkey.client() as client:

        def sent() -> int:
            return client.info("stats")["total_net_output_bytes"]

        before = sent()
        for _ in range(20):
            assert (await chat.resume(pair.b, method="HEAD")).status == 200
            assert (await chat.resume(pair.b, query=beyond)).status == 400
        assert sent() - before < 40 * 32 * 1024, "of 4 MB each"


async def test_a_resume_is_kept_by_no_cache(solo: Server, chat: Chat) -> None:
    first = await chat.start(solo)
    assert first.header("cache-control") == "no-cache"
    for method in ("HEAD", "GET"):
        resumed = await chat.resume(solo, method=method)
        assert (resumed.status, resumed.header("cache-control")) == (200, "private, no-store")


@pytest.mark.parametrize(
    "id",
    [
        "a/b",
        "with space",
        "日本語-🎉",
        "100%",
        "%2F",
        "a?b#c",
        "a+b&c=d",
        '"quoted"',
        "..",
        "stream",
        "x" * 512,
    ],
)
async def test_an_id_of_any_characters_is_found(
    pair: Pair, elsewhere: Server, chats: MakeChat, bare_body: BareBody, id: str
) -> None:
    chat = chats(id)
    script = Script(message_id="m")
    first = await chat.start(pair.a, script)
    await chat.emit(pair.a, 2)
    await first.events(1)
    await first.cut()
    resumed = await chat.resume(elsewhere)
    assert resumed.status == 200
    await chat.finish(pair.a)
    assert await resumed.rest() == await bare_body(script)
