"""Two processes that share only a Redis Cluster."""

from __future__ import annotations

from collections.abc import Callable

from conftest import StartServer
from testkit import sse
from testkit.chat import Chat
from testkit.client import End
from testkit.cluster import Cluster
from testkit.script import Script


async def test_streams_on_every_primary_are_resumed_and_stopped_in_another_process(
    cluster: Cluster, start_server: StartServer, chats: Callable[..., Chat]
) -> None:
    env = {"REDIS_URL": cluster.url}
    a, b = start_server(env=env), start_server(env=env)
    script = Script(dialect="plain")
    primaries = set()
    for number in range(8):
        chat = chats(f"chat-{number}")
        first = await chat.start(a, script)
        await chat.emit(a, 3)
        await first.events(2)
        await first.cut("reset")
        resumed = await chat.resume(b)
        assert resumed.status == 200
        await resumed.events(3)
        if number % 2:
            await chat.stop(b)
            assert len(sse.split(await resumed.rest())[0]) == 3
        else:
            await chat.finish(a)
            assert await resumed.rest() == b"".join(script.chunks())
        assert resumed.end is End.CLEAN
        await chat.nothing_left(b)
        primaries |= {node.port for node in cluster.nodes if any(":log:" in key for key in node.all_keys())}
    assert len(primaries) == 3
