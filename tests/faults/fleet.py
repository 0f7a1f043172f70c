"""The worker processes: killed, frozen and brought back, each behind a proxy of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from testkit.client import fetch
from testkit.process import Process, free_port, python_path
from testkit.wait import wait_until

from .ledger import Incarnation, Ledger, Span
from .proxy import Proxy

TESTS = Path(__file__).resolve().parent.parent
GRACEFUL = 3
"""Seconds that uvicorn waits for open connections on SIGTERM."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What the middleware in the workers is configured with."""

    lease: float = 2.0
    redis_timeout: float = 0.3
    drain_timeout: float = 2.0
    keepalive: float = 1.0
    retention: float = 120.0

    def to_json(self, redis_url: str) -> str:
        fields = dataclasses.asdict(self)
        route = {name: fields.pop(name) for name in ("keepalive", "retention")}
        return json.dumps({**fields, "route": route, "redis_url": redis_url})


class Worker:
    """One port, served by one process after the other."""

    def __init__(
        self, index: int, directory: Path, settings: WorkerSettings, proxy: Proxy, ledger: Ledger
    ) -> None:
        self.index = index
        self.port = free_port()
        self.proxy = proxy
        self.busy = asyncio.Lock()
        """Held by the fault that is being done to it."""
        self.latest: Incarnation | None = None
        self.ready = False
        self.open_at_start: dict[str, Any] = {}
        self.open_now = ""
        self._directory = directory
        self._settings = settings
        self._ledger = ledger
        self._count = 0
        self._process: Process | None = None

    async def start(self) -> None:
        """Start a new process and wait until it serves."""
        self._count += 1
        name = f"w{self.index}.{self._count}"
        http = "h11" if (self.index + self._count) % 2 else "httptools"
        command = [sys.executable, "-m", "uvicorn", "faults.app:app", "--host", "127.0.0.1", "--port"]
        command += [str(self.port), "--http", http, "--no-access-log", "--log-level", "warning"]
        command += ["--timeout-graceful-shutdown", str(GRACEFUL)]
        env = {
            **os.environ,
            "PYTHONPATH": python_path(TESTS),
            "PYTHONUNBUFFERED": "1",
            "FAULTS_DIR": str(self._directory),
            "FAULTS_INCARNATION": name,
            "FAULTS_SETTINGS": self._settings.to_json(f"redis://127.0.0.1:{self.proxy.port}/0"),
        }
        log = self._directory / "logs" / name
        self._process = process = Process(command, log=log, env=env, cwd=self._directory)
        self.latest = Incarnation(self.index, name, process.pid, time.monotonic())
        self._ledger.incarnations[name] = self.latest

        async def serves() -> bool:
            if not process.running:
                raise RuntimeError(f"{name} ended: {process.tail()}")
            try:
                self.open_at_start = await self.health()
            except (OSError, EOFError):
                return False
            return True

        await wait_until(serves, timeout=30, what=f"{name} to serve")
        self.ready = True
        self._ledger.note(f"{name} serves on {self.port}")

    async def health(self) -> dict[str, Any]:
        return await (await fetch(self.port, "GET", "/health")).json()

    def kill(self) -> None:
        """SIGKILL, from one moment to the next."""
        assert self._process is not None
        if self.latest is not None:
            self.latest.killed = min(self.latest.killed, time.monotonic())
        self._process.kill()
        self._gone()

    async def terminate(self) -> bool:
        """SIGTERM; whether the process ended by itself in the time that its settings allow it."""
        assert self._process is not None
        assert self.latest is not None
        self.ready = False
        self.latest.terminated = time.monotonic()
        self._process.signal(signal.SIGTERM)
        process, allowed = self._process, GRACEFUL + self._settings.drain_timeout + 5
        try:
            await wait_until(lambda: not process.running, timeout=allowed, what="the end after SIGTERM")
        except AssertionError:
            return False
        finally:
            process.kill()
            self._gone()
        return True

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and later SIGCONT."""
        assert self._process is not None
        assert self.latest is not None
        span = Span(time.monotonic())
        self.latest.frozen.append(span)
        self._process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._process.signal(signal.SIGCONT)
            span.end = time.monotonic()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()

    def log(self) -> str:
        return "" if self._process is None else self._process.tail()

    def _gone(self) -> None:
        self.ready = False
        if self.latest is not None:
            self.latest.died = time.monotonic()
            self._ledger.note(f"{self.latest.name} is gone")
