"""Which charts there are."""

from __future__ import annotations

from collections.abc import Iterator

from ..results import Results, Spread
from ..scenarios.growth import log_row, many_logs_row, one_log_row, streams_row
from ..servers import ALL, BARE, MEMORY, NODE, NPM, REDIS, Variant
from ..sizes import Sizes
from .svg import Bar, bars, lines

_COLOURS = {REDIS: 0, MEMORY: 0, BARE: 1, NODE: 1, NPM: 3}
_LABELS = {
    "tee": "naive tee",
    "fastapi-resumable-stream": "fastapi-resumable-stream",
    "assistant-stream": "assistant-stream",
    "npm-resumable-stream": "npm resumable-stream",
}

Points = list[tuple[float, Spread]]


def charts(results: Results, sizes: Sizes) -> Iterator[tuple[str, str, str]]:
    """File name, title and SVG of each chart that there are figures for."""
    for name, figure, title, unit, logarithmic in (
        ("cpu-paced", "paced.cpu", "CPU per event, 200 streams at 50 events/s", "µs", True),
        ("cpu-bursts", "bursts.cpu", "CPU per event, 1,000 events at once", "µs", True),
        ("latency", "paced.p50", "Latency to the original client, p50", "ms", True),
        ("first-byte", "first-byte.p50", "Time to the first byte", "ms", False),
        ("redis-commands", "paced.commands", "Redis commands per event", "commands", True),
    ):
        rows = [
            Bar(_label(variant), spread, _COLOURS.get(variant, 2))
            for variant in ALL
            if (spread := results.spread(figure, variant.label)) is not None
        ]
        if len(rows) > 1:
            yield name, title, bars(title, unit, rows, logarithmic=logarithmic)
    yield from _replays(results)
    yield from _growth(results, sizes)


def _label(variant: Variant) -> str:
    return _LABELS.get(variant.name, variant.label)


def _replays(results: Results) -> Iterator[tuple[str, str, str]]:
    title = "Replay of 10,000 events on another worker"
    rows: list[Bar] = []
    for shape in ("written at once", "written one by one", "written while followed"):
        for variant in (REDIS, NPM):
            spread = results.spread("replay.whole", f"{variant.label}, {shape}")
            if spread is not None:
                label = "ours" if variant is REDIS else "npm"
                rows.append(Bar(f"{label}, {shape}", spread, _COLOURS[variant]))
    if rows:
        yield "replay", title, bars(title, "ms, from the request to the last byte", rows)


def _growth(results: Results, sizes: Sizes) -> Iterator[tuple[str, str, str]]:
    def points(figure: str, rows: dict[float, str]) -> Points:
        return [(x, spread) for x, row in rows.items() if (spread := results.spread(figure, row)) is not None]

    found = [
        (_label(variant).replace(", Redis", ""), _COLOURS[variant], points("growth-streams.cpu", rows))
        for variant in (REDIS, BARE, NPM)
        if (rows := {float(count): streams_row(variant, count) for count in sizes.growth})
    ]
    if all(series for _, _, series in found):
        title = "CPU per event by concurrent streams, 4,000 events/s in all"
        yield "growth-streams", title, lines(title, "µs", "streams in one worker", found)
    one = points("growth-followers.cpu", {float(count): one_log_row(count) for count in sizes.followers})
    many = points("growth-followers.cpu", {float(count): many_logs_row(count) for count in sizes.followers})
    if one and many:
        title = "CPU per delivery by followers on another worker"
        series = [("of one log", 0, one), ("of as many logs", 2, many)]
        yield "growth-followers", title, lines(title, "µs", "followers", series)
    logs = {float(size): log_row(size) for size in sizes.log_bytes}
    whole, first = points("growth-logs.whole", logs), points("growth-logs.first", logs)
    if whole and first:
        title = "Replay on another worker by length of the log"
        series = [("whole", 0, whole), ("first byte", 3, first)]
        yield "growth-logs", title, lines(title, "ms, logarithmic", "bytes", series, logarithmic=True)
