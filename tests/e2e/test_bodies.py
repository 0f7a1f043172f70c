"""What stands in a request's body stalls nobody else, and takes no more memory than is configured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from testkit.chat import Chat
from testkit.client import Connection
from testkit.script import Script
from testkit.servers import Server
from testkit.wait import wait_until

MakeChat = Callable[..., Chat]
HEAD = "POST /raw/chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
"""To a recorded route whose app does not parse the body."""


Upload = Callable[[Server, bytes, int], Awaitable[Connection]]


@pytest.fixture
async def upload() -> AsyncIterator[Upload]:
    """Send the beginning of a body of some length."""
    connections: list[Connection] = []

    async def send(server: Server, body: bytes, length: int) -> Connection:
        connection = await Connection.open(server.port)
        connections.append(connection)
        connection.writer.write(HEAD.format(length).encode() + body)
        async with asyncio.timeout(20):
            await connection.writer.drain()
        return connection

    yield send
    for connection in connections:
        await connection.close()


def resident(server: Server) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": [' + b"[[]]," * 200_000,
        b'{"x": [' + b"[[[[1]]]]," * 100_000,
        b"{" + b'"\\u0061": 0, ' * 80_000,
    ],
)
async def test_twelve_bodies_of_brackets_do_not_stall_another_stream(
    in_memory: Server, chats: MakeChat, upload: Upload, body: bytes
) -> None:
    """Their last bytes are released together. Parsed on the event loop, they take more than a second."""
    victim = await chats().start(in_memory, Script(dialect="plain", events=2_000, pace=0.005))
    await victim.events(5)
    connections = [await upload(in_memory, body[:-1], len(body)) for _ in range(12)]
    worst = 0.0
    for connection in connections:
        connection.writer.write(body[-1:])
    answers = asyncio.gather(*[connection.reader.readline() for connection in connections])
    while not answers.done():
        before, count = time.monotonic(), len(victim.body)
        await victim.until(lambda count=count: len(victim.body) > count, "event")
        worst = max(worst, time.monotonic() - before)
    assert {answer.split()[1] for answer in await answers} == {b"200"}
    assert worst < 0.3


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
async def test_bodies_that_never_end_hold_no_more_than_is_configured(
    in_memory: Server, upload: Upload
) -> None:
    before = resident(in_memory)
    body = b'{"x": "' + b"x" * 4_000_000
    for _ in range(60):
        await upload(in_memory, body, len(body) + 1)
    await wait_until(lambda: resident(in_memory) - before < 100 * 2**20, what="60 bodies to be let go")
