"""Child processes of the benchmark, and where their logs go."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from testkit.process import Process
from testkit.wait import wait_until_sync

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "benchmarks" / ".last"
"""Logs of child processes, and what incomplete runs write."""


def start(name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
    """A process that never outlives the benchmark; what it writes goes to a file with its name."""
    WORK.mkdir(exist_ok=True)
    return Process(command, log=WORK / f"{name}.log", env={**os.environ, **(env or {})}, cwd=ROOT)


def wait_ready(process: Process, answers: Callable[[], bool], *, timeout: float = 30) -> None:
    """Raises `RuntimeError`, with what the process wrote, if it ends or does not get ready."""

    def ready() -> bool:
        if not process.running:
            raise RuntimeError(f"{process.log.name}: ended: {process.tail()}")
        return answers()

    try:
        wait_until_sync(ready, timeout=timeout, what=f"{process.log.name} to be ready")
    except AssertionError as error:
        raise RuntimeError(f"{error}: {process.tail()}") from None
