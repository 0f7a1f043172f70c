from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from resumable_asgi.request.receiver import BodyTooLargeError, Receiver


class Server:
    """A server's `receive`: messages come when the test puts them; it must never be called twice at once."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self.calls = 0
        self._busy = False

    def body(self, data: bytes, *, more: bool) -> None:
        self.queue.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def disconnect(self) -> None:
        self.queue.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        assert not self._busy, "two calls of receive() at once"
        self._busy = True
        self.calls += 1
        try:
            message = await self.queue.get()
        finally:
            self._busy = False
        if isinstance(message, Exception):
            raise message
        return message


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Receiver]:
    client = Receiver(server.receive, 100)
    yield client
    client.close()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_was_peeked_at_is_given_to_the_app_too(server: Server, client: Receiver) -> None:
    server.body(b"1", more=True)
    server.body(b"2", more=False)
    assert (await client.peek())["body"] == b"1"
    assert (await client.peek())["body"] == b"2"
    assert client.body_complete
    assert await client.receive() == {"type": "http.request", "body": b"12", "more_body": False}
    server.disconnect()
    assert (await client.receive())["type"] == "http.disconnect"
    assert client.disconnected


async def test_peeking_stops_at_the_limit_and_loses_nothing(server: Server, client: Receiver) -> None:
    server.body(b"1" * 100, more=True)
    server.body(b"2", more=True)
    server.body(b"3", more=False)
    await client.peek()
    with pytest.raises(BodyTooLargeError):
        await client.peek()
    assert b"".join([(await client.receive())["body"] for _ in range(2)]) == b"1" * 100 + b"23"


async def test_the_body_is_read_no_further_than_asked_for_and_kept_for_the_app(
    server: Server, client: Receiver
) -> None:
    server.body(b"1", more=True)
    server.body(b"2" * 5000, more=True)
    server.body(b"3", more=False)
    await client.peek()
    parts = client.body()
    assert [await anext(parts), await anext(parts)] == [b"1", b"2" * 99]
    assert server.calls == 2
    with pytest.raises(BodyTooLargeError):
        await anext(parts)
    assert server.calls == 2
    assert (await client.receive())["body"] == b"1" + b"2" * 5000
    assert (await client.receive())["body"] == b"3"


async def test_a_body_of_just_the_limit_is_not_too_large(server: Server, client: Receiver) -> None:
    server.body(b"1" * 100, more=False)
    assert [part async for part in client.body()] == [b"1" * 100]
    assert [part async for part in client.body()] == [b"1" * 100]


async def test_a_body_ends_when_its_client_leaves(server: Server, client: Receiver) -> None:
    server.body(b"1", more=True)
    server.disconnect()
    assert b"".join([part async for part in client.body()]) == b"1"
    assert client.disconnected


async def test_many_small_messages_are_kept_as_few(server: Server, client: Receiver) -> None:
    for _ in range(100):
        server.body(b"x", more=True)
    parts = client.body()
    for _ in range(100):
        await anext(parts)
    assert await client.receive() == {"type": "http.request", "body": b"x" * 100, "more_body": True}
    assert client.take() is None


async def test_a_disconnect_is_read_only_once(server: Server, client: Receiver) -> None:
    server.disconnect()
    for _ in range(3):
        assert (await client.receive())["type"] == "http.disconnect"
        assert (await client.peek())["type"] == "http.disconnect"
    assert server.calls == 1
    assert client.take() is None


async def test_watchers_are_told_of_messages_and_of_the_end(server: Server, client: Receiver) -> None:
    told: list[bool] = []
    client.watch(lambda: told.append(client.disconnected))
    client.watch(lambda: told.append(client.disconnected))
    server.body(b"1", more=False)
    await settle()
    assert told == [False, False]
    server.disconnect()
    await settle()
    assert told == [False, False, True, True]
    assert client.take() == {"type": "http.request", "body": b"1", "more_body": False}


async def test_an_upload_is_read_ahead_only_so_far(server: Server, client: Receiver) -> None:
    for _ in range(10):
        server.body(b"x" * 30_000, more=True)
    client.watch(lambda: None)
    await settle()
    assert server.calls < 5
    assert not client.attended
    taken = 0
    while client.take() is not None:
        taken += 1
        await settle()
    assert taken == 10
    assert client.attended


async def test_a_receive_that_raises_means_that_the_client_is_gone(
    server: Server, client: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    server.queue.put_nowait(RuntimeError("a broken server"))
    client.watch(lambda: None)
    await settle()
    assert client.disconnected
    assert not client.attended
    assert "a broken server" in caplog.text


async def test_a_closed_client_is_gone_and_reads_no_more(server: Server, client: Receiver) -> None:
    told: list[bool] = []
    client.watch(lambda: told.append(client.disconnected))
    await settle()
    client.close()
    await settle()
    server.body(b"for the next request", more=False)
    await settle()
    assert told == [True]
    assert server.queue.qsize() == 1
    assert (await client.receive())["type"] == "http.disconnect"
