"""Writes `results.md` and the charts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from ..results import Results
from ..scenarios import ALL
from ..sizes import Sizes
from . import markdown
from .charts import charts
from .machine import machine

_HOW = (
    "Medians of {repeats} interleaved repeats, in parentheses the least and the most. Every repeat starts "
    "each server anew, takes the variants in another order, and computes its own ratios. Events have 100 "
    "bytes. What the words mean and how to run it stands in the [README](README.md)."
)


def write(folder: Path, results: Results, sizes: Sizes, repeats: int) -> Path:
    """The report's path; what was there before is replaced."""
    pictures = folder / "charts"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    parts = ["# Results", _HOW.format(repeats=repeats)]
    parts.append(f"{datetime.now(UTC):%Y-%m-%d}. {machine()}.")
    parts += ["## Targets", markdown.targets(results), "## Charts"]
    for name, title, svg in charts(results, sizes):
        (pictures / f"{name}.svg").write_text(svg)
        parts.append(f"![{title}](charts/{name}.svg)")
    parts.append("## Figures")
    for scenario in ALL:
        parts += markdown.scenario(scenario, results)
    report = folder / "results.md"
    report.write_text("\n\n".join(parts) + "\n")
    return report
