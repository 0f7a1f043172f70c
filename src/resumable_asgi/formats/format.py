"""What the package asks of a format: how to recognise it, how to end it, and how to add a message id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ..outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """An ending that the app did not write: `body`, then a clean end (`clean`) or a broken connection."""

    body: bytes
    clean: bool


class Rewriter(Protocol):
    """Changes the beginning of a body before it is recorded."""

    @property
    def done(self) -> bool:
        """Whether all further bytes pass unchanged."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body, and return the bytes to record."""
        ...

    def flush(self) -> bytes:
        """Return the bytes that are still held back, unchanged. Called at the end of the body."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One row of the table of formats."""

    name: str
    known_by: Callable[[Iterable[tuple[bytes, bytes]]], bool]
    """Whether a response with these headers has this format. Their names may be in any case."""
    ending: Callable[[Outcome, bytes], Ending]
    """The ending for an outcome other than done, given the last bytes of the log (`TAIL` are enough)."""
    rewriter: Callable[[str], Rewriter] | None = None
    """Makes a rewriter that uses the given stream id as the message id, if the app sends none."""


TAIL = 64
"""How many of the last bytes every format's `ending` needs."""
