from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.types import Message
from testkit.inprocess import SSE, Changes
from testkit.logs import Mark

from resumable_asgi.formats.sse import COMMENT
from resumable_asgi.outcome import Outcome
from resumable_asgi.request.receiver import Receiver
from resumable_asgi.stream.follower import Follower, Followers
from resumable_asgi.stream.log import Head, Log, new_stream_id


class Connection:
    """What a follower sends, and the client whose connection it is."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.final = False
        self.changes = Changes()
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self._gone = asyncio.Event()
        self.client = Receiver(self._receive, 0)

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])
            self.final = not message["more_body"]
        self.changes.notify()

    def leave(self) -> None:
        self._gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    async def until(self, data: bytes) -> None:
        await self.changes.until(lambda: len(self.body) >= len(data), f"{data!r}")
        assert self.body == data


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    connection = Connection()
    yield connection
    connection.client.close()


@pytest.fixture
def log() -> Log:
    head = Head(worker="w", created=1, status=200, headers=(SSE,), key="c")
    return Log(new_stream_id(), head)


Follow = Callable[..., "asyncio.Task[bool]"]


@pytest.fixture
async def follow(log: Log, connection: Connection) -> AsyncIterator[Follow]:
    tasks: list[asyncio.Task[bool]] = []

    def start(
        offset: int = 0,
        keepalive: float | None = None,
        wait_for: int = 0,
        stall_timeout: float | None = None,
    ) -> asyncio.Task[bool]:
        async def run() -> bool:
            with Follower(
                log,
                offset,
                connection.send,
                connection.client,
                keepalive=keepalive,
                stall_timeout=stall_timeout,
                followers=Followers(0.01),
            ) as follower:
                return await follower.wait_for(wait_for) and await follower.follow()

        tasks.append(asyncio.create_task(run()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def result(task: asyncio.Task[bool]) -> bool:
    async with asyncio.timeout(5):
        return await task


async def test_a_follower_sends_the_past_what_comes_and_sees_the_end(
    log: Log, connection: Connection, follow: Follow
) -> None:
    log.append(b"12345")
    task = follow(2)
    await connection.until(b"345")
    log.append(b"6")
    log.append(b"7")
    await connection.until(b"34567")
    log.seal(Outcome.LOST)
    assert await result(task)
    assert connection.bodies == [b"345", b"67"]
    assert not connection.final
    assert not log.readers


async def test_a_follower_of_a_sealed_log_sends_it_and_returns(
    log: Log, connection: Connection, follow: Follow
) -> None:
    log.append(bytes(300_000))
    log.seal(Outcome.DONE)
    assert await result(follow())
    assert connection.body == bytes(300_000)
    assert max(map(len, connection.bodies)) <= 192 * 1024


async def test_a_follower_whose_client_goes_returns(log: Log, connection: Connection, follow: Follow) -> None:
    task = follow()
    log.append(b"1")
    await connection.until(b"1")
    connection.leave()
    assert not await result(task)
    assert not log.readers


async def test_a_follower_whose_send_fails_returns(log: Log, connection: Connection, follow: Follow) -> None:
    connection.error = OSError("gone")
    log.append(b"1")
    assert not await result(follow())


async def test_what_comes_while_a_send_is_under_way_is_not_missed(
    log: Log, connection: Connection, follow: Follow
) -> None:
    connection.open.clear()
    task = follow()
    log.append(b"1")
    for _ in range(5):
        await asyncio.sleep(0)
    log.append(b"2")
    log.seal(Outcome.DONE)
    connection.open.set()
    assert await result(task)
    assert connection.bodies == [b"1", b"2"]


async def test_a_follower_behind_the_trimmed_part_gives_up(
    log: Log, connection: Connection, follow: Follow
) -> None:
    log.append(b"12345")
    log.readers.add(Mark(3))
    log.trim()
    assert not await result(follow(1))
    assert connection.body == b""


async def test_silence_is_filled_with_comments_between_events_only(
    log: Log, connection: Connection, follow: Follow
) -> None:
    task = follow(keepalive=0.02)
    await connection.until(COMMENT)
    log.append(b"data: 1\n")
    await connection.until(COMMENT + b"data: 1\n")
    timer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, timer.set_result, None)
    await timer  # silence is the very thing that is waited for
    assert connection.body == COMMENT + b"data: 1\n"
    log.append(b"\n")
    await connection.until(COMMENT + b"data: 1\n\n" + COMMENT)
    log.seal(Outcome.DONE)
    assert await result(task)


async def test_no_keepalive_means_no_comment_and_no_timer(
    log: Log, connection: Connection, follow: Follow
) -> None:
    task = follow()
    timer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, timer.set_result, None)
    await timer
    assert connection.bodies == []
    log.seal(Outcome.DONE)
    assert await result(task)


async def test_a_position_ahead_of_the_log_is_waited_for(
    log: Log, connection: Connection, follow: Follow
) -> None:
    task = follow(3, wait_for=3, keepalive=0.02)
    log.append(b"12")
    await connection.until(COMMENT)
    log.append(b"34")
    await connection.until(COMMENT + b"4")
    log.seal(Outcome.DONE)
    assert await result(task)


async def test_waiting_for_a_position_ends_with_the_log_and_with_the_client(
    log: Log, connection: Connection, follow: Follow
) -> None:
    waiting = follow(wait_for=99)
    for _ in range(5):
        await asyncio.sleep(0)
    connection.leave()
    assert not await result(waiting)
    log.seal(Outcome.DONE)


async def test_a_client_that_goes_in_the_turn_of_a_chunk_is_noticed(
    log: Log, connection: Connection, follow: Follow
) -> None:
    task = follow()
    log.append(b"1")
    await connection.until(b"1")
    await asyncio.sleep(0)
    log.append(b"2")
    connection.client.close()
    assert not await result(task)


@pytest.mark.parametrize("keeps_up", [False, True])
async def test_a_client_that_takes_nothing_is_cut_off(
    log: Log, connection: Connection, follow: Follow, keeps_up: bool
) -> None:
    """Whether it was its task that sends, or the dispatcher in its name."""
    task = follow(stall_timeout=0.1)
    if keeps_up:
        log.append(b"1")
        await connection.until(b"1")
        await asyncio.sleep(0)
    connection.open.clear()
    log.append(b"2")
    assert not await result(task)
    assert task.cancelling() == 0
    assert log.readers == set()


async def test_a_client_for_which_there_is_nothing_is_not_cut_off(
    log: Log, connection: Connection, follow: Follow
) -> None:
    task = follow(stall_timeout=0.05)
    done, _ = await asyncio.wait([task], timeout=0.3)
    assert not done
    log.append(b"1")
    await connection.until(b"1")
    log.seal(Outcome.DONE)
    assert await result(task)


async def test_a_client_that_takes_a_little_at_a_time_is_not_cut_off(
    log: Log, connection: Connection, follow: Follow
) -> None:
    data = bytes(300_000)
    task = follow(stall_timeout=0.2)
    connection.open.clear()
    log.append(data)
    log.seal(Outcome.DONE)
    while not task.done():
        await asyncio.wait([task], timeout=0.1)
        connection.open.set()
        await asyncio.sleep(0)
        connection.open.clear()
    assert await result(task)
    assert connection.body == data
    assert len(connection.bodies) > 5


async def test_a_call_that_is_cancelled_while_its_client_takes_nothing_stays_cancelled(
    log: Log, connection: Connection, follow: Follow
) -> None:
    task = follow(stall_timeout=60)
    connection.open.clear()
    log.append(b"1")
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await result(task)


async def test_the_timer_rests_while_nobody_follows(log: Log, connection: Connection) -> None:
    followers = Followers(0.01)
    for _ in range(2):
        with Follower(log, 0, connection.send, connection.client, keepalive=1, followers=followers):
            assert followers._timer is not None
        assert followers._timer is None


async def test_eight_followers_send_at_once_and_the_others_in_the_next_turn(log: Log) -> None:
    followers, connections = Followers(1), [Connection() for _ in range(10)]

    async def follow(connection: Connection) -> bool:
        send, client = connection.send, connection.client
        with Follower(log, 0, send, client, keepalive=None, followers=followers) as follower:
            return await follower.follow()

    tasks = [asyncio.create_task(follow(connection)) for connection in connections]
    await asyncio.sleep(0)
    for data in (b"1", b"2"):
        log.append(data)
        assert [connection.bodies.count(data) for connection in connections] == 8 * [1] + 2 * [0]
        await asyncio.sleep(0)
        assert [connection.bodies.count(data) for connection in connections] == 10 * [1]
    log.seal(Outcome.DONE)
    assert await asyncio.gather(*tasks) == 10 * [True]
    for connection in connections:
        connection.client.close()
