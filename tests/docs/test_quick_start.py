"""The quick start of the README does what it says, typed as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from requirements import need_curl
from testkit.process import Process, free_port
from testkit.wait import wait_until_sync

from .pages import ROOT

CUT = 28
"""How curl ends when its time is over."""


def section(title: str) -> str:
    readme = (ROOT / "README.md").read_text()
    return readme.partition(f"## {title}\n")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section("Quick start"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where the app of the quick start is served, by the command of the quick start."""
    need_curl()
    (app,) = blocks("python")
    (tmp_path / "app.py").write_text(app)
    number = free_port()
    server = Process(
        ["sh", "-c", blocks("sh")[0]],
        log=tmp_path / "server.log",
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "UVICORN_PORT": str(number),
        },
    )

    def ready() -> bool:
        assert server.running, server.tail()
        return "running on http" in server.output()

    try:
        wait_until_sync(ready, timeout=20, what="the server to listen")
        yield number
        assert "Traceback" not in server.output()
    finally:
        server.kill()


def run(command: str, port: int) -> subprocess.CompletedProcess[str]:
    command = command.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)


def chunks(events: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in events.split("\n\n") if line]


def test_the_second_curl_gets_what_the_first_one_missed(port: int) -> None:
    start, resume = blocks("sh")[1].strip().split("\n")
    cut = run(start, port)
    assert cut.returncode == CUT
    whole = run(resume, port)
    assert whole.returncode == 0
    assert whole.stdout.startswith(cut.stdout)
    assert 0 < len(cut.stdout) < len(whole.stdout)

    received = chunks(whole.stdout)
    assert received[0]["type"] == "start"
    assert received[0]["messageId"]
    assert received[-1] == {"type": "finish"}
    assert "".join(chunk.get("delta", "") for chunk in received).split()[-1] == "full"
    assert run(f"{resume} -w '%{{http_code}}'", port).stdout == "204"
