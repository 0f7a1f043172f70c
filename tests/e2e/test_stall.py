"""A client that takes nothing is cut off, one that is slow is not."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from testkit.servers import Server
from testkit.stall_app import SIZE, STALL_TIMEOUT
from testkit.wait import wait_until

StartServer = Callable[..., Server]
BODY = b'{"id": "c"}'
START = (
    b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)
START %= (len(BODY), BODY)
RESUME = b"GET /api/chat/c/stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def asked(server: Server, request: bytes) -> AsyncIterator[socket.socket]:
    """A connection that has sent a request, and of whose answer the kernel keeps little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with connection:
        await loop.sock_connect(connection, ("127.0.0.1", server.port))
        await loop.sock_sendall(connection, request)
        yield connection


def open_calls(server: Server) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("GET", "/state")
        return json.loads(connection.getresponse().read())["open"]
    finally:
        connection.close()


def can_be_resumed(server: Server) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("HEAD", "/api/chat/c/stream")
        return connection.getresponse().status == 200
    finally:
        connection.close()


async def all_of(connection: socket.socket, pause: float = 0) -> int:
    """How many events' bytes come until the end of the body, with a pause after each eighth."""
    loop = asyncio.get_running_loop()
    count = paused = 0
    async with asyncio.timeout(60):
        while data := await loop.sock_recv(connection, 1024 * 1024):
            count += data.count(b"x")
            if data.endswith(b"\r\n0\r\n\r\n"):
                break
            if count > (paused + 1) * SIZE // 8:
                paused += 1
                await asyncio.sleep(pause)
    return count


@pytest.fixture(
    scope="module",
    params=[
        {"http_implementation": "httptools"},
        {"http_implementation": "h11"},
        {"kind": "hypercorn"},
        {"kind": "granian"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def server(request: pytest.FixtureRequest, fleet: Any) -> Server:
    return fleet.start(app="testkit.stall_app:app", ready_path="/state", **request.param)


async def test_a_client_that_reads_nothing_is_cut_off_and_can_resume(server: Server) -> None:
    """The one that started the stream, and others that resumed it."""
    async with contextlib.AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await stack.enter_async_context(asked(server, START))
        await wait_until(lambda: can_be_resumed(server))
        for _ in range(3):
            await stack.enter_async_context(asked(server, RESUME))
        await wait_until(lambda: open_calls(server) == 4)
        await wait_until(lambda: open_calls(server) == 0, timeout=STALL_TIMEOUT + 5)
        assert loop.time() - begun > STALL_TIMEOUT
    async with asked(server, RESUME) as connection:
        assert await all_of(connection) > 0.99 * SIZE


async def test_a_slow_client_gets_all(server: Server) -> None:
    """It takes some from time to time, and nothing for most of the time: longer than the timeout in all."""
    async with asked(server, START) as connection:
        assert await all_of(connection, pause=0.5 * STALL_TIMEOUT) > 0.99 * SIZE
