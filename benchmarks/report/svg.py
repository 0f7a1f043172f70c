"""Two kinds of chart as SVG, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..results import Spread

_WIDTH = 760
_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.faint { fill: #656d76; font-size: 12px }
.grid { stroke: #8c959f; stroke-opacity: .35 }
.whisker { stroke: #24292f; stroke-opacity: .7 }
.c0 { fill: #1f6feb; stroke: #1f6feb } .c1 { fill: #9aa4af; stroke: #9aa4af }
.c2 { fill: #d4791a; stroke: #d4791a } .c3 { fill: #2da05a; stroke: #2da05a }
.bar { stroke: none } .line { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
 text { fill: #d1d7de } .faint { fill: #9198a1 } .whisker { stroke: #d1d7de }
}
</style>"""


@dataclass(frozen=True, slots=True)
class Bar:
    """`colour` is 0 for ours and 1 to 3 for others."""

    label: str
    value: Spread
    colour: int


def nice(value: float) -> str:
    """Three digits, as few as will do."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bars(title: str, unit: str, rows: Sequence[Bar], *, logarithmic: bool = False) -> str:
    """Horizontal bars with whiskers from the least to the most of the repeats."""
    left, right, top, step = 270, 70, 46, 28
    room = _WIDTH - left - right
    most = max(row.value.most for row in rows)
    least = min(row.value.least for row in rows)
    bottom = 10 ** math.floor(math.log10(max(least, 1e-6) / 1.5))

    def x(value: float) -> float:
        if not logarithmic:
            return left + room * max(0.0, value) / most
        return left + room * math.log(max(value, bottom) / bottom) / math.log(most / bottom)

    parts = [f'<text class="title" x="0" y="16">{escape(title)}</text>']
    scale = f"{unit}, logarithmic" if logarithmic else unit
    parts.append(f'<text class="faint" x="0" y="34">{escape(scale)}; whiskers: least and most</text>')
    for number, row in enumerate(rows):
        y = top + number * step
        value = row.value
        parts.append(f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(row.label)}</text>')
        width = max(1.0, x(value.middle) - left)
        parts.append(
            f'<rect class="bar c{row.colour}" x="{left}" y="{y + 2}" width="{width:.1f}" height="18"/>'
        )
        parts.append(
            f'<line class="whisker" x1="{x(value.least):.1f}" x2="{x(value.most):.1f}" '
            f'y1="{y + 11}" y2="{y + 11}"/>'
        )
        after = max(x(value.middle), x(value.most)) + 6
        parts.append(f'<text class="faint" x="{after:.1f}" y="{y + 15}">{nice(value.middle)}</text>')
    return _document(top + len(rows) * step + 4, title, parts)


def lines(
    title: str,
    unit: str,
    across: str,
    series: Sequence[tuple[str, int, Sequence[tuple[float, Spread]]]],
    *,
    logarithmic: bool = False,
) -> str:
    """Lines over a logarithmic axis: (label, colour, points); the y axis begins at 0 unless logarithmic."""
    left, right, top, bottom, height = 56, 190, 46, 40, 300
    room, tall = _WIDTH - left - right, height - top - bottom
    points = [point for _, _, found in series for point in found]
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    most = max(spread.most for _, spread in points) * 1.05
    floor = min(spread.least for _, spread in points) / 1.5 if logarithmic else 0

    def at_x(value: float) -> float:
        return left + room * (math.log(value / low) / math.log(high / low) if high > low else 0.5)

    def at_y(value: float) -> float:
        share = math.log(value / floor) / math.log(most / floor) if logarithmic else value / most
        return top + tall * (1 - share)

    parts = [f'<text class="title" x="0" y="16">{escape(title)}</text>']
    parts.append(f'<text class="faint" x="0" y="34">{escape(unit)}</text>')
    for value in _ticks(floor, most, logarithmic):
        y = at_y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + room}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="faint" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for x in sorted({x for x, _ in points}):
        y = top + tall + 18
        parts.append(f'<text class="faint" x="{at_x(x):.1f}" y="{y}" text-anchor="middle">{x:,.0f}</text>')
    parts.append(
        f'<text class="faint" x="{left + room / 2}" y="{height - 6}" text-anchor="middle">{across}</text>'
    )
    taken: list[float] = []
    for label, colour, found in series:
        path = " ".join(f"{at_x(x):.1f},{at_y(spread.middle):.1f}" for x, spread in found)
        parts.append(f'<polyline class="line c{colour}" style="fill:none" points="{path}"/>')
        for x, spread in found:
            parts.append(
                f'<circle class="c{colour}" cx="{at_x(x):.1f}" cy="{at_y(spread.middle):.1f}" r="3.5"/>'
            )
            ends = f'y1="{at_y(spread.least):.1f}" y2="{at_y(spread.most):.1f}"'
            parts.append(f'<line class="whisker" x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" {ends}/>')
        y = at_y(found[-1][1].middle) + 4
        while any(abs(y - other) < 15 for other in taken):
            y += 15
        taken.append(y)
        parts.append(
            f'<text x="{left + room + 12}" y="{y:.1f}">'
            f'<tspan class="c{colour}">● </tspan>{escape(label)}</text>'
        )
    return _document(height, title, parts)


def _ticks(floor: float, most: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        powers = range(math.floor(math.log10(floor)), math.ceil(math.log10(most)) + 1)
        return [10.0**power for power in powers if floor <= 10.0**power <= most]
    rough = most / 4
    step = 10 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    return [number * step for number in range(int(most / step) + 1)]


def _document(height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">'
    )
    return "\n".join([head, _STYLE, *parts, "</svg>\n"])
