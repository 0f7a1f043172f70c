"""What the bytes of a stream mean to its clients: one module a format, none of which does I/O.

A module adds its `Format` to the table here, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import ai_sdk, sse
from .format import Format

FORMATS: tuple[Format, ...] = (ai_sdk.FORMAT, sse.FORMAT)
"""The first that knows a response is its format; the last one knows every event stream."""


def recognise(headers: Iterable[tuple[bytes, bytes]]) -> Format:
    """The format of a recorded response."""
    headers = tuple(headers)
    return next(row for row in FORMATS if row.known_by(headers))
