"""Runs `tests/aisdk/client.mjs`, the AI SDK's own client code, one version of it at a time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

AISDK = Path(__file__).resolve().parent.parent / "aisdk"
INSTALL = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--engine-strict=false"]
TIMEOUT = 20.0


def install(version: str) -> Path:
    """The directory of a version, with the pinned packages in it; the npm registry is asked only once."""
    directory = AISDK / version
    pins: dict[str, str] = json.loads((directory / "package.json").read_text())["dependencies"]
    if all(_installed(directory, name) == pin for name, pin in pins.items()):
        return directory
    done = subprocess.run(INSTALL, cwd=directory, capture_output=True, text=True, timeout=300)
    if done.returncode:
        reason = f"npm could not install {pins}: {done.stderr[-1000:]}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return directory


def _installed(directory: Path, name: str) -> str | None:
    manifest = directory / "node_modules" / name / "package.json"
    return json.loads(manifest.read_text())["version"] if manifest.exists() else None


class Page:
    """One run of the client; its options are described at its head."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def receiving(self) -> None:
        """Wait until the first bytes of the page's next answer have come."""
        await self._step("receiving")

    async def cut(self) -> None:
        """Wait until the page has lost its connection."""
        await self._step("cut")

    def reconnect(self) -> None:
        """Let the page go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def report(self) -> dict[str, Any]:
        """What the page has in the end."""
        return await self._step("report")

    async def _step(self, name: str) -> dict[str, Any]:
        """The next step of that name; no other than `receiving` may be passed over for it."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            while line := await self._process.stdout.readline():
                step: dict[str, Any] = json.loads(line)
                if step["step"] == name:
                    return step
                assert step["step"] == "receiving", (name, step)
            raise AssertionError((await self._process.stderr.read()).decode())


@asynccontextmanager
async def page(node: str, directory: Path, **options: Any) -> AsyncIterator[Page]:
    """Start the client, and end it whatever happens."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        node, AISDK / "client.mjs", directory, json.dumps(options), stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        yield Page(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
