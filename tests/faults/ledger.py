"""What was done to whom and when: the facts by which a visible loss is found justified or needless."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

EVERYBODY = -1
_RECOVERY = 1.0
"""Seconds that back-off may take: a silence that begins sooner after another is one with it."""


@dataclasses.dataclass
class Span:
    """Something that lasted; `end` is infinite while it does."""

    start: float
    end: float = math.inf


@dataclasses.dataclass
class Incarnation:
    """One process of a worker, from its start to its death."""

    worker: int
    name: str
    pid: int
    born: float
    killed: float = math.inf
    """When it was sent SIGKILL."""
    terminated: float = math.inf
    """When it was sent SIGTERM."""
    died: float = math.inf
    """When it was seen to be gone."""
    frozen: list[Span] = dataclasses.field(default_factory=list)

    @property
    def doomed(self) -> float:
        """From when on its end is nobody's fault but ours."""
        return min(self.killed, self.terminated, self.died)


@dataclasses.dataclass(frozen=True)
class Entry:
    when: float
    what: str


class Ledger:
    """All of one run of the fault program. Times are monotonic."""

    def __init__(self, directory: Path, lease: float) -> None:
        self.began = time.monotonic()
        self.lease = lease
        self.entries: list[Entry] = []
        self.faults: Counter[str] = Counter()
        self.incarnations: dict[str, Incarnation] = {}
        self.emptied: list[Span] = []
        """When Redis lost its data; all of it is gone at the end of the span."""
        self._stalls = directory / "stalls"
        self._away: list[tuple[int, Span]] = []
        self._disturbed: list[tuple[str, int, Span]] = []

    def note(self, what: str) -> None:
        self.entries.append(Entry(time.monotonic(), what))

    @contextlib.contextmanager
    def fault(self, kind: str, worker: int, detail: str = "") -> Iterator[None]:
        """Something is being broken, at one worker or for `EVERYBODY`."""
        self.faults[kind] += 1
        self.note(f"{kind} {detail}")
        span = Span(time.monotonic())
        self._disturbed.append((kind, worker, span))
        try:
            yield
        finally:
            span.end = time.monotonic()
            self.note(f"{kind} {detail} is over")

    @contextlib.contextmanager
    def away(self, worker: int) -> Iterator[None]:
        """A worker cannot write to Redis; `EVERYBODY` for all of them."""
        span = Span(time.monotonic())
        self._away.append((worker, span))
        try:
            yield
        finally:
            span.end = time.monotonic()

    def stalled(self, start: float, end: float) -> None:
        """The driver itself, in which the proxies live, did not get to run."""
        self._away.append((EVERYBODY, Span(start, end)))
        self._disturbed.append(("stall", EVERYBODY, Span(start, end)))

    def silences(self, incarnation: Incarnation) -> list[Span]:
        """When a process could not renew its lease, as periods with no time to recover between."""
        merged: list[Span] = []
        for span in sorted(self._spans(incarnation), key=lambda span: span.start):
            if merged and span.start - merged[-1].end < _RECOVERY:
                merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
            else:
                merged.append(Span(span.start, span.end))
        return merged

    def _spans(self, incarnation: Incarnation) -> list[Span]:
        spans = [span for worker, span in self._away if worker in (EVERYBODY, incarnation.worker)]
        spans += incarnation.frozen
        with contextlib.suppress(FileNotFoundError):
            for line in (self._stalls / incarnation.name).read_text().splitlines():
                start, _, end = line.partition(" ")
                spans.append(Span(float(start), float(end)))
        return spans

    def last_change(self, incarnation: Incarnation, before: float) -> float:
        """When a process last lost or found Redis, or Redis was emptied, before a time; 0 if never."""
        spans = [span for span in [*self._spans(incarnation), *self.emptied] if span.start < before]
        return max((span.end if span.end < before else span.start for span in spans), default=0.0)

    def longest_silence(self, incarnation: Incarnation, start: float, end: float) -> float:
        """The longest silence of a process that touches a time."""
        spans = [span for span in self.silences(incarnation) if span.start < end and span.end > start]
        return max((min(span.end, end) - span.start for span in spans), default=0.0)

    def thawed(self, incarnation: Incarnation, before: float) -> float:
        """When a process was last woken up before a time; 0 if it never was frozen."""
        return max((min(span.end, before) for span in incarnation.frozen if span.start < before), default=0.0)

    def calm(
        self, workers: Iterable[Incarnation], start: float, end: float, *, but: tuple[str, ...] = ()
    ) -> bool:
        """Whether nothing that concerns these was broken or just had been; kinds `but` do not count."""
        touched = {EVERYBODY, *(worker.worker for worker in workers)}
        return not any(
            worker in touched and span.start < end and span.end + self.lease + 1 > start
            for kind, worker, span in self._disturbed
            if not kind.startswith(but or "-")
        )

    def emptied_between(self, start: float, end: float) -> bool:
        return any(start < span.start < end for span in self.emptied)

    def around(self, start: float, end: float) -> list[str]:
        """The entries of a time, for the reader of a failure."""
        return [
            f"{entry.when - self.began:8.2f}  {entry.what}"
            for entry in self.entries
            if start - 6 <= entry.when <= end + 2
        ]
