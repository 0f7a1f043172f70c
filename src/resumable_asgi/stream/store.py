"""The contract between a stream and the stores that keep copies of its log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..outcome import Outcome
from ..settings import ResumableRoute
from .log import Head, Log


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one owner's key on one route: at most one log is the resumable one there.

    `name` is a digest of the three, so that it tells nothing and another owner's is never hit.
    """

    name: str
    route: ResumableRoute


class Found:
    """A log that can be followed. `end` and `outcome` are what is known of it at this moment."""

    __slots__ = ("_log", "end", "head", "id", "outcome")

    def __init__(
        self, stream_id: str, head: Head, end: int, outcome: Outcome | None, log: Log | Callable[[], Log]
    ) -> None:
        self.id = stream_id
        self.head = head
        self.end = end
        self.outcome = outcome
        self._log = log

    @classmethod
    def here(cls, log: Log) -> Found:
        """A log that this process writes."""
        return cls(log.id, log.head, log.end, log.outcome, log)

    @property
    def log(self) -> Log:
        """The log itself. One of another process is read from when it is first asked for here, while it has
        readers: its bytes may still be on their way."""
        if not isinstance(self._log, Log):
            self._log = self._log()
        return self._log


class Store(Protocol):
    """What middleware and runs ask of a store. None of it raises but where that is said."""

    def worker(self, slot: Slot) -> str:
        """The id of this process, unique among all that share the store, for logs in `slot`."""
        ...

    def claim(self, slot: Slot, log: Log) -> None:
        """Make `log` the resumable one of `slot`; from now on its bytes are kept as they come."""
        ...

    async def claimed(self, log: Log) -> None:
        """Return once others can find the log, or when the store cannot be asked within its bound.

        In the latter case the store goes on trying by itself.
        """
        ...

    def overflow(self, log: Log) -> None:
        """The log has outgrown its limit: those attached go on, nobody finds it any more."""
        ...

    def followed_elsewhere(self, log: Log) -> bool:
        """Whether somebody follows it in another process, as far as is known."""
        ...

    def finish(
        self, log: Log, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None
    ) -> None:
        """Close a claimed log and ask for its seal. A seal that somebody else wrote before wins.

        The log's outcome is set when it is settled, or when the store cannot be asked. A second call
        for the same log is a no-op. If `delivered`, asked when the seal is written, says that a client was
        handed all bytes of a log that is done, the store need not be told so again: it may save a trip.
        """
        ...

    async def delivered(self, slot: Slot, log: Log) -> None:
        """A client got all of a log that is done: it is no longer resumable. No-op if it was not."""
        ...

    async def find(self, slot: Slot, stream_id: str | None = None) -> Found | None:
        """The resumable log of `slot`, or the one of that id there; None if there is none.

        Raises `StoreUnavailableError`.
        """
        ...

    async def stop(self, slot: Slot, stream_id: str | None = None) -> bool:
        """Seal the running log of `slot` as stopped: the resumable one, or the one of that id, which may have
        been replaced or have outgrown its limit. False if there is none, or it has ended.

        Raises `StoreUnavailableError`.
        """
        ...

    async def start(self) -> None:
        """Get ready, if there is something to get ready, so that the first request need not."""
        ...

    async def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all that was asked for is written."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and tasks. Logs that are still live are left as they are."""
        ...
