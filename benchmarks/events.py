"""The one event that all apps send and the load generator reads: 100 bytes that say when they were made.

    data: <16 digits: microseconds of CLOCK_MONOTONIC> <75 letters>\\n\\n

All processes run on one machine, so that they share that clock.
"""

from __future__ import annotations

import time

SIZE = 100
STAMP = slice(6, 22)
"""Where in an event its time stands."""

_PADDING = b"x" * (SIZE - 6 - 16 - 1 - 2)


def event() -> bytes:
    return b"data: %016d %b\n\n" % (time.monotonic_ns() // 1000, _PADDING)


def now_us() -> int:
    return time.monotonic_ns() // 1000
