"""Redis away when a stream starts: refused, silent, and back again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from conftest import Fleet, StartServer, StartValkey
from testkit.chat import Chat
from testkit.client import End, Response
from testkit.process import free_port
from testkit.script import Script
from testkit.servers import Server
from testkit.wait import wait_until

MakeChat = Callable[..., Chat]
REDIS_TIMEOUT = 0.5
MARGIN = 0.5


@pytest.fixture(scope="module")
def refused(fleet: Fleet) -> Server:
    """A worker whose Redis is not there."""
    return fleet.start(env={"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"})


async def check_untouched(server: Server, chat: Chat) -> None:
    """The answer begins in time, comes as it is generated, and is the app's."""
    script = Script(message_id="m")
    began = time.monotonic()
    first = await chat.start(server, script)
    assert time.monotonic() - began < REDIS_TIMEOUT + MARGIN
    for count in (1, 2, 3):
        await chat.emit(server)
        assert await first.events(count, timeout=1) == script.chunks()[:count]
    await chat.finish(server)
    assert (await first.rest(), first.end) == (script.body, End.CLEAN)
    await chat.ended(server, "finished")


async def check_unavailable(server: Server, chat: Chat) -> None:
    began = time.monotonic()
    resumed = await chat.resume(server)
    assert resumed.status == 503
    assert int(resumed.header("retry-after") or "") > 0
    assert await resumed.rest() == b"Could not check for a running answer. Please try again."
    assert time.monotonic() - began < REDIS_TIMEOUT + MARGIN


async def test_a_stream_without_redis_is_untouched(refused: Server, chat: Chat) -> None:
    await check_untouched(refused, chat)


async def test_a_resume_without_redis_is_told_to_come_again(refused: Server, chat: Chat) -> None:
    await check_unavailable(refused, chat)


async def test_a_stop_without_redis_is_no_lie(refused: Server, chat: Chat) -> None:
    """It either stops what this process runs or says that it cannot tell."""
    response = await chat.request(refused, "POST", chat.stop_path)
    assert response.status == 503 or (await response.json())["stopped"] is False


async def test_a_disconnect_without_redis_does_not_reach_the_app(refused: Server, chat: Chat) -> None:
    first = await chat.start(refused)
    await chat.emit(refused, 1)
    await first.events(1)
    await first.cut()
    await chat.emit(refused, 2)
    await chat.finish(refused)
    await chat.ended(refused, "finished")


async def test_a_frozen_redis_delays_nothing_beyond_its_timeout(
    start_valkey: StartValkey, start_server: StartServer, chats: MakeChat
) -> None:
    """Connections stay open and nobody answers, before the first request and after it."""
    valkey = start_valkey()
    server = start_server(env={"REDIS_URL": valkey.url})
    warm = chats()
    await (await warm.start(server, Script(pace=0))).rest()
    valkey.pause()
    await check_untouched(server, chats())
    await check_unavailable(server, chats())
    valkey.cont()
    await warm.nothing_left(server)


async def test_a_stream_that_began_without_redis_is_recorded_when_redis_comes(
    start_valkey: StartValkey, start_server: StartServer, chat: Chat
) -> None:
    """Also when the Redis that comes back is empty: the log is written again from memory."""
    valkey = start_valkey()
    valkey.stop()
    a = start_server(env={"REDIS_URL": valkey.url}, wait=False)
    b = start_server(env={"REDIS_URL": valkey.url}, wait=False)
    a.wait_ready()
    b.wait_ready()
    script = Script(message_id="m")
    first = await chat.start(a, script)
    await chat.emit(a, 3)
    await first.events(3)
    await first.cut()
    for _ in range(2):
        valkey.restart(keep_data=False)
        resumed = await found(chat, b)
        assert await resumed.events(3) == script.chunks()[:3]
    await chat.finish(a)
    assert (await resumed.rest(), resumed.end) == (script.body, End.CLEAN)
    assert valkey.keys_without_ttl() == []


async def found(chat: Chat, server: Server) -> Response:
    """The resume that is answered with the stream, as soon as one is."""

    async def ask() -> Response | None:
        response = await chat.resume(server)
        assert response.status in (200, 204, 503)
        return response if response.status == 200 else None

    return await wait_until(ask, timeout=10, what="the stream to be found")
