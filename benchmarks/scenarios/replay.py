"""Replays: of a live log on another worker, and from the memory of the worker that runs it."""

from __future__ import annotations

from typing import Any

from ..inprocess import memory_replay
from ..lab import Column, Lab, Scenario
from ..servers import NPM, REDIS

OURS_MEMORY = "from memory, 8 MB"


def _replay(lab: Lab) -> None:
    n = lab.sizes.replay_events
    shapes: dict[str, dict[str, Any]] = {
        "written at once": {"spec": {"n": n}},
        "written one by one": {"spec": {"n": n, "gap": 0.001}},
        "written while followed": {"spec": {"n": n, "gap": 0.001}, "followed": True},
    }
    for shape, job in shapes.items():
        for variant in lab.in_turn((REDIS, NPM)):
            with (
                lab.noting(variant),
                lab.redis() as redis,
                lab.serve(variant, redis) as producer,
                lab.serve(variant, redis) as other,
                lab.serve(variant, redis) as third,
            ):
                more = {"followed": third.port} if job.get("followed") else {}
                got = lab.load(
                    "replay",
                    port=producer.port,
                    replay_port=other.port,
                    redis_port=redis.port,
                    logs=lab.sizes.replay_logs,
                    spec=job["spec"],
                    **more,
                )
                row = f"{variant.label}, {shape}"
                lab.add("first", row, got["first"] / 1000)
                lab.add("whole", row, got["whole"] / 1000)
                if variant is REDIS:
                    lab.add("entries", row, got["entries"])


def _memory_replay(lab: Lab) -> None:
    for size in (100_000, 1_000_000, 8_000_000):
        speed = memory_replay(size, lab.sizes.memory_replays)
        lab.add("speed", f"from memory, {size / 1e6:g} MB", speed / 1e9)


REPLAY = Scenario(
    "replay",
    "Replay of a live log of 10,000 events on another worker",
    "Two processes behind one Redis; each log is replayed once. Ours comes from Redis, where a follower "
    "elsewhere while the log is written makes for one event an entry; npm's comes out of the memory of the "
    "producer, which is asked for it.",
    (
        Column("first", "first byte, ms", 2),
        Column("whole", "whole, ms", 2),
        Column("entries", "entries in Redis", 0),
    ),
    _replay,
)

MEMORY_REPLAY = Scenario(
    "memory-replay",
    "Replay from the worker's memory",
    "In process, into a `send` that does nothing; everything from the request to the final body is counted.",
    (Column("speed", "GB/s", 2),),
    _memory_replay,
)
