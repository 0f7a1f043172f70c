"""What the bytes of a stream mean to its clients: one module for each format, without I/O.

To add a format, write a module and add its `Format` to this table.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import ai_sdk, sse
from .format import Format

FORMATS: tuple[Format, ...] = (ai_sdk.FORMAT, sse.FORMAT)
"""The first format that recognises a response is used. The last one recognises every event stream."""


def recognise(headers: Iterable[tuple[bytes, bytes]]) -> Format:
    """The format of a recorded response."""
    headers = tuple(headers)
    return next(row for row in FORMATS if row.known_by(headers))
