"""What a request asks the app to stream, and the streaming of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from ..events import event


@dataclass(frozen=True, slots=True)
class Spec:
    """`n` events, a pause of `gap` seconds after every `burst` of them, `delay` before, `hold` after."""

    n: int
    gap: float = 0
    burst: int = 1
    delay: float = 0
    hold: float = 0

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Spec:
        return cls(
            n=int(query.get("n", "1")),
            gap=float(query.get("gap", "0")),
            burst=int(query.get("burst", "1")),
            delay=float(query.get("delay", "0")),
            hold=float(query.get("hold", "0")),
        )


async def stream(spec: Spec) -> AsyncIterator[bytes]:
    n, gap, burst = spec.n, spec.gap, spec.burst
    if spec.delay:
        await asyncio.sleep(spec.delay)
    for number in range(1, n + 1):
        yield event()
        if gap and number < n and number % burst == 0:
            await asyncio.sleep(gap)
    if spec.hold:
        await asyncio.sleep(spec.hold)


async def stream_text(spec: Spec) -> AsyncIterator[str]:
    """The same for a library that wants text: written out, so that no second generator is paid for."""
    n, gap, burst = spec.n, spec.gap, spec.burst
    if spec.delay:
        await asyncio.sleep(spec.delay)
    for number in range(1, n + 1):
        yield event().decode()
        if gap and number < n and number % burst == 0:
            await asyncio.sleep(gap)
    if spec.hold:
        await asyncio.sleep(spec.hold)
