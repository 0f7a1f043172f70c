"""What is measured; each module holds one or two scenarios."""

from __future__ import annotations

from ..lab import Scenario
from . import first_byte, growth, memory, passthrough, replay, streams, tail

ALL: tuple[Scenario, ...] = (
    streams.PACED,
    streams.BURSTS,
    first_byte.FIRST_BYTE,
    replay.REPLAY,
    replay.MEMORY_REPLAY,
    tail.TAIL,
    tail.MANY,
    memory.MEMORY,
    passthrough.IN_PROCESS,
    passthrough.HTTP,
    growth.STREAMS,
    growth.FOLLOWERS,
    growth.LOGS,
    growth.WORKERS,
)
