"""How connections are opened: by Sentinel, and as a client of the user's says."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from testkit.logs import begin, sealed, slot_named
from testkit.process import Process, free_port
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi import Settings
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.redis.connect import connection_factory
from resumable_asgi.store.redis.connection import ConnectionLostError, Link
from resumable_asgi.store.redis.store import RedisStore

SLOT = slot_named("c" * 32)


@pytest.fixture
def start_sentinel(valkey_binary: str, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start a Sentinel that watches a server under the name `primary`, and return its port."""
    processes: list[Process] = []

    def start(server: Valkey, *lines: str) -> int:
        port = free_port()
        config = tmp_path / f"sentinel-{port}.conf"
        settings = [f"port {port}", f"dir {tmp_path}", f"sentinel monitor primary 127.0.0.1 {server.port} 1"]
        config.write_text("\n".join([*settings, *lines, ""]))
        processes.append(Process([valkey_binary, str(config), "--sentinel"], log=config.with_suffix(".log")))
        return port

    yield start
    for process in processes:
        process.kill()


async def answers(port: int, **credentials: str) -> None:
    """Wait until a Sentinel knows its primary."""

    def knows() -> bool:
        try:
            with redis.Redis(port=port, socket_timeout=1, **credentials) as client:  # type: ignore[arg-type]
                return bool(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "primary"))
        except redis.ConnectionError:
            return False

    await wait_until(knows)


async def check_two_workers(settings: Settings, client: Redis | None = None) -> None:
    """What one of them writes the other finds."""
    own, other = (RedisStore(settings, connection_factory(settings, client)) for _ in range(2))
    try:
        log = await begin(own, SLOT, b"data: 1\n\n")
        await wait_until(lambda: own.writer.records[log.id].offset == log.end)
        found = await other.find(SLOT)
        assert found is not None
        assert found.log.id == log.id
        own.finish(log, Outcome.DONE)
        assert await sealed(log) is Outcome.DONE
        assert await sealed(found.log) is Outcome.DONE
        assert found.log.span(0, 9) == b"data: 1\n\n"
    finally:
        await own.aclose()
        await other.aclose()


async def test_sentinel_tells_where_the_primary_is(
    valkey: Valkey, start_sentinel: Callable[..., int]
) -> None:
    port = start_sentinel(valkey)
    await answers(port)
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/primary/0"
    await check_two_workers(Settings(redis_url=url, redis_timeout=3))


async def test_sentinel_and_its_primary_have_each_a_password_of_their_own(
    valkey_binary: str, tmp_path: Path, start_sentinel: Callable[..., int]
) -> None:
    primary = Valkey(valkey_binary, tmp_path / "primary", password="of the/primary+")
    primary.start()
    try:
        port = start_sentinel(
            primary,
            'sentinel auth-pass primary "of the/primary+"',
            'requirepass "of the/Sentinel+&%41"',
            "user asker on >of-its-own allcommands allchannels",
        )
        await answers(port, password="of the/Sentinel+&%41")
        at = f"redis+sentinel://:of%20the%2Fprimary+@127.0.0.1:{free_port()},127.0.0.1:{port}/primary/0"
        for own in (
            "sentinel_password=of%20the%2FSentinel%2B%26%2541",
            "sentinel_username=asker&client_name=somebody&sentinel_password=of-its-own",
        ):
            await check_two_workers(Settings(redis_url=f"{at}?{own}", redis_timeout=3))
    finally:
        primary.stop()


@pytest.mark.parametrize(
    "own", ["", "?sentinel_password=wr0ng", "?sentinel_username=x&sentinel_password=wr0ng"]
)
async def test_a_sentinel_that_refuses_its_password_says_so_and_the_password_is_not_told(
    own: str, valkey: Valkey, start_sentinel: Callable[..., int]
) -> None:
    port = start_sentinel(valkey, "requirepass of-the-sentinel")
    await answers(port, password="of-the-sentinel")
    settings = Settings(redis_url=f"redis+sentinel://127.0.0.1:{port}/primary{own}")
    with pytest.raises(ConnectionError, match="no Sentinel names the primary") as caught:
        await connection_factory(settings, None)()
    assert "invalid username-password pair" in str(caught.value) or "uthentication" in str(caught.value)
    assert "wr0ng" not in "".join(traceback.format_exception(caught.value))


async def test_one_sentinel_that_refuses_does_not_keep_others_from_being_asked(
    valkey: Valkey, start_sentinel: Callable[..., int]
) -> None:
    refusing = start_sentinel(valkey, "user default on nopass -@all +ping")
    port = start_sentinel(valkey)
    await answers(port)
    url = f"redis+sentinel://127.0.0.1:{refusing},127.0.0.1:{port}/primary"
    await check_two_workers(Settings(redis_url=url, redis_timeout=3))


async def test_a_client_of_the_user_s_is_used_for_its_connections_and_left_open(valkey: Valkey) -> None:
    client = Redis(port=valkey.port, decode_responses=True, protocol=3)
    try:
        await check_two_workers(Settings(redis_timeout=3), client)
        assert await client.ping()
    finally:
        await client.aclose()


async def test_a_connection_that_comes_although_its_opening_was_cancelled_is_closed(valkey: Valkey) -> None:
    connect = connection_factory(Settings(redis_url=valkey.url), None)
    opened: list[AbstractConnection] = []

    async def connect_all_the_same() -> AbstractConnection:
        with contextlib.suppress(asyncio.CancelledError):  # as asyncio.wait_for may before Python 3.12
            await asyncio.Event().wait()
        opened.append(await connect())
        return opened[0]

    link = Link(connect_all_the_same, patience=3)
    opening = asyncio.ensure_future(link.open())
    await wait_until(lambda: "OPENING" in repr(link))
    link.close()
    with pytest.raises(ConnectionLostError):
        await asyncio.wait_for(opening, 5)
    await wait_until(lambda: opened and not opened[0].is_connected)
    assert link.connection is None


async def test_a_connection_is_closed_with_its_loop_even_if_that_ends_in_the_turn_in_which_it_was_opened(
    valkey: Valkey,
) -> None:
    connect = connection_factory(Settings(redis_url=valkey.url), None)
    own = asyncio.current_task()
    opened: list[AbstractConnection] = []

    def end() -> None:
        """What a loop does that ends."""
        for task in asyncio.all_tasks() - {own}:
            task.cancel()

    async def connect_and_end() -> AbstractConnection:
        opened.append(await connect())
        asyncio.get_running_loop().call_soon(end)
        return opened[0]

    link = Link(connect_and_end, patience=3)
    opening = asyncio.ensure_future(link.open())
    await asyncio.wait([opening])
    await wait_until(lambda: opened and not opened[0].is_connected)
    assert link.connection is None
    link.close()
