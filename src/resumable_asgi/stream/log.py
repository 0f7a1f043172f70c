"""The log of one stream: the meeting point of run, writer, tailer and followers.

A log is the append-only byte sequence of one response body, addressed by byte offset. It ends with one
seal, which carries the outcome. This module does no I/O: it calls its watchers when something has changed.
"""

from __future__ import annotations

import json
import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from ..outcome import Outcome
from ..states import IllegalTransitionError, after
from .log_states import LOG_TABLE, LogEvent, LogState

_WORKER = re.compile(r"[0-9a-f]{32}")

_CREDENTIAL = re.compile(
    rb"set-cookie2?|www-authenticate|(?:proxy-)?authenticat(?:e|ion-info)|(?:proxy-)?authorization"
    rb"|(?:.*-)?token|.*(?:csrf|xsrf).*",
    re.IGNORECASE,
)
"""Names of response headers that hold credentials, or are meant for the first client alone."""

_BLOCK = 64 * 1024

_to_json = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode

Headers = tuple[tuple[bytes, bytes], ...]


def without_credentials(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a response that may be stored."""
    return tuple((bytes(name), bytes(value)) for name, value in headers if not _CREDENTIAL.fullmatch(name))


def new_stream_id() -> str:
    """32 hex digits: 12 of the time in milliseconds, so that ids sort by age, and 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


class Head(NamedTuple):
    """What a follower needs before the first byte. `created` is in Unix milliseconds; `headers` hold no
    credentials."""

    worker: str
    created: int
    status: int
    headers: Headers
    key: str

    @property
    def sized(self) -> bool:
        """Whether the response has a `Content-Length`, so that no bytes may be added to it."""
        return any(name.lower() == b"content-length" for name, _ in self.headers)

    def to_json(self) -> bytes:
        """The form that is stored in Redis; header bytes are decoded as Latin-1, as in HTTP."""
        fields = {
            "worker": self.worker,
            "created": self.created,
            "status": self.status,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "key": self.key,
        }
        return _to_json(fields).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Head:
        """Raises `ValueError` for anything that `to_json` did not make."""
        try:
            fields: Any = json.loads(data)
            if not _WORKER.fullmatch(fields["worker"]) or not 200 <= fields["status"] < 300:
                raise ValueError(f"not a worker and a status: {data[:100]!r}")
            return cls(
                worker=fields["worker"],
                created=int(fields["created"]),
                status=int(fields["status"]),
                headers=tuple(
                    (name.encode("latin-1"), value.encode("latin-1")) for name, value in fields["headers"]
                ),
                key=str(fields["key"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not the head of a log: {data[:100]!r}") from error


class Reader(Protocol):
    """Reads a log; the bytes from its offset on are kept for it."""

    @property
    def offset(self) -> int: ...


_OPEN = LogState.OPEN  # for each chunk: in Python 3.11 an enum's attribute takes 60 ns


class SealedError(IllegalTransitionError):
    """An append to a log that is not open."""


class TrimmedError(RuntimeError):
    """The log no longer holds the bytes at this offset."""


class Log:
    """Bytes, a state and a wake-up.

    `start` is the first offset that the log still holds (0 unless it has outgrown its limit), `end` that of
    the next byte to be appended. `outcome` is None until the log is sealed.
    """

    __slots__ = (
        "_block_ends",
        "_blocks",
        "_called",
        "_first_watchers",
        "_newest",
        "_recent",
        "_watchers",
        "delivered",
        "detail",
        "end",
        "head",
        "id",
        "on_change",
        "outcome",
        "progressed",
        "readers",
        "start",
        "state",
    )

    def __init__(self, stream_id: str, head: Head) -> None:
        self.id: str = stream_id
        self.head: Head = head
        self.start: int = 0
        self.end: int = 0
        self.state: LogState = LogState.OPEN
        self.outcome: Outcome | None = None
        self.detail: str = ""
        self.readers: set[Reader] = set()
        self.progressed: Callable[[], None] | None = None
        """Called when a reader has advanced; set only while somebody waits for that."""
        # The bytes are in blocks, each with the offset after it; `_recent` holds those that do not fill one
        # yet. So neither an append nor a long read copies what is there already.
        self._blocks: list[bytes] = []
        self._block_ends: list[int] = []
        self._recent = bytearray()
        self._newest = b""
        # Dicts, because thousands of followers may come and go. `_called` is a tuple of both, made by the
        # first append after a change.
        self._first_watchers: dict[Callable[[], None], None] = {}
        self._watchers: dict[Callable[[], None], None] = {}
        self._called: tuple[Callable[[], None], ...] | None = ()
        self.delivered: bool = False
        """Whether the stored seal says that a client was handed the whole log."""
        self.on_change: Callable[[], None] | None = None
        """Called when the state has changed, before the watchers; set by the run."""

    def __repr__(self) -> str:
        return f"<Log {self.id} {self.state.name.lower()}>"

    def __str__(self) -> str:
        age = max(0.0, time.time() - self.head.created / 1000)
        return f"stream {self.id} (key {self.head.key!r}, {self.end} bytes, {age:.1f} s old)"

    @property
    def closed(self) -> bool:
        """Whether the log takes no more bytes."""
        return self.state is not _OPEN

    def append(self, data: bytes) -> None:
        """Raises `SealedError`."""
        if self.state is not _OPEN:
            state = self.state.name if self.outcome is None else f"{self.state.name} ({self.outcome})"
            raise SealedError(f"log {self.id} is {state} and has nothing for {LogEvent.APPEND.name}")
        self._newest = data
        if len(data) < _BLOCK:
            recent = self._recent
            recent += data
            self.end += len(data)
            if len(recent) >= _BLOCK:
                self._fill_block()
        else:  # as a rule a page that was read from Redis: kept as it is
            self._fill_block()
            self.end += len(data)
            self._blocks.append(data)
            self._block_ends.append(self.end)
        called = self._called
        if called is None:
            called = self._all_watchers()
        for changed in called:
            changed()

    def _fill_block(self) -> None:
        if self._recent:
            self._blocks.append(bytes(self._recent))
            self._block_ends.append(self.end)
            self._recent = bytearray()

    def close(self) -> None:
        """Take no more bytes, because the seal will say where the log ends. No-op if the log is not open."""
        if self.state is LogState.OPEN:
            self._change(LogEvent.CLOSE)

    def seal(self, outcome: Outcome, detail: str = "") -> bool:
        """End the log. The first seal wins; False if there was one already."""
        if self.state is LogState.SEALED:
            return False
        self.outcome = outcome
        self.detail = detail
        self._change(LogEvent.SEAL)
        for changed in self._all_watchers():
            changed()
        return True

    def _change(self, event: LogEvent) -> None:
        self.state = after(LOG_TABLE, self.state, event)
        on_change = self.on_change
        if self.state is LogState.SEALED:
            self.on_change = None  # a log that is kept must not keep its run
        if on_change is not None:
            on_change()

    def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset` on, perhaps fewer than the log holds; empty only at the end.

        Raises `TrimmedError`.
        """
        if offset < self.start:
            raise TrimmedError(
                f"log {self.id} holds no bytes before {self.start}, and was asked for {offset}"
            )
        newest = self._newest
        if offset == self.end - len(newest) and len(newest) <= limit:
            return newest  # what a follower that keeps up reads
        begin = offset - (self.end - len(self._recent))
        if begin >= 0:
            return bytes(memoryview(self._recent)[begin : begin + limit])
        number = bisect_right(self._block_ends, offset)
        block = self._blocks[number]
        begin = offset - (self._block_ends[number] - len(block))
        return block[begin : begin + limit]  # not copied if that is all of it

    def span(self, begin: int, end: int) -> bytes:
        """All bytes from `begin` to `end`. Raises `TrimmedError`."""
        parts: list[bytes] = []
        while begin < end and (part := self.read(begin, end - begin)):
            parts.append(part)
            begin += len(part)
        return b"".join(parts)

    def trim(self, floor: int = 0) -> None:
        """Drop the bytes that no reader needs any more, and in any case those before `floor`."""
        keep_from = min((reader.offset for reader in self.readers), default=self.end)
        keep_from = max(keep_from, floor)
        if keep_from <= self.start:
            return
        self.start = keep_from
        past = bisect_right(self._block_ends, keep_from)
        del self._blocks[:past], self._block_ends[:past]
        if not self._blocks:
            del self._recent[: keep_from - (self.end - len(self._recent))]

    def watch(self, changed: Callable[[], None], *, first: bool = False) -> None:
        """Call `changed` synchronously after each append and the seal; with `first` before the others."""
        (self._first_watchers if first else self._watchers)[changed] = None
        self._called = None

    def unwatch(self, changed: Callable[[], None]) -> None:
        self._first_watchers.pop(changed, None)
        self._watchers.pop(changed, None)
        self._called = None

    def _all_watchers(self) -> tuple[Callable[[], None], ...]:
        if self._called is None:
            self._called = (*self._first_watchers, *self._watchers)
        return self._called
