"""The states of a log, and what leads from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType


class LogState(Enum):
    OPEN = auto()
    CLOSING = auto()
    """It takes no more bytes; its seal is being stored."""
    SEALED = auto()
    """It has an outcome."""


class LogEvent(Enum):
    APPEND = auto()
    CLOSE = auto()
    SEAL = auto()


LOG_TABLE: Mapping[tuple[LogState, LogEvent], LogState] = MappingProxyType(
    {
        (LogState.OPEN, LogEvent.APPEND): LogState.OPEN,  # `append` itself does not look it up
        (LogState.OPEN, LogEvent.CLOSE): LogState.CLOSING,
        (LogState.OPEN, LogEvent.SEAL): LogState.SEALED,
        (LogState.CLOSING, LogEvent.SEAL): LogState.SEALED,
    }
)
