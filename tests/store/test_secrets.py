"""No password or user name of Redis comes to light: in no error, its chain, its traceback, nor in the log."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis.asyncio import Redis, RedisCluster
from testkit.logs import key_named
from testkit.process import free_port
from testkit.valkey import Valkey

from resumable_asgi import Settings
from resumable_asgi.errors import ConfigurationError, StoreUnavailableError
from resumable_asgi.store.open import open_store
from resumable_asgi.stream.store import Store

USER, SECRET = "name-of-somebody", "s3cret-9d8f"
SLOT = key_named("e" * 32)


def told(error: BaseException) -> str:
    """All that an error says of itself and of those before it."""
    texts = ["".join(traceback.format_exception(error))]
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        each = rest.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            texts += [str(each), repr(each), repr(each.args), *getattr(each, "__notes__", [])]
            rest += [each.__cause__, each.__context__]
    return "\n".join(texts)


def silent(text: str) -> bool:
    return SECRET not in text and quote(SECRET, safe="") not in text and USER not in text


MALFORMED = [
    # a password that is not percent-encoded
    "redis://:{s}/x@localhost",
    "redis://:12/{s}@localhost:6379/0",
    "redis://:12?{s}@localhost",
    "redis://:12#{s}@localhost",
    "redis://{s}#x@localhost",
    "redis://{s}?x@localhost",
    "redis://{s}/x@localhost",
    "redis://{u}:{s}[@localhost",
    "redis://:[{s}]@localhost",
    "redis://:{s}\u2100@localhost",
    "rediss://:{s}/x@localhost",
    "unix://:12/{s}@/run/redis.sock",
    "unix://:{s}[@/run/redis.sock",
    "unix://:{s}\u2100@/run/redis.sock",
    "redis+sentinel://:12/{s}@localhost/main",
    "redis+sentinel://:12?{s}@localhost/main",
    "redis+sentinel://:12#{s}@localhost/main",
    "redis+sentinel://:{s}[@localhost/main",
    "redis+sentinel://:[{s}]@localhost/main",
    "redis+sentinel://:{s}\u2100@localhost/main",
    "redis+cluster://:12/{s}@localhost",
    "redis+cluster://:12?{s}@localhost",
    "redis+cluster://:12#{s}@localhost",
    "redis+cluster://:{s}[@localhost",
    "redis+cluster://:[{s}]@localhost",
    "redis+cluster://:{s}\u2100@localhost",
    # hosts, ports and databases
    "redis://{u}:{s}@localhost:port",
    "redis://{u}:{s}@localhost:99999",
    "redis://localhost:{s}",
    "redis://localhost/{s}",
    "redis://{u}:{s}@localhost/zero",
    "redis://{u}:{s}@[::1",
    "redis://{u}:{s}@[x]",
    "unix://{u}:{s}@",
    "redis+sentinel://{u}:{s}@one",
    "redis+sentinel://{u}:{s}@one:x/main",
    "redis+sentinel://{u}:{s}@one/main/{s}",
    "redis+cluster://{u}:{s}@one:0",
    "redis+cluster://{u}:{s}@one/1",
    # options
    "redis://{u}:{s}@localhost?db=zero",
    "redis://{u}:{s}@localhost?db={s}",
    "redis://{u}:{s}@localhost?unknown=1",
    "redis://localhost?{s}=1",
    "redis://localhost?password={s}&socket_timeout=soon",
    "redis://localhost?username={u}&password={s}&nonsense=1",
    "redis://localhost?ssl_password={s}",
    "redis://localhost?parser_class={s}",
    "redis://localhost?password={s}&health_check_interval=x",
    "redis://localhost?max_connections={s}",
    "redis://localhost?timeout={s}",
    "redis://localhost?password={s}&credential_provider=x",
    "rediss://{u}:{s}@localhost?ssl_cert_reqs={s}",
    "unix://{u}:{s}@/run/redis.sock?db=x",
    "unix:///run/redis.sock?password={s}&unknown=1",
    "redis+sentinel://{u}:{s}@one/main?db={s}",
    "redis+sentinel://{u}:{s}@one/main?unknown={s}",
    "redis+sentinel://{u}:{s}@one/main?{s}=1",
    "redis+sentinel://one/main?sentinel_pasword={s}",
    "redis+sentinel://one/main?sentinel_username={u}&sentinel_password=",
    "redis+sentinel://one/main?sentinel_password={s}&sentinel_password={s}",
    "redis://localhost?sentinel_password={s}",
    "redis+cluster://{u}:{s}@one?db=1",
    "redis+cluster://{u}:{s}@one?password={s}",
    # schemes
    "http://{u}:{s}@localhost",
    "{u}:{s}@localhost",
    "memory://{s}",
    "redis:{s}",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_refused_without_what_it_holds(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(Settings(redis_url=url.format(s=SECRET, u=USER)), None)
    assert str(caught.value).startswith("redis_url=")
    assert silent(told(caught.value))
    assert silent(caplog.text)


CLIENTS: list[Callable[[], Any]] = [
    lambda: redis.Redis(username=USER, password=SECRET),
    lambda: redis.Redis.from_url(f"redis://{USER}:{SECRET}@localhost"),
    lambda: redis.asyncio.ConnectionPool(username=USER, password=SECRET),
    lambda: f"redis://{USER}:{SECRET}@localhost",
]


@pytest.mark.parametrize("make", CLIENTS)
def test_a_client_of_another_kind_is_refused_without_its_password(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"redis=.*redis\.asyncio") as caught:
        open_store(Settings(), make())
    assert silent(told(caught.value))


@pytest.fixture
async def store_of() -> AsyncIterator[Callable[..., Store]]:
    opened: list[Store] = []

    def make(url: str | None, client: Any = None) -> Store:
        made = open_store(Settings(redis_url=url, redis_timeout=1), client)
        assert made is not None
        opened.append(made())
        return opened[-1]

    yield make
    for store in opened:
        await store.aclose()


async def check_silence(store: Store, caplog: pytest.LogCaptureFixture) -> str:
    """Start and ask, which fails; returns all that was said."""
    await store.start()
    with pytest.raises(StoreUnavailableError) as caught:
        await store.find(SLOT)
    text = told(caught.value) + caplog.text
    assert silent(text)
    assert "Redis" in caplog.text
    return text


@pytest.fixture
async def no_auth() -> AsyncIterator[int]:
    """The port of a server that does not know AUTH, and answers with what it was sent, as Redis does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2].decode())
                arguments = " ".join(f"'{word}'" for word in words[1:])
                said = f"-ERR unknown command '{words[0]}', with args beginning with: {arguments}\r\n"
                writer.write(said.encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://{u}:{s}@127.0.0.1:{port}",
        "redis://:{s}@127.0.0.1:{port}",
        "redis+sentinel://{u}:{s}@127.0.0.1:{port}/main?sentinel_username={u}&sentinel_password={s}",
        "redis+cluster://{u}:{s}@127.0.0.1:{port}",
    ],
)
@pytest.mark.parametrize("answers", [True, False])
async def test_a_server_that_cannot_be_used_does_not_bring_the_password_to_light(
    url: str,
    answers: bool,
    no_auth: int,
    store_of: Callable[..., Store],
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = no_auth if answers else free_port()
    store = store_of(url.format(s=SECRET, u=USER, port=port))
    assert f"127.0.0.1:{port}" in await check_silence(store, caplog) or answers


async def test_a_wrong_password_is_named_as_the_trouble_and_not_told(
    valkey: Valkey, store_of: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://{USER}:{SECRET}@127.0.0.1:{valkey.port}"
    assert "invalid username-password pair" in await check_silence(store_of(url), caplog)


async def test_options_that_only_fail_at_a_connection_are_an_outage_without_a_password(
    valkey: Valkey, store_of: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://:{SECRET}@127.0.0.1:{valkey.port}?encoding={SECRET}"
    await check_silence(store_of(url), caplog)


@pytest.mark.parametrize("kind", [Redis, RedisCluster])
async def test_a_client_of_the_user_s_that_cannot_connect_does_not_bring_its_password_to_light(
    kind: Any, no_auth: int, store_of: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    client = kind(host="127.0.0.1", port=no_auth, username=USER, password=SECRET)
    await check_silence(store_of(None, client), caplog)
