"""What the middleware must leave exactly as it is, measured against the app without it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import websockets
from conftest import Fleet, Pair
from testkit.chat import Chat
from testkit.client import End, Response
from testkit.script import Script
from testkit.servers import Server

MakeChat = Callable[..., Chat]
ADDED = "resumable-stream-id"


@pytest.fixture(scope="session")
def without_url(fleet: Fleet) -> Server:
    """The middleware with no `REDIS_URL`."""
    return fleet.start()


def comparable(response: Response) -> list[tuple[str, str]]:
    return sorted(header for header in response.headers if header[0] not in ("date", ADDED))


@pytest.mark.parametrize("kind", ["json", "bad"])
async def test_an_answer_that_is_no_stream_is_untouched(
    pair: Pair, bare: Server, chat: Chat, kind: str
) -> None:
    script = Script(kind=kind)  # type: ignore[arg-type]
    expected, got = await chat.start(bare, script), await chat.start(pair.a, script)
    assert (got.status, await got.rest()) == (expected.status, await expected.rest())
    assert comparable(got) == comparable(expected)
    assert got.header(ADDED) is None
    assert (await chat.resume(pair.a)).status == 204


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/chat"),
        ("PUT", "/api/chat"),
        ("OPTIONS", "/api/chat"),
        ("GET", "/no"),
        ("GET", "/lifespan"),
    ],
)
async def test_other_requests_are_untouched(
    pair: Pair, bare: Server, chat: Chat, method: str, path: str
) -> None:
    expected, got = await chat.request(bare, method, path), await chat.request(pair.a, method, path)
    assert (got.status, await got.rest()) == (expected.status, await expected.rest())
    assert comparable(got) == comparable(expected)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages":[]}', b'{"id":null}', b"\xff\xfe"])
async def test_a_request_without_a_key_is_the_apps_own_affair(
    pair: Pair, bare: Server, chat: Chat, body: bytes
) -> None:
    """Even where the app then fails."""
    headers = {"content-type": "application/json"}
    expected = await chat.request(bare, "POST", "/api/chat", headers=headers, body=body)
    got = await chat.request(pair.a, "POST", "/api/chat", headers=headers, body=body)
    assert got.status == expected.status
    assert comparable(got) == comparable(expected)


async def test_a_route_that_is_not_configured_streams_and_is_cancelled_as_ever(
    pair: Pair, chats: MakeChat
) -> None:
    chat = chats(path="/free/chat")
    first = await chat.start(pair.a)
    assert first.header(ADDED) is None
    await chat.emit(pair.a, 2)
    assert await first.events(2) == Script().chunks()[:2]
    await first.cut()
    await chat.ended(pair.a, "cancelled")
    assert (await chat.resume(pair.a)).status == 404


async def test_a_websocket_on_a_recorded_path_is_untouched(pair: Pair) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{pair.a.port}/api/chat", open_timeout=5) as socket:
        await socket.send("hello")
        assert await socket.recv() == "echo hello"


async def test_the_apps_lifespan_has_run(pair: Pair, chat: Chat) -> None:
    assert await (await chat.request(pair.a, "GET", "/lifespan")).json() == ["started"]


async def test_the_app_sees_the_request_as_it_was_but_for_its_encodings(
    pair: Pair, bare: Server, chat: Chat
) -> None:
    """A compressed body could not be recorded as text, so the app is not asked for one."""
    seen: list[dict[str, str]] = []
    for server in (bare, pair.a):
        await chat.start(server, Script(pace=0), headers={"x-custom": "yes", "cookie": "a=b"})
        seen.append((await chat.state(server))["request_headers"])
    assert seen[0].pop("accept-encoding") == "gzip"
    assert seen[0] == seen[1]


async def test_the_start_has_the_apps_headers_and_one_more(pair: Pair, bare: Server, chat: Chat) -> None:
    expected, got = await chat.start(bare), await chat.start(pair.a)
    assert got.status == expected.status
    assert comparable(got) == comparable(expected)
    assert got.header(ADDED)


async def test_a_resume_has_the_apps_headers_less_those_of_one_answer(
    pair: Pair, elsewhere: Server, bare: Server, chat: Chat
) -> None:
    first = await chat.start(pair.a)
    resumed = await chat.resume(elsewhere)
    others = ("set-cookie", "cache-control")
    expected = [header for header in comparable(await chat.start(bare)) if header[0] not in others]
    assert comparable(resumed) == sorted([*expected, ("cache-control", "private, no-store")])
    assert resumed.header(ADDED) == first.header(ADDED)
    for name in ("date", "server", "content-type", "cache-control"):
        assert resumed.header(name) is not None


async def test_a_body_sent_in_pieces_reaches_the_app_whole(pair: Pair, chat: Chat) -> None:
    """The middleware has to read it first, to find the key."""
    script = Script(message_id="m", pace=0)
    body = json.dumps({"script": script.to_mapping(), "padding": "x" * 200_000, "id": chat.id}).encode()
    first = await chat.request(
        pair.a, "POST", chat.path, headers={"content-type": "application/json"}, body=body
    )
    assert first.header(ADDED)
    assert await first.rest() == script.body


async def test_without_a_redis_url_everything_passes_through(
    without_url: Server, bare: Server, chat: Chat
) -> None:
    expected, got = await chat.start(bare), await chat.start(without_url)
    assert comparable(got) == comparable(expected)
    assert got.header(ADDED) is None
    assert (await chat.request(without_url, "GET", chat.resume_path)).status == 204
    stopped = await chat.request(without_url, "POST", chat.stop_path)
    assert (stopped.status, await stopped.json()) == (200, {"success": True, "stopped": False})
    await chat.finish(without_url)
    assert (await got.rest(), got.end) == (Script().body, End.CLEAN)
    again = await chat.start(without_url)
    await again.cut()
    await chat.ended(without_url, "cancelled")


async def test_without_a_redis_url_that_is_said_once(without_url: Server, chats: MakeChat) -> None:
    for _ in range(2):
        await (await chats().start(without_url, Script(pace=0))).rest()
    lines = [line for line in without_url.process.output().splitlines() if "REDIS_URL" in line]
    assert len(lines) == 1
