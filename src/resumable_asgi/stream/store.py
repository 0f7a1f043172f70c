"""The contract between a stream and the stores that keep copies of its log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from ..outcome import Outcome
from ..settings import ResumableRoute
from .log import Head, Log


@dataclass(frozen=True, slots=True)
class StreamKey:
    """One owner's key on one route, to which at most one log is the resumable one.

    `name` is a digest of the three: it tells nothing, and two owners never share one.
    """

    name: str
    route: ResumableRoute


class Copy(Protocol):
    """The copy of one live log in a store, which follows the log by itself. None of this raises."""

    async def claimed(self) -> None:
        """Return once others can find the log, or when the store does not answer within its bound.

        In the latter case the store goes on trying by itself.
        """
        ...

    def overflow(self) -> None:
        """The log has outgrown its limit: its followers go on, and nobody finds it any more."""
        ...

    @property
    def followed_elsewhere(self) -> bool:
        """Whether somebody follows the log in another process, as far as is known."""
        ...

    def finish(self, outcome: Outcome, detail: str = "", delivered: Callable[[], bool] | None = None) -> None:
        """Close the log and ask for its seal. A seal that somebody else wrote before wins.

        The log's outcome is set when the seal is written, or when the store does not answer. A second call
        is a no-op. `delivered` is asked when the seal is written: if it says that a client was handed all
        bytes of a log that is done, `delivered()` has nothing left to do.
        """
        ...

    async def delivered(self) -> None:
        """A client got all of the log, which is done: it is no longer resumable. No-op if it was not."""
        ...


class Found:
    """A log that can be followed. `end` and `outcome` are what is known of it at this moment."""

    __slots__ = ("_log", "delivered", "end", "head", "id", "outcome")

    def __init__(
        self,
        stream_id: str,
        head: Head,
        end: int,
        outcome: Outcome | None,
        log: Log | Callable[[], Log],
        delivered: Callable[[], Awaitable[None]],
    ) -> None:
        self.id: str = stream_id
        self.head: Head = head
        self.end: int = end
        self.outcome: Outcome | None = outcome
        self.delivered: Callable[[], Awaitable[None]] = delivered
        """`await found.delivered()` is for a follower what `Copy.delivered` is for the run."""
        self._log = log

    @classmethod
    def here(cls, log: Log, delivered: Callable[[], Awaitable[None]]) -> Found:
        """A log that this process writes."""
        return cls(log.id, log.head, log.end, log.outcome, log, delivered)

    @property
    def log(self) -> Log:
        """The log itself. A log of another process is read from the first time that it is asked for here,
        and as long as it has readers."""
        if not isinstance(self._log, Log):
            self._log = self._log()
        return self._log


class Store(Protocol):
    """What middleware, runs and endpoints ask of a store. Nothing raises unless its docstring says so."""

    def worker(self, key: StreamKey) -> str:
        """The id of this process for logs of `key`, unique among all processes that share the store."""
        ...

    def claim(self, key: StreamKey, log: Log) -> Copy:
        """Make `log` the resumable one of `key`. From now on its copy follows what is appended."""
        ...

    async def find(self, key: StreamKey, stream_id: str | None = None) -> Found | None:
        """The resumable log of `key`, or the log with that id and that key; None if there is none.

        Raises `StoreUnavailableError`.
        """
        ...

    async def stop(self, key: StreamKey, stream_id: str | None = None) -> bool:
        """Seal the running log of `key` as stopped: the resumable one, or the one with that id, which may
        have been replaced or have outgrown its limit. False if there is none, or it has ended.

        Raises `StoreUnavailableError`.
        """
        ...

    async def start(self) -> None:
        """Connect in advance, so that the first request need not wait."""
        ...

    async def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until everything is written."""
        ...

    async def aclose(self) -> None:
        """Close connections and end tasks. Logs that are still live are left as they are."""
        ...
