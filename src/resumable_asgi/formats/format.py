"""What the package asks of a format: how to know it, how to end it, and how to number its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ..outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How to end a response whose app did not: send `body`, then finish (`clean`) or break the connection."""

    body: bytes
    clean: bool


class Rewriter(Protocol):
    """Changes the beginning of a body before it is recorded."""

    @property
    def done(self) -> bool:
        """Whether all further bytes pass unchanged."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body; returns those that may go on."""
        ...

    def flush(self) -> bytes:
        """The bytes still held back, unchanged; for the end of the body."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One row of the table of formats."""

    name: str
    known_by: Callable[[Iterable[tuple[bytes, bytes]]], bool]
    """Whether a response with these headers, whose names may be in any case, has this format."""
    ending: Callable[[Outcome, bytes], Ending]
    """The ending a client sees for an outcome other than done, after these last bytes (`TAIL` suffice)."""
    rewriter: Callable[[str], Rewriter] | None = None
    """Makes what gives messages the stream id where the app gave them none."""


TAIL = 64
"""Bytes of what a client was sent last that every format's `ending` can do with."""
