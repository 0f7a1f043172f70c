"""The variants that are compared, and servers that run them."""

from __future__ import annotations

import contextlib
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass

from testkit.process import free_port

from . import peers
from .process import start, wait_ready


@dataclass(frozen=True, slots=True)
class Variant:
    """An app under a server. `slow`: it is given fewer events, for it takes so much longer."""

    name: str
    label: str
    uses_redis: bool = False
    slow: bool = False


BARE = Variant("bare", "bare app")
MEMORY = Variant("ours-memory", "resumable-asgi, memory://")
REDIS = Variant("ours-redis", "resumable-asgi, Redis", uses_redis=True)
TEE = Variant("tee", "naive tee: one awaited XADD per chunk", uses_redis=True, slow=True)
FASTAPI = Variant("fastapi-resumable-stream", "fastapi-resumable-stream 0.2.1", uses_redis=True, slow=True)
ASSISTANT = Variant("assistant-stream", "assistant-stream 0.0.36", uses_redis=True, slow=True)
PUSH = Variant("push", "ASGI send alone")
NODE = Variant("node-bare", "node: bare app")
NPM = Variant("npm-resumable-stream", "npm resumable-stream 2.2.13", uses_redis=True)

ALL = (BARE, MEMORY, REDIS, TEE, FASTAPI, ASSISTANT, NODE, NPM)
VARIANTS = {variant.name: variant for variant in (*ALL, PUSH)}


@dataclass(frozen=True, slots=True)
class Server:
    variant: Variant
    pid: int
    port: int


def _command(variant: Variant, port: int, workers: int) -> list[str]:
    if variant in (NODE, NPM):
        return [peers.node(), str(peers.NODE_FOLDER / "server.mjs")]
    python = peers.python() if variant in (FASTAPI, ASSISTANT) else sys.executable
    options = ["--port", str(port), "--http", "httptools", "--loop", "uvloop", "--no-access-log"]
    options += ["--log-level", "warning", "--backlog", "4096", "--workers", str(workers)]
    return [python, "-m", "uvicorn", "benchmarks.apps.web:app", *options]


@contextlib.contextmanager
def serve(variant: Variant, redis_url: str, *, workers: int = 1) -> Generator[Server]:
    """A server that answers. Raises `UnavailableError` for a peer that cannot run here."""
    port = free_port()
    environment = {
        "VARIANT": variant.name,
        "PORT": str(port),
        "REDIS_URL": redis_url,
        "BENCH_REDIS": redis_url,
    }
    process = start(f"{variant.name}-{port}", _command(variant, port, workers), env=environment)
    try:
        wait_ready(process, lambda: _answers(port))
        yield Server(variant, process.pid, port)
    finally:
        process.kill()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/plain", timeout=1) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
