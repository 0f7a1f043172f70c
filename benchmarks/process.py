"""Child processes that never outlive the benchmark."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "benchmarks" / ".last"
"""Logs of child processes, and what incomplete runs write."""


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Process:
    """A command in a process group of its own; what it writes goes to a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        WORK.mkdir(exist_ok=True)
        self._log = WORK / f"{name}.log"
        with self._log.open("wb") as output:
            self._popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.pid = self._popen.pid

    def wait_until(self, ready: Callable[[], bool], *, timeout: float = 30) -> None:
        """Raises `RuntimeError`, with what the process wrote, if it ends or does not get ready."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._log.name}: not ready: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the whole group and wait for its leader to be gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(10)
