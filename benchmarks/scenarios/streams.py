"""Streams from their start to their end: what each variant costs the serving process and Redis."""

from __future__ import annotations

from typing import Any

from ..lab import Column, Lab, Scenario
from ..servers import ALL, Variant


def _measure(lab: Lab, variant: Variant, **job: Any) -> None:
    with lab.noting(variant), lab.redis() as redis, lab.serve(variant, redis) as server:
        job |= {"port": server.port, "pids": {"server": server.pid}, "redis_port": redis.port}
        got = lab.load("streams", **job, warm_up=lab.sizes.warm_up)
        if got["failures"]:
            return
        row, events = variant.label, got["events"]
        lab.add("cpu", row, 1e6 * got["server.cpu"] / events)
        lab.add("rate", row, events / got["wall"])
        lab.add("load", row, 100 * got["load.cpu"] / got["wall"])
        if job["timed"]:
            lab.add("p50", row, got["p50"] / 1000)
            lab.add("p99", row, got["p99"] / 1000)
        if variant.uses_redis:
            lab.add("redis-cpu", row, 1e6 * got["redis.cpu"] / events)
            lab.add("commands", row, got["redis.commands"] / events)
            lab.add("traffic", row, (got["redis.in"] + got["redis.out"]) / events)
            lab.add("connections", row, got["server.connections"])


def _paced(lab: Lab) -> None:
    sizes = lab.sizes
    for variant in lab.in_turn(ALL):
        events = sizes.events // 4 if variant.slow else sizes.events
        spec = {"n": events, "gap": 1 / sizes.rate}
        _measure(
            lab,
            variant,
            spec=spec,
            streams=sizes.streams,
            at_once=sizes.streams,
            stagger=1 / sizes.rate,
            timed=True,
        )


def _bursts(lab: Lab) -> None:
    sizes = lab.sizes
    for variant in lab.in_turn(ALL):
        count = sizes.bursts // 4 if variant.slow else sizes.bursts
        _measure(
            lab,
            variant,
            spec={"n": sizes.burst},
            streams=count,
            at_once=sizes.bursts_at_once,
            timed=False,
        )


_COST = (
    Column("cpu", "CPU, µs per event"),
    Column("redis-cpu", "Redis CPU, µs per event", 2),
    Column("commands", "Redis commands per event", 3),
    Column("traffic", "bytes to and from Redis per event", 0),
    Column("connections", "connections to Redis", 0),
    Column("rate", "events/s", 0),
    Column("load", "load generator, % of a core", 0),
)

PACED = Scenario(
    "paced",
    "200 streams at 50 events a second",
    "CPU is that of the serving process, user and system, from the first connection to the last byte. "
    "Latency is the time from an event's making to its arrival at the client that started the stream. "
    "A variant that reaches fewer events a second than 10,000 is saturated; its latency then is a queue's.",
    (
        _COST[0],
        Column("p50", "latency p50, ms", 2),
        Column("p99", "latency p99, ms", 2),
        *_COST[1:],
    ),
    _paced,
)

BURSTS = Scenario(
    "bursts",
    "Streams of 1,000 events at once",
    "The app never waits between its events; 20 streams run at the same time.",
    _COST,
    _bursts,
)
