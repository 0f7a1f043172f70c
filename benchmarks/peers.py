"""What the peers need, made on demand: a Python environment and a folder of npm packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

from .process import ROOT

NODE_FOLDER = ROOT / "benchmarks" / "apps" / "node"
_ENV = ROOT / "benchmarks" / ".env"

_PEERS = ("fastapi-resumable-stream==0.2.1", "assistant-stream==0.0.36")
_SHARED = ("uvicorn", "uvloop", "httptools", "starlette", "fastapi", "redis", "hiredis")
"""In the versions that our own app runs with."""


class UnavailableError(Exception):
    """A peer cannot run on this machine."""


def python() -> str:
    """The interpreter that runs the peers from PyPI. Raises `UnavailableError`."""
    interpreter = _ENV / "bin" / "python"
    wanted = "\n".join([*(f"{name}=={version(name)}" for name in _SHARED), *_PEERS, sys.version])
    stamp = _ENV / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(interpreter)
    print("making benchmarks/.env for the peers from PyPI (once)", file=sys.stderr)
    venv.create(_ENV, clear=True, with_pip=True)
    requirements = wanted.split("\n")[: -len(sys.version.split("\n"))]
    _run([str(interpreter), "-m", "pip", "install", "--quiet", *requirements])
    stamp.write_text(wanted)
    return str(interpreter)


def node() -> str:
    """The node that runs the peer from npm, installed. Raises `UnavailableError`."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        raise UnavailableError("no node with npm found")
    if not (NODE_FOLDER / "node_modules" / "resumable-stream").is_dir():
        print("installing the npm packages of the peer (once)", file=sys.stderr)
        _run(
            [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=NODE_FOLDER,
        )
    return found


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command[:4])} …: {done.stderr.strip()[-500:]}")
