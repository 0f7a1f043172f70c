"""How much is measured: the sizes that figures are quoted for, and small ones to see that all of it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    warm_up: float = 2
    """Seconds of streams before a server is measured."""
    streams: int = 200
    rate: float = 50
    """Events per second of a stream."""
    events: int = 400
    """Events of a stream in the paced scenario; a quarter of it for slow variants."""
    burst: int = 1000
    bursts: int = 200
    bursts_at_once: int = 20
    first_bytes: int = 400
    replay_events: int = 10_000
    replay_logs: int = 10
    memory_replays: int = 100
    tail_logs: int = 200
    tail_rate: float = 20
    many_logs: int = 1000
    many_rate: float = 10
    seconds: float = 8
    """Of a window in which running streams are watched."""
    memory_streams: int = 1500
    requests: int = 200
    """Per connection and round."""
    rounds: int = 300
    """Of 100 calls in process, with and without the middleware in turn."""
    growth: tuple[int, ...] = (10, 100, 200, 1000, 5000)
    growth_rate: float = 4000
    """Events per second of all streams together."""
    followers: tuple[int, ...] = (1, 100, 1000)
    log_bytes: tuple[int, ...] = (1000, 32_000, 1_000_000, 8_000_000)
    workers: tuple[int, ...] = (1, 2, 4)


FULL = Sizes()

QUICK = Sizes(
    warm_up=0.2,
    streams=20,
    events=50,
    bursts=20,
    bursts_at_once=5,
    first_bytes=20,
    replay_events=1000,
    replay_logs=2,
    memory_replays=5,
    tail_logs=20,
    many_logs=50,
    seconds=1,
    memory_streams=50,
    requests=20,
    rounds=20,
    growth=(10, 50),
    growth_rate=200,
    followers=(1, 20),
    log_bytes=(1000, 100_000),
    workers=(1, 2),
)
