"""A child process that never outlives its test, with everything it writes kept in a file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TAIL = 4000


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python_path(*folders: Path) -> str:
    """PYTHONPATH for a child process: these folders before those of this process."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def _die_with_parent() -> None:
    """Also when the tests are killed, and no teardown runs; where the system has a way to ask for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Process:
    """A command in a process group of its own."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        self.command = list(command)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone; one that has ended is no error."""
        if self.running:
            self._popen.send_signal(number)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
            os.killpg(self.pid, number)

    def wait(self, timeout: float = 10) -> int:
        """Wait for the process to end by itself."""
        return self._popen.wait(timeout)

    def kill(self) -> None:
        """Kill the whole group, stopped members too, and wait for its leader to be gone."""
        self.signal_group(signal.SIGKILL)
        self._popen.wait(10)

    def output(self, start: int = 0) -> str:
        """What the process wrote, from a byte position on."""
        with self.log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def tail(self) -> str:
        """The last of what it wrote, to be shown when a test fails."""
        return self.output()[-TAIL:]
