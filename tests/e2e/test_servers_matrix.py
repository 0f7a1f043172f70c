"""The bytes on the wire of each server, the log lines it writes about them, and what daphne cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from conftest import Fleet, Pair
from testkit import sse
from testkit.chat import Chat
from testkit.client import Cut, End, Response
from testkit.script import Script
from testkit.servers import Server
from testkit.shutdown_daphne import Daphne
from testkit.valkey import Valkey
from testkit.wait import wait_until

pytestmark = pytest.mark.usefixtures("no_key_without_ttl")

PLAIN = Script(dialect="plain", split=9)
AI_SDK = Script(message_id="m")
KINDS = ["uvicorn with httptools", "uvicorn with h11", "uvicorn with two workers", "hypercorn", "granian"]
LEASE = 1.0


@pytest.fixture(scope="module")
def servers(fleet: Fleet, valkey_server: Valkey) -> dict[str, Server]:
    env = {"REDIS_URL": valkey_server.url, "HARNESS_LEASE": str(LEASE)}
    started = {
        "uvicorn with httptools": fleet.start(env=env, wait=False),
        "uvicorn with h11": fleet.start(env=env, http_implementation="h11", wait=False),
        "uvicorn with two workers": fleet.start(env=env, workers=2, wait=False),
        "hypercorn": fleet.start(kind="hypercorn", env=env, extra=["--keep-alive", "1"], wait=False),
        "granian": fleet.start(kind="granian", env=env, wait=False),
    }
    return {name: server.wait_ready() for name, server in started.items()}


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture
def daphne(fleet: Fleet, valkey_server: Valkey, tmp_path: Path) -> Server:
    """Its calls are killed one second after their clients have gone; the default is ten."""
    server = Daphne(
        tmp_path, env={"REDIS_URL": valkey_server.url}, extra=["--application-close-timeout", "1"]
    )
    fleet.servers.append(server)
    return server.wait_ready()


@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_a_cut_stream_is_resumed_whole_in_another_process(
    server: Server, pair: Pair, chat: Chat, how: Cut
) -> None:
    first = await chat.start(server, PLAIN)
    await chat.emit(server, 20)
    await first.events(2)
    await first.cut(how)
    elsewhere = await chat.resume(pair.b)
    await elsewhere.events(2)
    await chat.finish(server)
    assert (await elsewhere.rest(), elsewhere.end) == (PLAIN.body, End.CLEAN)
    await chat.ended(server, "finished")


async def test_a_stream_of_another_process_is_followed_and_stopped(
    server: Server, pair: Pair, chat: Chat
) -> None:
    first = await chat.start(pair.a, PLAIN)
    await chat.emit(pair.a, 20)
    followers = [first, await chat.resume(server), await chat.resume(server)]
    for follower in followers:
        await follower.events(2)
    assert await chat.stop(server) == {"success": True, "stopped": True}
    sent = b"".join(PLAIN.chunks()[:20])
    for follower in followers:
        assert (await follower.rest(timeout=1.5), follower.end) == (sent, End.CLEAN)
    await chat.ended(pair.a, "cancelled", timeout=2)


async def test_a_plain_follower_of_a_failed_stream_sees_a_broken_connection_and_no_traceback(
    server: Server, pair: Pair, chat: Chat
) -> None:
    """The app that raised was that of another process; here only a response is left unfinished."""
    await chat.start(pair.a, PLAIN)
    await chat.emit(pair.a, 20)
    attached = await chat.resume(server)
    await attached.events(2)
    await chat.fail(pair.a)
    for follower in (attached, await chat.resume(server), await chat.resume(server)):
        await follower.rest()
        assert (bytes(follower.body), follower.end) == (b"".join(PLAIN.chunks()[:20]), End.BROKEN)
    assert "Traceback" not in server.written()


async def test_an_ai_sdk_follower_of_a_failed_stream_is_told_so(
    server: Server, pair: Pair, chat: Chat
) -> None:
    await chat.start(pair.a, AI_SDK)
    await chat.emit(pair.a, 3)
    attached = await chat.resume(server)
    await attached.events(3)
    await chat.fail(pair.a)
    for follower in (attached, await chat.resume(server)):
        body = await follower.rest()
        sent = b"".join(AI_SDK.chunks()[:3])
        assert body.startswith(sent)
        error, done = sse.payloads(body[len(sent) :])
        assert (error["type"], done, follower.end) == ("error", "[DONE]", End.CLEAN)


@pytest.mark.parametrize("script", [PLAIN, AI_SDK], ids=["plain", "AI SDK"])
async def test_an_app_that_raises_with_its_client_there_breaks_the_connection(
    server: Server, chat: Chat, script: Script
) -> None:
    first = await chat.start(server, script)
    await chat.emit(server, 2)
    await chat.fail(server)
    assert (await first.rest(), first.end) == (b"".join(script.chunks()[:2]), End.BROKEN)
    await chat.ended(server, "raised")


async def test_followers_on_every_server_see_that_a_producer_was_killed(
    servers: dict[str, Server], start_server: Callable[..., Server], valkey_server: Valkey, chat: Chat
) -> None:
    env = {"REDIS_URL": valkey_server.url, "HARNESS_LEASE": str(LEASE)}
    producer = start_server(env=env)
    await chat.start(producer, PLAIN)
    await chat.emit(producer, 20)
    followers = [await chat.resume(server) for server in servers.values()]
    sent = b"".join(PLAIN.chunks()[:20])
    for follower in followers:
        await follower.exactly(len(sent))
    producer.kill()
    for follower in followers:
        assert (await follower.rest(timeout=LEASE + 5), follower.end) == (sent, End.BROKEN)


# -- HTTP/2, without TLS


async def over_http2(server: Server, path: str) -> AsyncIterator[object]:
    """What comes of one GET; at last the exception or the `None` of a connection that was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "testserver")]
    connection.send_headers(1, head, end_stream=True)
    try:
        while True:
            writer.write(connection.data_to_send())
            async with asyncio.timeout(10):
                data = await reader.read(65536)
            if not data:
                yield None
                return
            for event in connection.receive_data(data):
                yield event
    finally:
        writer.close()


