"""`python -m tests.faults`: the long run."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import tempfile
from pathlib import Path

from testkit.valkey import find_valkey

from . import report
from .fleet import WorkerSettings
from .kinds import KINDS
from .session import Options, Session


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="by default a random one, which is printed")
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=3.0, help="streams a second")
    parser.add_argument("--pause", type=float, default=3.5, help="mean seconds between faults")
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), help="only these faults")
    parser.add_argument("--gentle", action="store_true", help="no outage as long as the lease")
    parser.add_argument("--keep", type=Path, help="keep journals and logs in this new directory")
    arguments = parser.parse_args()
    binary = find_valkey()
    if binary is None:
        parser.error("a Valkey or Redis server is needed; REDIS_SERVER=/path/to/redis-server names one")
    options = Options(
        seed=secrets.randbelow(10**6) if arguments.seed is None else arguments.seed,
        seconds=60 * arguments.minutes,
        workers=arguments.workers,
        rate=arguments.rate,
        pause=arguments.pause,
        kinds=arguments.only,
        gentle=arguments.gentle,
        worker=WorkerSettings(lease=arguments.lease),
    )
    print(f"seed {options.seed}", flush=True)
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True)
        return _run(options, binary, arguments.keep)
    with tempfile.TemporaryDirectory() as directory:
        return _run(options, binary, Path(directory))


def _run(options: Options, binary: str, directory: Path) -> int:
    result = asyncio.run(Session(options, binary, directory).run())
    print(report.text(result))
    return 0 if report.passed(result) else 1
