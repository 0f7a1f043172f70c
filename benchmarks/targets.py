"""The targets, each a ratio or a difference within one repeat; the median of the repeats decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .results import Results, Spread
from .scenarios.first_byte import ROUND_TRIP
from .scenarios.growth import streams_row
from .scenarios.passthrough import UNCONFIGURED
from .servers import BARE, NODE, NPM, PUSH, REDIS

_OURS, _BARE, _NPM = REDIS.label, BARE.label, NPM.label


@dataclass(frozen=True, slots=True)
class Target:
    """`least`: the figure must reach the limit, else it must not exceed it."""

    text: str
    limit: float
    unit: str
    figure: Callable[[Results], list[float]]
    least: bool = False

    def measured(self, results: Results) -> Spread | None:
        """None if something it needs was not measured."""
        values = self.figure(results)
        return Spread.of(values) if values else None

    def met(self, measured: Spread) -> bool:
        return measured.middle >= self.limit if self.least else measured.middle <= self.limit


def _value(figure: str, row: str) -> Callable[[Results], list[float]]:
    return lambda results: results.values(figure, row)


def _ratio(figure: str, row: str, base: str) -> Callable[[Results], list[float]]:
    def of(results: Results) -> list[float]:
        pairs = zip(results.values(figure, row), results.values(figure, base), strict=False)
        return [value / other for value, other in pairs]

    return of


def _over(figure: str, row: str, base: str) -> Callable[[Results], list[float]]:
    def of(results: Results) -> list[float]:
        pairs = zip(results.values(figure, row), results.values(figure, base), strict=False)
        return [value - other for value, other in pairs]

    return of


def _quotient(
    above: Callable[[Results], list[float]], below: Callable[[Results], list[float]]
) -> Callable[[Results], list[float]]:
    """Repeats in which `below` is lost in the noise say nothing and are left out."""
    return lambda results: [
        value / other for value, other in zip(above(results), below(results), strict=False) if other > 0
    ]


def _flat(results: Results) -> list[float]:
    """The largest cost from 200 streams on, over that of 200."""
    counts = (200, 1000, 5000)
    rows = [results.values("growth-streams.cpu", streams_row(REDIS, count)) for count in counts]
    return [max(repeat) / repeat[0] for repeat in zip(*rows, strict=False)] if all(rows) else []


def _replay(shape: str) -> list[Target]:
    rows = f"{_OURS}, {shape}", f"{_NPM}, {shape}"
    start = f"replay of 10,000 events on another worker over npm resumable-stream, {shape}"
    return [
        Target(f"{start}: first byte", 0.10, "", _ratio("replay.first", *rows)),
        Target(f"{start}: whole", 0.5, "", _ratio("replay.whole", *rows)),
    ]


TARGETS: tuple[Target, ...] = (
    Target(
        "CPU per event, 200 streams x 50/s, Redis on, over the bare app",
        1.15,
        "",
        _ratio("paced.cpu", _OURS, _BARE),
    ),
    Target("the same in bursts", 0.90, "", _ratio("bursts.cpu", _OURS, _BARE)),
    Target("latency added to the original client, p50", 0.3, "ms", _over("paced.p50", _OURS, _BARE)),
    Target("the same, p99", 2, "ms", _over("paced.p99", _OURS, _BARE)),
    Target(
        "first byte later than the bare app's, in Redis round trips",
        1,
        "",
        _quotient(_over("first-byte.p50", _OURS, _BARE), _value("first-byte.p50", ROUND_TRIP)),
    ),
    Target(
        "CPU per event added to the bare app, over what npm resumable-stream adds to its own",
        0.75,
        "",
        _quotient(_over("paced.cpu", _OURS, _BARE), _over("paced.cpu", _NPM, NODE.label)),
    ),
    *_replay("written at once"),
    *_replay("written one by one"),
    *_replay("written while followed"),
    Target(
        "replay from the worker's memory, 1 MB",
        1,
        "GB/s",
        _value("memory-replay.speed", "from memory, 1 MB"),
        least=True,
    ),
    Target(
        "1,000 followers of 1,000 logs on another worker: CPU per delivery above the ASGI send",
        8,
        "µs",
        _over("many.cpu", _OURS, PUSH.label),
    ),
    Target("the same: connections to Redis", 3, "", _value("many.connections", _OURS)),
    Target(
        "a chunk to a follower on another worker, p50, over npm resumable-stream",
        1,
        "",
        _ratio("tail.p50", _OURS, _NPM),
    ),
    Target("the same, p99", 1, "", _ratio("tail.p99", _OURS, _NPM)),
    Target("the same at 1,000 logs x 10/s, p50", 5, "ms", _value("many.p50", _OURS)),
    Target("the same at 1,000 logs x 10/s, p99", 20, "ms", _value("many.p99", _OURS)),
    Target("Redis CPU per event, nobody follows elsewhere", 8, "µs", _value("paced.redis-cpu", _OURS)),
    Target("Redis CPU per event, each log followed elsewhere", 8, "µs", _value("many.redis-cpu", _OURS)),
    Target("memory per live stream above the bare app's", 20, "KB", _over("memory.bytes", _OURS, _BARE)),
    Target(
        "request on an unconfigured route, in process",
        1.02,
        "",
        _value("in-process.ratio", UNCONFIGURED),
    ),
    Target("the same over HTTP", 1.02, "", _ratio("unconfigured.cpu", _OURS, _BARE)),
    Target("cost per event with 1,000 and 5,000 streams, over that with 200", 1.2, "", _flat),
    Target("failures with 5,000 streams", 0, "", _value("growth-streams.failures", streams_row(REDIS, 5000))),
)
