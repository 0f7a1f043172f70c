"""The log of one stream: the one meeting point of run, writer, tailer and followers.

A log is the append-only byte sequence of one response body, addressed by byte offset. It ends by one
seal, which carries the outcome. This module does no I/O: whoever cares is called when something changed.
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

_WORKER = re.compile(r"[0-9a-f]{32}")

_CREDENTIAL = re.compile(
    rb"set-cookie2?|www-authenticate|(?:proxy-)?authenticat(?:e|ion-info)|(?:proxy-)?authorization"
    rb"|(?:.*-)?token|.*(?:csrf|xsrf).*",
    re.IGNORECASE,
)
"""Names of response headers that let somebody in, or are meant for the first client alone."""

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
    """What a follower must know before the first byte. `created` is in Unix milliseconds, `headers` hold no
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
        """The form in which Redis holds it; header bytes are written as Latin-1, as HTTP has them."""
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
        """Raises `ValueError` for anything that `to_json` did not write."""
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
    """Somebody at an offset of a log, for whom the bytes from there on are kept."""

    @property
    def offset(self) -> int: ...


class SealedError(RuntimeError):
    """An append or a trim that the log's state forbids."""


class TrimmedError(RuntimeError):
    """The bytes at this offset are no longer held."""


class Log:
    """Bytes, an outcome and a wake-up.

    `start` is the first offset still held (0 unless the log has outgrown its limit), `end` the next to be
    written. `outcome` is None while the log is live.
    """

    __slots__ = (
        "_block_ends",
        "_blocks",
        "_called",
        "_first_watchers",
        "_newest",
        "_recent",
        "_watchers",
        "closed",
        "delivered",
        "detail",
        "end",
        "head",
        "id",
        "on_close",
        "on_seal",
        "outcome",
        "progressed",
        "readers",
        "start",
    )

    def __init__(self, stream_id: str, head: Head) -> None:
        self.id = stream_id
        self.head = head
        self.start = 0
        self.end = 0
        self.outcome: Outcome | None = None
        self.detail = ""
        self.readers: set[Reader] = set()
        self.progressed: Callable[[], None] | None = None
        """Called when a reader got on; set only while somebody waits for that."""
        # Bytes in blocks, each with the offset after it, and then those that do not fill one yet: neither an
        # append nor a read of many moves what is there already.
        self._blocks: list[bytes] = []
        self._block_ends: list[int] = []
        self._recent = bytearray()
        self._newest = b""
        # Dicts, because thousands of followers may come and go. `_called` is a tuple of both: the first
        # append after somebody came or went makes it.
        self._first_watchers: dict[Callable[[], None], None] = {}
        self._watchers: dict[Callable[[], None], None] = {}
        self._called: tuple[Callable[[], None], ...] | None = ()
        self.closed = False
        self.delivered = False
        """Whether the seal said already that a client was handed all of it."""
        self.on_close: Callable[[], None] | None = None
        """Called when the log is closed, before the watchers of the seal; the run's."""
        self.on_seal: Callable[[], None] | None = None
        """Called when the log is sealed, before the watchers; the run's."""

    def __str__(self) -> str:
        age = max(0.0, time.time() - self.head.created / 1000)
        return f"stream {self.id} (key {self.head.key!r}, {self.end} bytes, {age:.1f} s)"

    def append(self, data: bytes) -> None:
        if self.closed:
            raise SealedError(f"append to log {self.id}, which is {self.outcome or 'about to be sealed'}")
        self._newest = data
        if len(data) < _BLOCK:
            self._recent += data
            self.end += len(data)
            if len(self._recent) >= _BLOCK:
                self._fill_block()
        else:  # as a rule a page that was read: kept as it is
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
        """Take no more bytes: the seal is under way, and says where the log ends."""
        if not self.closed:
            self.closed = True
            on_close, self.on_close = self.on_close, None  # a kept log must not keep its run
            if on_close is not None:
                on_close()

    def seal(self, outcome: Outcome, detail: str = "") -> bool:
        """End the log. The first seal wins; False if there was one already."""
        if self.outcome is not None:
            return False
        self.outcome = outcome
        self.detail = detail
        self.close()
        on_seal, self.on_seal = self.on_seal, None
        if on_seal is not None:
            on_seal()
        for changed in self._all_watchers():
            changed()
        return True

    def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset` on, maybe fewer than there are; empty only at the end.

        Raises `TrimmedError`.
        """
        if offset < self.start:
            raise TrimmedError(f"log {self.id} holds no bytes before {self.start}, asked for {offset}")
        if offset == self.end - len(self._newest) and len(self._newest) <= limit:
            return self._newest  # what a follower that keeps up asks for
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
        """Let go of the bytes that no reader needs any more, and of all before `floor` in any case."""
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
        """Have `changed` called, synchronously, after each append and the seal; `first`: before others."""
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
