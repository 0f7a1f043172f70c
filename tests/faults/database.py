"""The Redis under test: a real server that can be killed, frozen, emptied and made to refuse."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from testkit.process import Process, free_port
from testkit.wait import wait_until

from .leash import leashed

ADMIN_TIMEOUT = 15.0


class Database:
    """One server on one port, with its data on disk, so that a restart can keep or lose it."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.port = free_port()
        self._binary = binary
        self._directory = directory
        self._process: Process | None = None
        self._admin = Redis(port=self.port, socket_timeout=ADMIN_TIMEOUT, decode_responses=True)

    async def start(self) -> None:
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(data)]
        # What was acknowledged has been written before, so that it survives the process, if not the machine.
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "no", "--repl-diskless-sync", "no"]
        self._process = Process(leashed(command), log=self._directory / "redis.log")
        await wait_until(self._answers, timeout=15, what="Redis to answer")

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
        await self._admin.connection_pool.disconnect()

    async def aclose(self) -> None:
        await self.stop()
        await self._admin.aclose()

    async def restart(self, *, keep_data: bool, after: float) -> None:
        """Kill the server; start it again on the same port."""
        await self.stop()
        if not keep_data:
            shutil.rmtree(self._directory / "data")
        await asyncio.sleep(after)
        await self.start()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.signal_group(signal.SIGCONT)

    async def command(self, *words: str | int) -> Any:
        return await self._admin.execute_command(*words)

    async def keys_without_ttl(self) -> list[str]:
        found: list[str] = []
        async for key in self._admin.scan_iter(count=1000):
            if await self._admin.ttl(key) == -1:
                found.append(key)
        return found

    async def _answers(self) -> bool:
        assert self._process is not None
        if not self._process.running:
            raise RuntimeError(f"Redis ended: {self._process.tail()}")
        try:
            return bool(await self._admin.ping())
        except RedisError:
            return False
