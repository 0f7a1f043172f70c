"""How a log ends."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The outcome a seal carries; only `DONE` means that the log holds the whole answer."""

    DONE = "done"
    ERROR = "error"
    """The app raised, or ended without its final body."""
    STOPPED = "stopped"
    """Somebody asked for it."""
    INTERRUPTED = "interrupted"
    """The worker shut down."""
    LOST = "lost"
    """The worker died."""
