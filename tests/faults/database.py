"""The Redis under test: a real server that can be killed, frozen, emptied and made to refuse."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from testkit.valkey import Valkey
from testkit.wait import wait_until

ADMIN_TIMEOUT = 15.0


class Database:
    """One server on one port, with its data on disk, so that a restart can keep or lose it."""

    def __init__(self, binary: str, directory: Path) -> None:
        # What was acknowledged has been written before, so that it survives the process, if not the machine.
        arguments = ["--appendfsync", "no", "--repl-diskless-sync", "no"]
        self._server = Valkey(binary, directory, appendonly=True, arguments=arguments)
        self.port = self._server.port
        self._admin = Redis(port=self.port, socket_timeout=ADMIN_TIMEOUT, decode_responses=True)

    async def start(self) -> None:
        self._server.launch()
        await wait_until(self._answers, timeout=15, what="Redis to answer")

    async def stop(self) -> None:
        self._server.stop()
        await self._admin.connection_pool.disconnect()

    async def aclose(self) -> None:
        await self.stop()
        await self._admin.aclose()

    async def restart(self, *, keep_data: bool, after: float) -> None:
        """Kill the server; start it again on the same port."""
        await self.stop()
        if not keep_data:
            shutil.rmtree(self._server.data)
        await asyncio.sleep(after)
        await self.start()

    def freeze(self) -> None:
        self._server.pause()

    def thaw(self) -> None:
        if self._server.process is not None:
            self._server.cont()

    async def command(self, *words: str | int) -> Any:
        return await self._admin.execute_command(*words)

    async def keys_without_ttl(self) -> list[str]:
        found: list[str] = []
        async for key in self._admin.scan_iter(count=1000):
            if await self._admin.ttl(key) == -1:
                found.append(key)
        return found

    async def _answers(self) -> bool:
        self._server.check_running()
        try:
            return bool(await self._admin.ping())
        except RedisError:
            return False
