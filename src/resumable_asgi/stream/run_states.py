"""The states of a run, and what leads from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType


class RunState(Enum):
    UNDECIDED = auto()
    """The app has not started its response."""
    PASSED = auto()
    """The response is not recorded: the app talks to the server."""
    RECORDING = auto()
    """The app appends to the log."""
    COMPLETE = auto()
    """The app has ended its response, or itself."""
    STOPPING = auto()
    """The log was closed first: the app is told to stop, and may take a moment."""


class RunEvent(Enum):
    PASS = auto()
    """The app starts a response that cannot be recorded."""
    RECORD = auto()
    """The app starts a response that can be recorded."""
    END = auto()
    """The app sends its final body, returns or raises."""
    STOP = auto()
    """The log is closed before END: by a stop, a shutdown, or a worker that took this one for dead."""


RUN_TABLE: Mapping[tuple[RunState, RunEvent], RunState] = MappingProxyType(
    {
        (RunState.UNDECIDED, RunEvent.PASS): RunState.PASSED,
        (RunState.UNDECIDED, RunEvent.RECORD): RunState.RECORDING,
        (RunState.UNDECIDED, RunEvent.END): RunState.PASSED,
        (RunState.PASSED, RunEvent.END): RunState.PASSED,
        (RunState.RECORDING, RunEvent.END): RunState.COMPLETE,
        (RunState.RECORDING, RunEvent.STOP): RunState.STOPPING,
        (RunState.COMPLETE, RunEvent.END): RunState.COMPLETE,  # only the first ending counts
        (RunState.STOPPING, RunEvent.END): RunState.STOPPING,
    }
)
