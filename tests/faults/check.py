"""The checker: every client's bytes and ending held against the journal and the ledger."""

from __future__ import annotations

import dataclasses
import itertools
import re

from testkit import sse

from .agreement import Agreement
from .client import Stop, Visit, without_comments
from .journal import Journal
from .ledger import Incarnation, Ledger
from .plan import SEQUENCE, Plan

_OUR_ENDING = re.compile(
    rb'data: \{"type":"(error|abort)"(?:,"errorText":"[^"]*")?\}\n\ndata: \[DONE\]\n\n\Z'
)
PROMPT = 5.0
"""Seconds beyond the lease within which every follower ends."""
_SLACK = 0.1


@dataclasses.dataclass(frozen=True)
class Failure:
    """What must never be. `start` and `end` tell the time in which to look for the cause."""

    kind: str
    run: str
    what: str
    start: float
    end: float


@dataclasses.dataclass
class Verdict:
    """How one client fared."""

    visit: Visit
    outcome: str
    """`done`, `stopped`, `lost`, `cut`, `unknown`, `nothing`, `refused`, `never`, or `short`: it asked for
    what is beyond the end."""
    end: int
    """The offset of the log that it reached."""


class Judge:
    """Judges one run at a time."""

    def __init__(self, ledger: Ledger, *, lease: float, redis_timeout: float) -> None:
        self.failures: list[Failure] = []
        self.kill_to_end: list[tuple[float, str]] = []
        self.slowest_start = 0.0
        self.ledger = ledger
        self.lease = lease
        self.redis_timeout = redis_timeout

    def judge(
        self, plan: Plan, journal: Journal, visits: list[Visit], stops: list[Stop], *, shared: bool = False
    ) -> list[Verdict]:
        """Judge all clients that got bytes of one run. `visits` are those; `stops` all of the run's key.

        `shared` if there was another run of the same key.
        """
        case = Case(self, plan, journal, stops, shared)
        verdicts = [case.look_at(visit) for visit in visits]
        Agreement(self, case, verdicts).check()
        case.look_at_end()
        return verdicts

    def judge_empty_answer(self, visit: Visit, runs: list[tuple[Journal, list[Visit]]]) -> None:
        """A 204: a failure if the newest stream of that key was running and nothing was broken."""
        begun = [
            (journal, min(originals))
            for journal, visits in runs
            if (originals := [v.answered for v in visits if v.kind == "original" and v.answered])
        ]
        ended = visit.ended or visit.began
        before = sorted((pair for pair in begun if pair[1] < visit.began), key=lambda pair: pair[1])
        if not before or len(before) != len([j for j, _ in runs if j.started < ended]):
            return
        newest = before[-1][0]
        alone = all(abs(newest.started - journal.started) > 0.2 for journal, _ in before[:-1])
        producer = self.ledger.incarnations[newest.incarnation]
        running = newest.ended is None or newest.ended > ended
        if running and alone and self.ledger.calm([producer, visit.incarnation], newest.started, ended):
            self.fail("missed resume", visit.run, str(visit), visit.began, ended)

    def fail(self, kind: str, run: str, what: str, start: float, end: float) -> None:
        self.failures.append(Failure(kind, run, what, start, end))


