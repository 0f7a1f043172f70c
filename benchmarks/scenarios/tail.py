"""Followers on another worker: what they cost, and how late they are."""

from __future__ import annotations

from typing import Any

from ..lab import Column, Lab, Scenario
from ..servers import NPM, PUSH, REDIS, Variant


def follow_elsewhere(lab: Lab, variant: Variant, row: str, **job: Any) -> None:
    """Streams on one worker and their followers on another; figures of the followers' worker."""
    with (
        lab.noting(variant),
        lab.redis() as redis,
        lab.serve(variant, redis) as producer,
        lab.serve(variant, redis) as other,
    ):
        each = job.pop("each", 1)
        got = lab.load(
            "window",
            port=producer.port,
            follow={"port": other.port, "each": each},
            pids={"producer": producer.pid, "other": other.pid},
            redis_port=redis.port,
            seconds=lab.sizes.seconds,
            **job,
        )
        events = got["events"]
        if not events:
            lab.results.note(lab.name, f"{row}: nothing was delivered")
            return
        lab.add("cpu", row, 1e6 * got["other.cpu"] / events)
        lab.add("p50", row, got["p50"] / 1000)
        lab.add("p99", row, got["p99"] / 1000)
        lab.add("rate", row, events / got["wall"])
        lab.add("producer-cpu", row, 1e6 * got["producer.cpu"] * each / events)
        lab.add("redis-cpu", row, 1e6 * got["redis.cpu"] * each / events)
        lab.add("connections", row, got["other.connections"])
        lab.add("producer-connections", row, got["producer.connections"])
        lab.add("load", row, 100 * got["load.cpu"] / got["wall"])


def push(lab: Lab, row: str, **job: Any) -> None:
    """The same deliveries with no Redis and no middleware: the ASGI send alone."""
    with lab.noting(PUSH), lab.redis() as redis, lab.serve(PUSH, redis) as server:
        got = lab.load(
            "window", port=server.port, pids={"server": server.pid}, seconds=lab.sizes.seconds, **job
        )
        lab.add("cpu", row, 1e6 * got["server.cpu"] / got["events"])
        lab.add("p50", row, got["p50"] / 1000)
        lab.add("p99", row, got["p99"] / 1000)
        lab.add("rate", row, got["events"] / got["wall"])


def running(rate: float) -> dict[str, float]:
    """Streams that outlast every window."""
    return {"n": 1_000_000, "gap": 1 / rate}


def _tail(lab: Lab) -> None:
    sizes = lab.sizes
    for variant in lab.in_turn((REDIS, NPM)):
        follow_elsewhere(lab, variant, variant.label, streams=sizes.tail_logs, spec=running(sizes.tail_rate))


def _many(lab: Lab) -> None:
    sizes = lab.sizes
    for variant in lab.in_turn((REDIS, PUSH)):
        job: dict[str, Any] = {"streams": sizes.many_logs, "spec": running(sizes.many_rate)}
        if variant is PUSH:
            push(lab, variant.label, **job)
        else:
            follow_elsewhere(lab, variant, variant.label, detach=True, **job)


COLUMNS = (
    Column("cpu", "CPU, µs per delivery"),
    Column("p50", "latency p50, ms", 2),
    Column("p99", "latency p99, ms", 2),
    Column("rate", "deliveries/s", 0),
    Column("connections", "connections to Redis", 0),
    Column("producer-connections", "of the producer", 0),
    Column("producer-cpu", "producer CPU, µs per event"),
    Column("redis-cpu", "Redis CPU, µs per event", 2),
    Column("load", "load generator, % of a core", 0),
)

TAIL = Scenario(
    "tail",
    "Followers on another worker: 200 logs at 20 events a second",
    "From the making of an event in one process to its arrival at a client of another. The clients that "
    "started the streams stay.",
    COLUMNS,
    _tail,
)

MANY = Scenario(
    "many",
    "1,000 followers of 1,000 logs on another worker, 10 events a second each",
    "The clients that started the streams have left, as after a reload that reached another worker. The ASGI "
    "send alone is an app that hands out as many events with neither middleware, framework nor Redis.",
    COLUMNS,
    _many,
)
