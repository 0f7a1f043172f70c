"""How connections to Redis are opened: redis-py does it, so that all it knows of that holds here too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from ..errors import ConfigurationError
from ..settings import Settings
from .topology import Address, Topology
from .wire import Connect

_OURS: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "retry_on_error": [],
}


def connection_factory(settings: Settings, redis: Redis | None) -> Connect:
    """What opens connections as the user's client or URL says, but with time-outs and retries of ours.

    Raises `ConfigurationError`.
    """
    timeout = _timeout(settings)
    if redis is None:
        assert settings.redis_url is not None
        if settings.redis_url.lower().startswith("redis+sentinel://"):
            return _by_sentinel(settings.redis_url, timeout)
        redis = Redis.from_url(settings.redis_url)  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(redis, Redis):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"redis={redis!r}: give a Redis or RedisCluster of redis.asyncio")
    pool = cast("Any", redis).connection_pool
    theirs = _plain(pool.connection_kwargs)

    async def connect() -> AbstractConnection:
        return await _connected(pool.connection_class, theirs, timeout)

    return connect


def _by_sentinel(url: str, timeout: float) -> Connect:
    """Ask for the primary at each connection: after a failover it is another."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    at = f"{credentials}@" if credentials else ""
    options = cast("dict[str, Any]", parse_url(f"redis://{at}primary/{db or 0}?{parts.query}"))
    addresses = [_address(host, 26379) for host in hosts.split(",")]
    patience = timeout / (len(addresses) + 1)  # all but one may be down, and the primary is yet to be reached

    async def connect() -> AbstractConnection:
        asking = {"socket_timeout": patience, "socket_connect_timeout": patience}
        sentinel: Any = Sentinel(addresses, sentinel_kwargs={**asking, "retry": Retry(NoBackoff(), 0)})
        try:
            options["host"], options["port"] = await sentinel.discover_master(service)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return await _connected(Connection, options, timeout)

    return connect


def topology_of(settings: Settings, redis: RedisCluster | None) -> Callable[[], Topology]:
    """What makes the topology of the Cluster that the user's client or `redis+cluster://` names."""
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
        credentials, _, hosts = parts.netloc.rpartition("@")
        at = f"{credentials}@" if credentials else ""
        kind, theirs, remap = Connection, cast("dict[str, Any]", parse_url(f"redis://{at}node")), None
        seeds = [_address(host, 6379) for host in hosts.split(",")]

    async def connect(address: Address, patience: float) -> AbstractConnection:
        host, port = address
        return await _connected(kind, {**theirs, "host": host, "port": port}, patience)

    return lambda: Topology(seeds, connect, timeout, remap)


def _timeout(settings: Settings) -> float:
    return max(settings.lease / 3, settings.redis_timeout)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Less what redis-py attaches for maintenance notices, which need version 3 of the protocol."""
    return {name: value for name, value in options.items() if "maint" not in name}


def _address(host: str, default_port: int) -> Address:
    """`host`, `host:port` or `[ipv6]:port`."""
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or default_port


async def _connected(kind: Any, options: dict[str, Any], timeout: float) -> AbstractConnection:
    ours = {**_OURS, "socket_timeout": timeout, "socket_connect_timeout": timeout}
    connection = kind(**{**options, **ours, "retry": Retry(NoBackoff(), 0)})
    try:
        await connection.connect()
    except RuntimeError as error:  # uvloop's word for a connection that was reset in the handshake
        raise ConnectionResetError(str(error)) from error
    return connection