@pytest.mark.parametrize("kind", ["hypercorn", "granian"])
@pytest.mark.parametrize("ending", ["finish", "fail"])
async def test_over_http2_only_a_whole_stream_has_an_end(
    servers: dict[str, Server], pair: Pair, chat: Chat, kind: str, ending: str
) -> None:
    """Granian resets the stream; hypercorn cannot, and closes the connection when it has become idle."""
    await chat.start(pair.a, PLAIN)
    await chat.emit(pair.a, 20)
    body, last = b"", None
    async for event in over_http2(servers[kind], chat.resume_path):
        if isinstance(event, h2.events.DataReceived):
            if not body:
                await (chat.finish if ending == "finish" else chat.fail)(pair.a)
            body += event.data
        if event is None or isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            last = event
            break
    if ending == "finish":
        assert isinstance(last, h2.events.StreamEnded)
        assert body == PLAIN.body
    else:
        assert not isinstance(last, h2.events.StreamEnded)
        assert (last is None) == (kind == "hypercorn")
        assert body == b"".join(PLAIN.chunks()[:20])


# -- daphne


async def begin(daphne: Server, chat: Chat) -> Response:
    """It sends no headers before there is a body."""
    starting = asyncio.create_task(chat.start(daphne, AI_SDK))
    await chat.started(daphne)
    await chat.emit(daphne, 3)
    first = await starting
    await first.events(3)
    return first


async def test_on_daphne_a_stream_is_resumed_stopped_and_told_of_a_failure(
    daphne: Server, pair: Pair, chats: Callable[..., Chat]
) -> None:
    whole, stopped, failed = chats(), chats(), chats()
    first = await begin(daphne, whole)
    await first.cut()
    resumed = [await whole.resume(daphne), await whole.resume(pair.b)]
    await whole.finish(daphne)
    for response in resumed:
        assert (await response.rest(), response.end) == (AI_SDK.body, End.CLEAN)
    first = await begin(daphne, stopped)
    assert await stopped.stop(pair.b) == {"success": True, "stopped": True}
    assert sse.payloads(await first.rest(timeout=2))[-2:] == [{"type": "abort"}, "[DONE]"]
    await failed.start(pair.a, AI_SDK)
    await failed.fail(pair.a)
    assert sse.payloads(await (await failed.resume(daphne)).rest())[-2]["type"] == "error"


async def test_on_daphne_a_run_survives_the_call_that_daphne_kills(
    daphne: Server, pair: Pair, chat: Chat
) -> None:
    first = await begin(daphne, chat)
    await first.cut()
    await wait_until(lambda: "was killed" in daphne.written(), timeout=8, what="daphne to kill the call")
    await chat.emit(daphne, 1)
    resumed = await chat.resume(pair.b)
    await chat.finish(daphne)
    assert (await resumed.rest(), resumed.end) == (AI_SDK.body, End.CLEAN)


async def test_on_daphne_a_plain_follower_of_a_failed_stream_is_never_told(
    daphne: Server, pair: Pair, chat: Chat
) -> None:
    """It leaves the connection of a response without its final body open, whatever the app does."""
    await chat.start(pair.a, PLAIN)
    await chat.emit(pair.a, 20)
    await chat.fail(pair.a)
    follower = await chat.resume(daphne)
    await follower.exactly(len(b"".join(PLAIN.chunks()[:20])))
    await follower.silence(1.5)
