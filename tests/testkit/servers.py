"""Real ASGI servers as child processes."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from .process import Process, free_port, python_path
from .wait import wait_until_sync

TESTS = Path(__file__).resolve().parent.parent
Kind = Literal["uvicorn", "hypercorn", "granian"]


def command(
    kind: Kind, app: str, port: int, *, workers: int, http_implementation: str, extra: Sequence[str]
) -> list[str]:
    """The command line that serves `app` on a port."""
    match kind:
        case "uvicorn":
            arguments = ["--app-dir", str(TESTS), "--host", "127.0.0.1", "--port", str(port)]
            arguments += ["--http", http_implementation, "--workers", str(workers), "--no-access-log"]
        case "hypercorn":
            arguments = ["--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--error-logfile", "-"]
        case "granian":
            arguments = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
            arguments += ["--workers", str(workers), "--working-dir", str(TESTS)]
    return [sys.executable, "-m", kind, *arguments, *extra, app]


class Server:
    """One server, accepting from the constructor's `wait_ready()` on."""

    def __init__(
        self,
        directory: Path,
        *,
        kind: Kind = "uvicorn",
        app: str = "testkit.apps:app",
        env: Mapping[str, str] | None = None,
        workers: int = 1,
        http_implementation: Literal["h11", "httptools"] = "httptools",
        extra: Sequence[str] = (),
        ready_path: str = "/control/worker",
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self.workers = workers
        self._ready_path = ready_path
        inherited = {
            k: v for k, v in os.environ.items() if k != "REDIS_URL" and not k.startswith("RESUMABLE_")
        }
        self.process = Process(
            command(
                kind, app, self.port, workers=workers, http_implementation=http_implementation, extra=extra
            ),
            log=directory / f"{kind}-{self.port}.log",
            env={**inherited, "PYTHONPATH": python_path(TESTS), "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=TESTS,
        )
        self._mark = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> Server:
        """Wait until every worker has answered; the answer's body tells them apart."""
        seen: set[bytes] = set()

        def answered() -> bool:
            if not self.process.running:
                raise RuntimeError(
                    f"{self.kind} ended with {self.process.returncode}:\n{self.process.tail()}"
                )
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            try:
                connection.request("GET", self._ready_path)
                seen.add(connection.getresponse().read())
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()
            return len(seen) >= self.workers

        try:
            wait_until_sync(answered, timeout=20, what=f"{self.kind} to answer")
        except AssertionError as error:
            error.add_note(self.process.tail())
            raise
        return self

    def terminate(self, timeout: float = 15) -> int:
        """Ask the server to shut down as a process manager does, and return its exit status."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End the server and its workers without asking."""
        self.process.kill()

    def mark(self) -> None:
        """What is written from now on belongs to the next test."""
        self._mark = self.process.log.stat().st_size

    def written(self) -> str:
        """What the server wrote since the mark."""
        return self.process.output(self._mark)