class Case:
    """One run."""

    def __init__(
        self, judge: Judge, plan: Plan, journal: Journal, stops: list[Stop], shares_its_key: bool
    ) -> None:
        self.shares_its_key = shares_its_key
        self.judge = judge
        self.ledger = judge.ledger
        self.plan = plan
        self.journal = journal
        self.producer = judge.ledger.incarnations[journal.incarnation]
        self.stops = [stop for stop in stops if not stop.wrong_id]
        self.stopped = [stop for stop in self.stops if stop.stopped is not False]

    def fail(self, kind: str, visit: Visit, what: str = "") -> None:
        ended = visit.ended or visit.began
        self.judge.fail(kind, self.plan.run, f"{visit}: {what}", visit.began, ended)

    def look_at(self, visit: Visit) -> Verdict:
        if visit.kind == "original" and visit.answered is not None:
            self._time_start(visit)
        if visit.status != 200:
            return Verdict(visit, "refused" if visit.status == 400 else "unknown", 0)
        log = self.plan.recorded(self.journal.body, visit.stream_id)
        body = without_comments(visit.body)
        ours = _OUR_ENDING.search(body) if self.plan.dialect == "ai" else None
        if ours is not None:
            body = body[: ours.start()]
        starts = self._starts(visit, log)
        start = next((at for at in starts if log.startswith(body, at)), None)
        if start is None:
            self._explain_mismatch(visit, log, body, starts)
            start = starts[0]
        end = start + len(body)
        whole = self.journal.ending == "finished" and end == len(log)
        short = isinstance(visit.position, int) and visit.position > len(log) and not body
        verdict = Verdict(visit, self._ending(visit, ours, whole=whole, short=short), end)
        self._look_at_time(verdict)
        return verdict

    def _starts(self, visit: Visit, log: bytes) -> list[int]:
        """Where the body may begin: at the last event boundary that is not after the position."""
        position = visit.position
        if position is None or position == 0:
            return [0]
        boundaries = self._boundaries(log)
        if isinstance(position, bytes):
            line = log.find(b"id: " + position)
            after = [boundary for boundary in boundaries if boundary > line >= 0]
            return [*after[:1], 0]
        starts = [max(boundary for boundary in boundaries if boundary <= position)]
        if position > len(log):
            starts.append(len(log))
        return starts

    def _boundaries(self, log: bytes) -> list[int]:
        lengths = (len(event) for event in sse.split(log)[0])
        return list(itertools.accumulate(lengths, initial=0))

    def _ending(self, visit: Visit, ours: re.Match[bytes] | None, *, whole: bool, short: bool) -> str:
        if visit.ending in ("cut", "never"):
            if visit.ending == "never":
                self.fail("hang", visit)
            return visit.ending
        if short:
            if visit.ending != "broken":
                self.fail("false ending", visit, "of a position that the app's answer never reached")
            return "short"
        if ours is not None and ours[1] == b"error":
            return self._lost(visit)
        if visit.ending == "broken":
            return "short" if self._was_stopped_short_of(visit) else self._lost(visit)
        if ours is not None or not whole:
            if self._stop_explains(visit):
                return "stopped"
            kind = "false ending" if ours is None else "needless abort"
            self.fail(kind, visit, f"the app's own ending: {self.journal.ending}")
        return "done"

    def _was_stopped_short_of(self, visit: Visit) -> bool:
        """A stop whose worker cannot reach Redis seals what Redis has. A client of that worker may have seen
        more, and asks for a position that the log never reaches."""
        ended = visit.ended or visit.began
        return (
            isinstance(visit.position, int)
            and not without_comments(visit.body)
            and self._stop_explains(visit)
            and not self.ledger.calm([self.producer], self.journal.started, ended)
        )

    def _stop_explains(self, visit: Visit) -> bool:
        return any(stop.asked < (visit.ended or visit.began) for stop in self.stopped)

    def _lost(self, visit: Visit) -> str:
        if not self._justified(visit):
            kind = "original cut" if visit.kind == "original" else "needless loss"
            self.fail(kind, visit, f"by {self.producer.name}, the app's own ending: {self.journal.ending}")
        return "lost"

    def _justified(self, visit: Visit) -> bool:
        """Whether somebody had to see a loss."""
        ended = (visit.ended or visit.began) + _SLACK
        if visit.incarnation.doomed < ended or self.producer.doomed < ended:
            return True
        if self.journal.ending == "raised":
            return True
        for incarnation in {visit.incarnation.name: visit.incarnation, self.producer.name: self.producer}:
            if self.silent_too_long(self.ledger.incarnations[incarnation], self.journal.started, ended):
                return True
        finished = self.journal.ended
        return (
            visit.kind == "resume"
            and finished is not None
            and self.ledger.emptied_between(finished - 0.5, ended)
        )

    def silent_too_long(self, incarnation: Incarnation, start: float, end: float) -> bool:
        """A lease is renewed every fifth of it or more often, so that less than the whole is enough."""
        return (
            self.ledger.longest_silence(incarnation, start - self.judge.lease, end) > 0.75 * self.judge.lease
        )

    def _look_at_time(self, verdict: Verdict) -> None:
        """Everybody ends soon after the producer, however that ended.

        While it lives, followers elsewhere may also have to wait for what Redis knows.
        """
        visit = verdict.visit
        ended = visit.ended or visit.began
        producer_end = min(self.journal.ended or self.producer.died, self.producer.died)
        since = max(producer_end, visit.answered or 0.0, self.ledger.thawed(visit.incarnation, ended))
        if self.producer.doomed > ended:
            last = [self.ledger.last_change(process, ended) for process in (self.producer, visit.incarnation)]
            since = max(since, *last)
        if ended - since > self.judge.lease + PROMPT and verdict.outcome != "cut":
            self.fail("late ending", visit, f"{ended - since:.2f} s after the end of the app's part")
        died = self.producer.killed
        alive_elsewhere = visit.incarnation is not self.producer and visit.incarnation.doomed > ended
        if alive_elsewhere and visit.began < died < ended and verdict.outcome == "lost":
            since_death = ended - max(died, self.ledger.thawed(visit.incarnation, ended))
            self.judge.kill_to_end.append((since_death, str(visit)))

    def _time_start(self, visit: Visit) -> None:
        """The original's first byte is not delayed by more than `redis_timeout`."""
        answered = visit.answered or visit.began
        if self.ledger.longest_silence(visit.incarnation, visit.began, answered) == 0.0 or not (
            visit.incarnation.frozen
        ):
            self.judge.slowest_start = max(self.judge.slowest_start, answered - visit.began)

    def look_at_end(self) -> None:
        """A detached run goes to its own end, whoever listens."""
        ending, producer = self.journal.ending, self.producer
        if ending in ("finished", "raised") or self.stopped:
            return
        when = self.journal.ended or max((at for at, _ in self.journal.marks), default=self.journal.started)
        if producer.doomed < when + self.judge.lease + PROMPT:
            return
        if self.silent_too_long(producer, self.journal.started, when + 1.0):
            return
        self.judge.fail(
            "run cut short", self.plan.run, f"{producer.name}: {ending}", self.journal.started, when
        )

    def _explain_mismatch(self, visit: Visit, log: bytes, body: bytes, starts: list[int]) -> None:
        start = starts[0]
        at = next((i for i, (a, b) in enumerate(zip(log[start:], body, strict=False)) if a != b), None)
        sequence = [int(found) for found in SEQUENCE.findall(body)]
        kind = "wrong bytes"
        steps = [after - before for before, after in itertools.pairwise(sequence)]
        if any(log.startswith(body, before) for before in self._boundaries(log) if before < start):
            kind = "repeated"  # what was sent, but from before the position that was asked for
        elif any(step < 0 for step in steps):
            kind = "reordering"
        elif 0 in steps:
            kind = "duplicate"
        elif any(step > 1 for step in steps):
            kind = "gap"
        if at is None:
            what = f"{len(body)} bytes, though only {len(log) - start} were sent from {start} on"
        else:
            wanted, got = log[start + at - 20 : start + at + 60], body[max(0, at - 20) : at + 60]
            what = f"from offset {start} on, byte {at} differs:\n    sent {wanted!r}\n    got  {got!r}"
        self.fail(kind, visit, what)
