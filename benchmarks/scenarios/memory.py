"""Memory of a worker per live stream."""

from __future__ import annotations

from ..events import SIZE
from ..lab import Column, Lab, Scenario
from ..servers import BARE, NODE, NPM, REDIS
from ..servers import MEMORY as OURS_MEMORY

_EVENTS = 10


def _memory(lab: Lab) -> None:
    for variant in lab.in_turn((BARE, OURS_MEMORY, REDIS, NODE, NPM)):
        with lab.noting(variant), lab.redis() as redis, lab.serve(variant, redis) as server:
            job = {"port": server.port, "pids": {"server": server.pid}, "redis_port": redis.port}
            spec = {"n": _EVENTS, "gap": 0.01, "hold": 600}
            # A first lot pays for what a process needs once.
            few = lab.load("window", **job, streams=100, spec=spec, seconds=0.1)
            got = lab.load("window", **job, streams=lab.sizes.memory_streams, spec=spec, seconds=0.1)
            per_stream = got["server.rss.since-idle"] / lab.sizes.memory_streams - _EVENTS * SIZE
            lab.add("bytes", variant.label, per_stream / 1000)
            stored = got["redis.memory.since-idle"] / lab.sizes.memory_streams
            if few["failures"] or got["failures"]:
                lab.results.note(lab.name, f"{variant.label}: some streams failed")
            if variant.uses_redis and stored:
                lab.add("redis", variant.label, stored / 1000)


MEMORY = Scenario(
    "memory",
    "Memory per live stream",
    "Growth of the worker's resident memory over 1,500 streams that have sent 10 events and wait, less those "
    "bytes; the server's own connection is part of it, as the bare app shows.",
    (Column("bytes", "KB per stream", 1), Column("redis", "KB in Redis per stream", 1)),
    _memory,
)
