"""Figures, as they were measured: every repeat of every row."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some repeats, and the least and the most."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))


class Results:
    """`(figure, row)` to the values of the repeats, in their order, so that those of one repeat pair up."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.notes: dict[str, list[str]] = defaultdict(list)
        """By scenario: what went wrong, or what must be known to read the figures."""

    def add(self, figure: str, row: str, value: float) -> None:
        self._values[figure, row].append(value)

    def note(self, scenario: str, text: str) -> None:
        if text not in self.notes[scenario]:
            self.notes[scenario].append(text)

    def values(self, figure: str, row: str) -> list[float]:
        """Empty if it was not measured."""
        return self._values.get((figure, row), [])

    def spread(self, figure: str, row: str) -> Spread | None:
        values = [value for value in self.values(figure, row) if not math.isnan(value)]
        return Spread.of(values) if values else None

    def rows(self, figures: list[str]) -> list[str]:
        """The rows that have one of the figures, in the order in which they were first measured."""
        return list(dict.fromkeys(row for figure, row in self._values if figure in figures))

    def save(self, path: Path) -> None:
        flat = {f"{figure} | {row}": values for (figure, row), values in self._values.items()}
        path.write_text(json.dumps({"values": flat, "notes": self.notes}, indent=1))
