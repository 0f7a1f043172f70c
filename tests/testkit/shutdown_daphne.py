"""Daphne as a child process: it has neither workers nor a lifespan."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .process import Process, free_port, python_path
from .servers import TESTS, Server


class Daphne(Server):
    """As `Server`, for the one command line that differs in everything."""

    def __init__(
        self,
        directory: Path,
        *,
        app: str = "testkit.apps:app",
        env: Mapping[str, str] | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.kind = "daphne"  # type: ignore[assignment]
        self.port = free_port()
        self.workers = 1
        self._ready_path = "/control/worker"
        inherited = {
            k: v for k, v in os.environ.items() if k != "REDIS_URL" and not k.startswith("RESUMABLE_")
        }
        address = ["-b", "127.0.0.1", "-p", str(self.port)]
        self.process = Process(
            [sys.executable, "-m", "daphne", *address, *extra, app],
            log=directory / f"daphne-{self.port}.log",
            env={**inherited, "PYTHONPATH": python_path(TESTS), "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=TESTS,
        )
        self._mark = 0
