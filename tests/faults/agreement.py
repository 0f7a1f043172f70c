"""What the clients of one stream must have in common, held against each other and against the stops."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from .client import Visit
from .ledger import Incarnation

if TYPE_CHECKING:
    from .check import Case, Judge, Verdict

STOP_TIME = 2.0
"""Seconds after an accepted stop in which the app has been told, with its second of grace."""
SLUGGISH = 2.0
"""Seconds after the app's end in which a follower elsewhere sees it while nothing is broken."""
_MILD = ("latency", "SIGKILL", "SIGTERM")
"""Faults that slow nobody down who is not their victim."""


class Agreement:
    """The clients of one run, after each of them has been looked at alone."""

    def __init__(self, judge: Judge, case: Case, verdicts: list[Verdict]) -> None:
        self.judge = judge
        self.case = case
        self.journal = case.journal
        self.verdicts = [verdict for verdict in verdicts if verdict.visit.status == 200]
        self.refused = [verdict for verdict in verdicts if verdict.outcome == "refused"]

    def check(self) -> None:
        self._same_length()
        self._no_end_after_a_loss()
        self._stops_are_heard()
        self._offsets_are_taken()
        for verdict in self.verdicts:
            self._in_time(verdict)

    def _same_length(self) -> None:
        """Those who follow the same log object end alike: in the producer, and from Redis."""
        asked = min((stop.asked for stop in self.case.stops), default=math.inf)
        ended = [v for v in self.verdicts if v.outcome in ("done", "stopped") and v.visit.body]
        groups = [
            [v for v in ended if self._is_local(v) and v.visit.began < asked],  # later ones may read the copy
            [v for v in ended if not self._is_local(v)],
        ]
        for group in groups:
            ends = {verdict.end: verdict for verdict in group}
            involved = [verdict.visit for verdict in ends.values()]
            if len(ends) > 1 and self._calm(involved, but=_MILD):
                first, second, *_ = ends.values()
                what = f"ended at {first.end}, but at {second.end} {second.visit}"
                self.case.fail("disagreement", first.visit, what)

    def _no_end_after_a_loss(self) -> None:
        """What was declared lost stays lost, also for the process that wakes up and thinks it is alive."""
        remote = [v for v in self.verdicts if not self._is_local(v) and v.outcome == "lost"]
        lost = [v for v in remote if self._was_awake(v.visit)]
        for loss, verdict in itertools.product(lost, self.verdicts):
            calm = self._calm([loss.visit, verdict.visit], but=("SIGSTOP", *_MILD))
            if verdict.outcome == "done" and calm:
                self.case.fail("end after a loss", verdict.visit, f"but {loss.visit}")
                return

    def _stops_are_heard(self) -> None:
        accepted = [s.answered for s in self.case.stops if s.stopped and s.answered is not None]
        ended = self.journal.ended
        if not accepted or ended is None or self.case.shares_its_key:
            return
        finished_later = self.journal.ending == "finished" and ended > min(accepted) + STOP_TIME
        stops = [stop.incarnation for stop in self.case.stops]
        if finished_later and self._calm([], *stops, but=_MILD):
            what = f"{self.case.producer.name} went on for {ended - min(accepted):.1f} s"
            self.judge.fail("stop ignored", self.case.plan.run, what, self.journal.started, ended)

    def _offsets_are_taken(self) -> None:
        """A 400 is for an offset beyond the end."""
        full = len(self.case.plan.recorded(self.journal.body, "0" * 32))
        started, ended = self.journal.started, self.journal.ended or self.journal.started
        if self.case.silent_too_long(self.case.producer, started, ended):
            return  # others may have ended the log where its copy was
        whole = self.journal.ending == "finished" and all(
            verdict.outcome in ("done", "cut", "short") for verdict in self.verdicts
        )
        for verdict in self.refused:
            position = verdict.visit.position
            if whole and not (isinstance(position, int) and position > full):
                self.case.fail("refused offset", verdict.visit, f"the log has {full} bytes")

    def _in_time(self, verdict: Verdict) -> None:
        visit, ended = verdict.visit, verdict.visit.ended or 0.0
        late = ended - max(self.journal.ended or ended, visit.answered or 0.0)
        if verdict.outcome == "done" and late > SLUGGISH and self._calm([visit], but=_MILD):
            self.case.fail("sluggish ending", visit, f"{late:.2f} s after the app's end")

    def _was_awake(self, visit: Visit) -> bool:
        """Whether what a visitor was told of the producer is not the own worker's trouble."""
        ended, worker = visit.ended or 0.0, visit.incarnation
        start = self.journal.started - self.judge.lease
        return worker.doomed > ended and self.case.ledger.longest_silence(worker, start, ended) == 0

    def _is_local(self, verdict: Verdict) -> bool:
        return verdict.visit.incarnation is self.case.producer

    def _calm(self, visits: list[Visit], *others: Incarnation, but: tuple[str, ...]) -> bool:
        involved = [self.case.producer, *others, *(visit.incarnation for visit in visits)]
        ends = [self.journal.ended or 0.0, *(visit.ended or 0.0 for visit in visits)]
        start, end = self.journal.started, max(ends)
        if any(incarnation.doomed < end for incarnation in involved):
            return False
        stalled = "SIGSTOP" not in but and any(
            self.case.ledger.longest_silence(incarnation, start, end) for incarnation in involved
        )
        return not stalled and self.case.ledger.calm(involved, start, end, but=but)
