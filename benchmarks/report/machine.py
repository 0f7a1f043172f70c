"""Where the figures were taken."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from ..valkey import binary


def machine() -> str:
    """One line: the processor, and the versions of all that takes part."""
    names = ("uvicorn", "httptools", "uvloop", "starlette", "redis", "hiredis")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    parts = [
        f"{os.cpu_count()} cores of {_processor()}",
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        packages,
        _first_line([binary(), "--version"]).split(" sha=")[0],
    ]
    node = shutil.which("node")
    if node is not None:
        parts.append(f"node {_first_line([node, '--version']).lstrip('v')}")
    return "; ".join(parts)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
