"""Figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..lab import Scenario
from ..results import Results, Spread
from ..targets import TARGETS


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(spread: Spread | None, digits: int) -> str:
    """The median, and the least and most if there is a spread to be seen."""
    if spread is None:
        return ""
    middle, least, most = (f"{each:,.{digits}f}" for each in (spread.middle, spread.least, spread.most))
    return middle if least == most else f"{middle} ({least} to {most})"


def targets(results: Results) -> str:
    rows: list[list[str]] = []
    for target in TARGETS:
        measured = target.measured(results)
        limit = f"{'≥' if target.least else '≤'} {target.limit:g} {target.unit}".strip()
        if measured is None:
            rows.append([target.text, limit, "", "not measured"])
        else:
            shown = f"{figure(measured, 2)} {target.unit}".strip()
            rows.append([target.text, limit, shown, "pass" if target.met(measured) else "**miss**"])
    return table(["figure", "target", "measured", "verdict"], rows)


def scenario(which: Scenario, results: Results) -> Iterator[str]:
    """The section of one scenario; nothing if it was not run."""
    columns = [column for column in which.columns if results.rows([f"{which.name}.{column.figure}"])]
    rows = results.rows([f"{which.name}.{column.figure}" for column in columns])
    notes = results.notes.get(which.name, [])
    if not rows and not notes:
        return
    yield f"### {which.title}\n\n{which.text}"
    if rows:
        cells = [
            [
                row,
                *(
                    figure(results.spread(f"{which.name}.{each.figure}", row), each.digits)
                    for each in columns
                ),
            ]
            for row in sorted(rows, key=lambda row: _place(row, which, results))
        ]
        yield table(["", *(column.header for column in columns)], cells)
    if notes:
        yield "\n".join(f"- Note: {note}".replace("\n", " ") for note in notes)


def _place(row: str, which: Scenario, results: Results) -> int:
    from ..servers import VARIANTS

    for place, variant in enumerate(VARIANTS.values()):
        if row == variant.label:
            return place
    return results.rows([f"{which.name}.{column.figure}" for column in which.columns]).index(row) + 100
