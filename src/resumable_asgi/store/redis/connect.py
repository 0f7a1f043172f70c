"""Opens connections to Redis with redis-py, so that all its ways to connect work here too.

No error that leaves this module, and no context of one, contains a user name or a password. Some errors of
redis-py contain its arguments, and a server without AUTH quotes the command that it received.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ...errors import ConfigurationError
from ...settings import Settings
from .connection import Connect
from .topology import Address, Topology

_OURS: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "retry_on_error": [],
}


_FAILURES = (RedisError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What redis-py raises when it cannot connect or an option is wrong. uvloop raises RuntimeError if a
connection is reset during the handshake."""


def connection_factory(settings: Settings, redis: Redis | None) -> Connect:
    """A function that opens connections as the user's client or URL says, but with our time-outs and retries.

    Raises `ConfigurationError`.
    """
    timeout = _timeout(settings)
    if redis is None:
        assert settings.redis_url is not None
        if settings.redis_url.lower().startswith("redis+sentinel://"):
            return _by_sentinel(settings.redis_url, timeout)
        kind, theirs = _options_of(settings.redis_url)
    elif isinstance(redis, Redis):  # pyright: ignore[reportUnnecessaryIsInstance]
        pool = cast("Any", redis).connection_pool
        kind, theirs = pool.connection_class, _plain(pool.connection_kwargs)
    else:
        named = f"{type(redis).__module__}.{type(redis).__qualname__}"
        raise ConfigurationError(f"redis=<{named}>: give a Redis or RedisCluster of redis.asyncio")

    async def connect() -> AbstractConnection:
        return await _connected(kind, theirs, timeout)

    return connect


def _by_sentinel(url: str, timeout: float) -> Connect:
    """Ask a Sentinel for the primary before each connection, because a failover changes it."""
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    query = parse_qsl(parts.query)
    own = {name.removeprefix("sentinel_"): value for name, value in query if name.startswith("sentinel_")}
    rest = urlencode([item for item in query if not item[0].startswith("sentinel_")])
    kind, options = _options_of(f"redis://{credentials}{at}primary/{db or 0}?{rest}", shown="redis+sentinel")
    addresses = [_address(host, 26379) for host in hosts.split(",")]
    patience = timeout / (len(addresses) + 1)  # time for each Sentinel and for the primary
    asking = {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": Retry(NoBackoff(), 0)}
    own = {**own, **asking, "protocol": 2}

    async def connect() -> AbstractConnection:
        host, port = await _primary(addresses, own, service)
        return await _connected(kind, {**options, "host": host, "port": port}, timeout)

    return connect


async def _primary(addresses: list[Address], options: dict[str, Any], service: str) -> Address:
    """The primary's address, from the first Sentinel that knows it. Raises `ConnectionError`."""
    sentinel: Any = Sentinel(addresses, sentinel_kwargs=options)
    errors: list[str] = []
    try:
        for (host, port), client in zip(addresses, sentinel.sentinels, strict=True):
            try:
                known = (await client.sentinel_masters()).get(service)
            except _FAILURES as error:
                errors.append(f"{host}:{port}: {_said(error, options)}")
                continue
            if known is not None and sentinel.check_master_state(known, service):
                return known["ip"], known["port"]
            errors.append(f"{host}:{port}: knows no running primary {service!r}")
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
    raise ConnectionError(f"no Sentinel names the primary ({'; '.join(errors)})")


def topology_of(settings: Settings, redis: RedisCluster | None) -> Callable[[], Topology]:
    """A function that makes the topology of the Cluster that the user's client or URL names."""
    timeout = _timeout(settings)
    if redis is not None:
        manager = cast("Any", redis).nodes_manager
        nodes: list[Any] = list(manager.startup_nodes.values())
        kind, theirs, remap = (
            nodes[0].connection_class,
            _plain(nodes[0].connection_kwargs),
            manager.address_remap,
        )
        seeds = [(node.host, int(node.port)) for node in nodes]
    else:
        assert settings.redis_url is not None
        parts = urlsplit(settings.redis_url)
        credentials, at, hosts = parts.netloc.rpartition("@")
        kind, theirs = _options_of(f"redis://{credentials}{at}node", shown="redis+cluster")
        remap = None
        seeds = [_address(host, 6379) for host in hosts.split(",")]

    async def connect(address: Address, patience: float) -> AbstractConnection:
        host, port = address
        return await _connected(kind, {**theirs, "host": host, "port": port}, patience)

    return lambda: Topology(seeds, connect, timeout, remap)


def _options_of(url: str, *, shown: str | None = None) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """The connection class and its options for a URL of redis-py's.

    Raises `ConfigurationError`, whose message shows the scheme `shown`.
    """
    wrong = "redis-py does not know an option after '?', or its value"
    try:
        pool = cast("Any", ConnectionPool).from_url(url)
        kind, options = pool.connection_class, _plain(pool.connection_kwargs)
        kind(**options)
    except _FAILURES as error:
        invalid = re.match(r"Invalid value for '\w+'", str(error))  # redis-py's own names
        wrong = invalid[0] if invalid else wrong
    else:
        return kind, options
    scheme = shown or url.partition("://")[0]
    raise ConfigurationError(f"redis_url={scheme}://…: {wrong}; write them as Redis.from_url takes them")


def _timeout(settings: Settings) -> float:
    return max(settings.lease / 3, settings.redis_timeout)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """The options without those for maintenance notices, which need version 3 of the protocol."""
    return {name: value for name, value in options.items() if "maint" not in name}


def _address(host: str, default_port: int) -> Address:
    """`host`, `host:port` or `[ipv6]:port`."""
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or default_port


async def _connected(kind: Any, options: dict[str, Any], timeout: float) -> AbstractConnection:
    """Raises `ConnectionError`."""
    ours = {**_OURS, "socket_timeout": timeout, "socket_connect_timeout": timeout}
    connection = kind(**{**options, **ours, "retry": Retry(NoBackoff(), 0)})
    try:
        await connection.connect()
    except _FAILURES as error:
        said = _said(error, options)
    else:
        return connection
    await connection.disconnect(nowait=True)
    raise ConnectionError(said)


def _said(error: Exception, options: dict[str, Any]) -> str:
    """The text of an error, without secrets."""
    text = str(error).partition(", with args")[0] or type(error).__name__
    for name in ("username", "password"):
        if secret := options.get(name):
            text = re.sub(rf"(?<!\w){re.escape(str(secret))}(?!\w)", "…", text)
    return text
