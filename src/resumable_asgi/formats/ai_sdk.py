"""What the AI SDK's data stream protocol needs beyond plain server-sent events.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from ..outcome import Outcome
from .sse import at_boundary

MOST_HELD_BACK = 64 * 1024
"""Bytes; a first event that is longer passes unchanged."""

_BOM = b"\xef\xbb\xbf"
_HEADER = b"x-vercel-ai-ui-message-stream"
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_DATA_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))data(?::[ ]?(?P<value>[^\r\n]*))?(?=[\r\n])")
_DONE_LINE = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\][\r\n]")

_ERROR_TEXTS = {
    Outcome.ERROR: "The answer could not be completed because of an error on the server.",
    Outcome.INTERRUPTED: "The answer was interrupted before it was complete. Please try again.",
    Outcome.LOST: "The rest of the answer was lost. Please try again.",
}


class Dialect(StrEnum):
    """How the events of a stream are to be read."""

    AI_SDK = "ai-sdk"
    SSE = "sse"


def recognise(headers: Iterable[tuple[bytes, bytes]]) -> Dialect:
    """The dialect that a response's headers announce; their names may be in any case."""
    return Dialect.AI_SDK if any(name.lower() == _HEADER for name, _ in headers) else Dialect.SSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How to end a response whose app did not: send `body`, then finish (`clean`) or break the connection."""

    body: bytes
    clean: bool


def ending(dialect: Dialect, outcome: Outcome, tail: bytes) -> Ending:
    """The ending a client sees for `outcome`; `tail` is what it was sent last (up to 64 bytes).

    Events are only added where one may begin, and never after `[DONE]`, which ends the protocol.
    """
    if outcome is Outcome.DONE:
        return Ending(body=b"", clean=True)
    if dialect is Dialect.SSE or not at_boundary(tail) or _DONE_LINE.search(tail):
        return Ending(body=b"", clean=outcome is Outcome.STOPPED)
    chunk = {"type": "abort"}
    if outcome is not Outcome.STOPPED:
        chunk = {"type": "error", "errorText": _ERROR_TEXTS[outcome]}
    text = json.dumps(chunk, separators=(",", ":")).encode()
    return Ending(body=b"data: " + text + b"\n\ndata: [DONE]\n\n", clean=True)


class MessageId:
    """Gives an AI SDK stream's first chunk a `messageId` if it is a `start` chunk without one.

    Without it a replay duplicates text in the client. All other bytes pass unchanged: the first event that
    carries data once it is complete, everything before and after it at once.
    """

    __slots__ = ("_bom", "_held", "_insertion", "done")

    def __init__(self, stream_id: str) -> None:
        self._insertion = f'"messageId":{json.dumps(stream_id)},'.encode()
        self._held = bytearray()
        self._bom = _BOM
        self.done = False
        """Whether all further bytes pass unchanged."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream; returns those that may go on."""
        if self.done:
            return data
        searched = max(0, len(self._held) - 3)  # the end of an event is at most four bytes
        self._held += data
        passed = bytearray()
        while not self.done and (found := _EVENT_END.search(self._held, searched)):
            searched = 0
            event = bytes(self._held[: found.end()])
            del self._held[: found.end()]
            lines = event.removeprefix(self._bom)
            self._bom = b""  # it only is one at the start of the stream
            values = list(_DATA_LINE.finditer(lines))
            if values and len(event) <= MOST_HELD_BACK and (at := _insertion_point(values)):
                at += len(event) - len(lines)
                event = event[:at] + self._insertion + event[at:]
            self.done = bool(values) or len(event) > MOST_HELD_BACK
            passed += event
        if self.done or len(self._held) > MOST_HELD_BACK:
            passed += self.flush()
        return bytes(passed)

    def flush(self) -> bytes:
        """The bytes still held back, unchanged; for the end of the stream."""
        held = bytes(self._held)
        self._held.clear()
        self.done = True
        return held


def _insertion_point(values: list[re.Match[bytes]]) -> int:
    """The offset after the opening brace of a `start` chunk without `messageId`; else 0."""
    try:
        chunk: object = json.loads(b"\n".join(value["value"] or b"" for value in values).decode())
    except (ValueError, RecursionError):
        return 0
    if not isinstance(chunk, dict):
        return 0
    members = cast("dict[str, Any]", chunk)
    if members.get("type") != "start" or "messageId" in members:
        return 0
    opening = next(value for value in values if (value["value"] or b"").strip())
    return opening.string.index(b"{", opening.start("value")) + 1
