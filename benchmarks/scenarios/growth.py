"""How costs grow with streams, followers, the length of logs and workers."""

from __future__ import annotations

from typing import Any

from ..events import SIZE
from ..lab import Column, Lab, Scenario
from ..servers import BARE, NODE, NPM, REDIS, Variant
from .tail import COLUMNS, follow_elsewhere, push, running

_DELIVERIES = 5000
"""Per second, of all followers together."""
_FASTEST = 500
"""Events per second of one log."""


def streams_row(variant: Variant, count: int) -> str:
    return f"{variant.label}, {count:,} streams"


def _streams(lab: Lab) -> None:
    for count in lab.sizes.growth:
        for variant in lab.in_turn((BARE, REDIS, NODE, NPM)):
            row = streams_row(variant, count)
            with lab.noting(variant), lab.redis() as redis, lab.serve(variant, redis) as server:
                got = lab.load(
                    "window",
                    port=server.port,
                    pids={"server": server.pid},
                    redis_port=redis.port,
                    warm_up=lab.sizes.warm_up,
                    streams=count,
                    spec=running(lab.sizes.growth_rate / count),
                    seconds=lab.sizes.seconds,
                )
                events = got["events"]
                lab.add("failures", row, got["failures"])
                lab.add("cpu", row, 1e6 * got["server.cpu"] / events)
                lab.add("p50", row, got["p50"] / 1000)
                lab.add("p99", row, got["p99"] / 1000)
                lab.add("rate", row, events / got["wall"])
                if variant.uses_redis:
                    lab.add("redis-cpu", row, 1e6 * got["redis.cpu"] / events)


def one_log_row(count: int) -> str:
    return f"{count:,} followers of one log"


def many_logs_row(count: int) -> str:
    return f"{count:,} followers of as many logs"


def _followers(lab: Lab) -> None:
    for count in lab.sizes.followers:
        print(f"  {lab.name} {lab.turn + 1}: {count} followers", flush=True)
        rate = min(_FASTEST, _DELIVERIES / count)
        job: dict[str, Any] = {"spec": running(rate), "settle": 2}
        follow_elsewhere(lab, REDIS, one_log_row(count), streams=1, each=count, detach=True, **job)
        push(lab, f"ASGI send alone, {count:,} at once", streams=count, extra={"shared": 1}, **job)
        if count > 1:
            follow_elsewhere(lab, REDIS, many_logs_row(count), streams=count, detach=True, **job)
            push(lab, f"ASGI send alone, {count:,} in turn", streams=count, **job)


def log_row(size: int) -> str:
    return f"{size / 1000:,g} KB" if size < 1_000_000 else f"{size / 1_000_000:,g} MB"


def _logs(lab: Lab) -> None:
    for size in lab.sizes.log_bytes:
        print(f"  {lab.name} {lab.turn + 1}: {log_row(size)}", flush=True)
        with (
            lab.noting(REDIS),
            lab.redis() as redis,
            lab.serve(REDIS, redis) as producer,
            lab.serve(REDIS, redis) as other,
        ):
            got = lab.load(
                "replay",
                port=producer.port,
                replay_port=other.port,
                redis_port=redis.port,
                logs=5,
                spec={"n": size // SIZE, "gap": 0.001, "burst": 50},
            )
            row = log_row(size)
            lab.add("first", row, got["first"] / 1000)
            lab.add("whole", row, got["whole"] / 1000)
            lab.add("entries", row, got["entries"])
            lab.add("stored", row, got["stored"] / size)


def workers_row(variant: Variant, count: int) -> str:
    return f"{variant.label}, {count} worker{'s' if count > 1 else ''}"


def _workers(lab: Lab) -> None:
    for count in lab.sizes.workers:
        for variant in lab.in_turn((BARE, REDIS)):
            with (
                lab.noting(variant),
                lab.redis() as redis,
                lab.serve(variant, redis, workers=count) as server,
            ):
                got = lab.load(
                    "window",
                    port=server.port,
                    pids={"server": server.pid},
                    redis_port=redis.port,
                    warm_up=lab.sizes.warm_up,
                    streams=lab.sizes.streams,
                    spec=running(lab.sizes.growth_rate / lab.sizes.streams),
                    seconds=lab.sizes.seconds,
                )
                row, events = workers_row(variant, count), got["events"]
                lab.add("cpu", row, 1e6 * got["server.cpu"] / events)
                lab.add("p50", row, got["p50"] / 1000)
                lab.add("p99", row, got["p99"] / 1000)
                if variant.uses_redis:
                    lab.add("redis-cpu", row, 1e6 * got["redis.cpu"] / events)
                    lab.add("connections", row, got["server.connections"])


STREAMS = Scenario(
    "growth-streams",
    "More concurrent streams in one worker",
    "The rate of all streams together is the same 4,000 events a second, so that what grows is their number; "
    "counted while all of them run.",
    (
        Column("cpu", "CPU, µs per event"),
        Column("p50", "latency p50, ms", 2),
        Column("p99", "latency p99, ms", 2),
        Column("rate", "events/s", 0),
        Column("redis-cpu", "Redis CPU, µs per event", 2),
        Column("failures", "failures", 0),
    ),
    _streams,
)

FOLLOWERS = Scenario(
    "growth-followers",
    "More followers on another worker",
    "5,000 deliveries a second in all, but for one follower, whose log has 500 events a second.",
    COLUMNS,
    _followers,
)

LOGS = Scenario(
    "growth-logs",
    "Longer logs, replayed on another worker",
    "Live logs, written 50 events at a time.",
    (
        Column("first", "first byte, ms", 2),
        Column("whole", "whole, ms", 2),
        Column("entries", "entries in Redis", 0),
        Column("stored", "bytes in Redis per byte", 2),
    ),
    _logs,
)

WORKERS = Scenario(
    "growth-workers",
    "More workers",
    "200 streams, 4,000 events a second in all, under `uvicorn --workers`; CPU of all processes together.",
    (
        Column("cpu", "CPU, µs per event"),
        Column("p50", "latency p50, ms", 2),
        Column("p99", "latency p99, ms", 2),
        Column("redis-cpu", "Redis CPU, µs per event", 2),
        Column("connections", "connections to Redis", 0),
    ),
    _workers,
)
