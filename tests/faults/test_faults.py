"""The short run of the fault program, and a check of the checker itself."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from . import report
from .check import Judge
from .client import Visit
from .journal import Journal
from .ledger import Incarnation, Ledger
from .plan import Plan
from .proxy import frame_end
from .session import Options, Session

SEED = 3277
"""Its first dozen faults have a SIGKILL, a SIGTERM, a SIGSTOP, and Redis restarted, emptied and cut off."""


@pytest.mark.parametrize("seed", [SEED])
async def test_a_storm_of_faults_loses_nothing(seed: int, valkey_binary: str, tmp_path: Path) -> None:
    """Half a minute of everything; the long run is `python -m tests.faults`."""
    options = Options(seed=seed, seconds=24, rate=3, followers=6, longest=4, pause=0.4)
    result = await Session(options, valkey_binary, tmp_path).run()
    print(report.text(result))
    assert report.passed(result)
    assert result.figures["streams"] >= 30
    assert result.ledger.faults.total() >= 10


class Case:
    """One finished stream, and a client that got `body` of it."""

    def __init__(self, tmp_path: Path, dialect: str = "plain") -> None:
        rng = random.Random(7)
        while True:
            self.plan = Plan.draw(rng, "r", "k", longest=2)
            if self.plan.dialect == dialect and self.plan.ending == "finish" and not self.plan.split:
                break
        self.events = [event for _, event in self.plan.steps()]
        now = time.monotonic()
        self.ledger = Ledger(tmp_path, 2.0)
        self.producer = Incarnation(0, "w0.1", 1, now - 100)
        self.other = Incarnation(1, "w1.1", 2, now - 100)
        self.ledger.incarnations = {"w0.1": self.producer, "w1.1": self.other}
        self.began = now - 50
        self.journal = Journal("w0.1", self.began, b"".join(self.events), [], "finished", self.began + 2)

    def failures(
        self, body: bytes, *, ending: str = "clean", lasted: float = 2.1, position: int | None = None
    ) -> list[str]:
        """What the checker finds in one follower's answer."""
        visit = Visit("resume", self.other, "http://x", self.began, position)
        visit.answered, visit.ended = self.began, self.began + lasted
        visit.status, visit.run, visit.stream_id, visit.body = 200, "r", "s" * 32, body
        visit.ending = ending  # type: ignore[assignment]
        judge = Judge(self.ledger, lease=2.0, redis_timeout=0.3)
        judge.judge(self.plan, self.journal, [visit], [])
        return [failure.kind for failure in judge.failures]


def test_the_checker_accepts_the_whole_and_its_keep_alives(tmp_path: Path) -> None:
    case = Case(tmp_path)
    half = len(case.events) // 2
    parts = [b"".join(case.events[:half]), b": keep-alive\n\n", b"".join(case.events[half:])]
    assert case.failures(b"".join(parts)) == []
    offset = len(b"".join(case.events[:2]))
    assert case.failures(b"".join(case.events[2:]), position=offset + 3) == []


def test_the_checker_sees_what_must_never_be(tmp_path: Path) -> None:
    case = Case(tmp_path)
    events, whole = case.events, b"".join(case.events)
    gap = b"".join(events[:3] + events[4:])
    twice = b"".join([*events[:3], events[2], *events[3:]])
    swapped = b"".join([events[1], events[0], *events[2:]])
    assert "gap" in case.failures(gap)
    assert "duplicate" in case.failures(twice)
    assert "reordering" in case.failures(swapped)
    assert "repeated" in case.failures(b"".join(events[1:]), position=len(b"".join(events[:2])))
    assert "wrong bytes" in case.failures(whole.replace(b'"sha":"', b'"sha":"0', 1))
    assert "wrong bytes" in case.failures(whole[:20] + b": keep-alive\n\n" + whole[20:])
    assert case.failures(b"".join(events[:-1])) == ["false ending"]
    assert case.failures(b"".join(events[:-1]), ending="broken") == ["needless loss"]
    assert case.failures(whole, ending="never") == ["hang"]
    assert case.failures(whole, lasted=9.5) == ["late ending", "sluggish ending"]
    assert case.failures(whole, lasted=4.5) == ["sluggish ending"]


def test_the_checker_knows_our_own_endings(tmp_path: Path) -> None:
    case = Case(tmp_path, "ai")
    part = case.plan.recorded(b"".join(case.events[:3]), "s" * 32)
    error = b'data: {"type":"error","errorText":"The rest was lost."}\n\ndata: [DONE]\n\n'
    abort = b'data: {"type":"abort"}\n\ndata: [DONE]\n\n'
    assert case.failures(part + error) == ["needless loss"]
    assert case.failures(part + abort) == ["needless abort"]
    case.producer.killed = case.producer.died = case.began + 1
    assert case.failures(part + error) == []


def test_a_reply_is_complete_or_not() -> None:
    reply = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\n3:a\r\n\r\n"
    assert frame_end(reply + b"+PONG\r\n", 0) == len(reply)
    assert frame_end(b":1\r\n$-1\r\n", 4) == 9
    assert all(frame_end(reply[:length], 0) == -1 for length in range(len(reply)))
