"""How connections to Redis are opened: redis-py does it, so that all it knows of that holds here too."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from ..errors import ConfigurationError
from ..settings import Settings
from .wire import Connect

_OURS: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "retry_on_error": [],
}


def connection_factory(settings: Settings, redis: Redis | RedisCluster | None) -> Connect:
    """What opens connections as the user's client or URL says, but with time-outs and retries of ours.

    Raises `ConfigurationError`.
    """
    timeout = max(settings.lease / 3, settings.redis_timeout)
    if redis is None:
        assert settings.redis_url is not None
        if settings.redis_url.lower().startswith("redis+sentinel://"):
            return _by_sentinel(settings.redis_url, timeout)
        redis = Redis.from_url(settings.redis_url)  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(redis, Redis):
        raise ConfigurationError(f"redis={redis!r}: not available in this version; give a Redis")
    pool = cast("Any", redis).connection_pool
    # What redis-py's own pool attaches for maintenance notices needs version 3 of the protocol.
    theirs = {name: value for name, value in pool.connection_kwargs.items() if "maint" not in name}

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
    addresses = [_address(host) for host in hosts.split(",")]
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


def _address(host: str) -> tuple[str, int]:
    """`host`, `host:port` or `[ipv6]:port`; 26379 is the port that Sentinel has by default."""
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or 26379


async def _connected(kind: Any, options: dict[str, Any], timeout: float) -> AbstractConnection:
    ours = {**_OURS, "socket_timeout": timeout, "socket_connect_timeout": timeout}
    connection = kind(**{**options, **ours, "retry": Retry(NoBackoff(), 0)})
    try:
        await connection.connect()
    except RuntimeError as error:  # uvloop's word for a connection that was reset in the handshake
        raise ConnectionResetError(str(error)) from error
    return connection
