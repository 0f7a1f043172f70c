"""What a scenario works with: servers, a Redis, the load generator, and where its figures go."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from . import servers, valkey
from .peers import UnavailableError
from .process import ROOT
from .results import Results
from .servers import Server, Variant
from .sizes import Sizes
from .valkey import Valkey

_BUSY = 0.8
"""The share of a core above which the load generator itself may be what is measured."""


_PATIENCE = 300
"""Seconds that a job of the load generator may take."""


class LoadError(Exception):
    """The load generator failed."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in a scenario's table."""

    figure: str
    header: str
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run` is called once per repeat and takes everything once, so that repeats interleave."""

    name: str
    title: str
    text: str
    columns: tuple[Column, ...]
    run: Callable[[Lab], None]


class Lab:
    """One scenario's bench in one repeat. `turn` is the number of the repeat, from 0."""

    def __init__(self, name: str, sizes: Sizes, results: Results, turn: int) -> None:
        self.name = name
        self.sizes = sizes
        self.results = results
        self.turn = turn
        self._noting = ""

    def in_turn(self, variants: tuple[Variant, ...]) -> Iterator[Variant]:
        """The variants, beginning with another one in each repeat. One that cannot run here is noted."""
        start = self.turn % len(variants)
        for variant in variants[start:] + variants[:start]:
            print(f"  {self.name} {self.turn + 1}: {variant.label}", file=sys.stderr, flush=True)
            yield variant

    @contextlib.contextmanager
    def noting(self, variant: Variant) -> Generator[None]:
        """A variant that cannot run or that fails leaves a note and no figures."""
        self._noting = variant.label
        try:
            yield
        except (UnavailableError, LoadError, RuntimeError) as error:
            print(f"    failed: {error}", file=sys.stderr, flush=True)
            self.results.note(self.name, f"{variant.label}: {str(error).strip()[-300:]}")

    def redis(self) -> contextlib.AbstractContextManager[Valkey]:
        return valkey.running()

    def serve(
        self, variant: Variant, redis: Valkey, *, workers: int = 1
    ) -> contextlib.AbstractContextManager[Server]:
        return servers.serve(variant, redis.url, workers=workers)

    def load(self, job: str, **fields: Any) -> dict[str, Any]:
        """Have the load generator do a job. Raises `LoadError`."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.load"],
                input=json.dumps({"job": job, **fields}),
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"{job}: not done after {_PATIENCE} s") from error
        if done.returncode:
            raise LoadError(done.stderr[-1500:])
        answer: dict[str, Any] = json.loads(done.stdout)
        if answer.get("failures"):
            self.results.note(
                self.name, f"{self._noting}: {answer['failures']} failures: {answer.get('failed')}"
            )
        if answer.get("wall") and answer["load.cpu"] > _BUSY * answer["wall"]:
            share = answer["load.cpu"] / answer["wall"]
            self.results.note(self.name, f"the load generator used {share:.0%} of a core in one of the runs")
        return answer

    def add(self, figure: str, row: str, value: float) -> None:
        self.results.add(f"{self.name}.{figure}", row, value)
