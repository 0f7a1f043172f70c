"""What the AI SDK's data stream protocol needs beyond plain server-sent events.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, cast

from ..outcome import Outcome
from . import sse
from .format import Ending, Format
from .sse import BLANK_LINE, BOM, at_boundary

MOST_HELD_BACK = 64 * 1024
"""Bytes. A longer first event passes unchanged."""

_HEADER = b"x-vercel-ai-ui-message-stream"
_DATA_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))data(?::[ ]?(?P<value>[^\r\n]*))?(?=[\r\n])")
_DONE_LINE = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\][\r\n]")

_ERROR_TEXTS = {
    Outcome.ERROR: "The answer could not be completed because of an error on the server.",
    Outcome.INTERRUPTED: "The answer was interrupted before it was complete. Please try again.",
    Outcome.LOST: "The rest of the answer was lost. Please try again.",
}


def _known_by(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == _HEADER for name, _ in headers)


def _ending(outcome: Outcome, tail: bytes) -> Ending:
    """An `abort` or `error` chunk; none within an event, and none after `[DONE]`, the protocol's end."""
    if not at_boundary(tail) or _DONE_LINE.search(tail):
        return sse.FORMAT.ending(outcome, tail)
    chunk = {"type": "abort"}
    if outcome is not Outcome.STOPPED:
        chunk = {"type": "error", "errorText": _ERROR_TEXTS[outcome]}
    text = json.dumps(chunk, separators=(",", ":")).encode()
    return Ending(body=b"data: " + text + b"\n\ndata: [DONE]\n\n", clean=True)


class MessageId:
    """Adds a `messageId` to the first chunk of an AI SDK stream, if it is a `start` chunk without one.

    Without it, a replay duplicates text in the client. All other bytes pass unchanged. The first event with
    data is held back until it is complete; everything else passes at once.
    """

    __slots__ = ("_bom", "_held", "_insertion", "done")

    def __init__(self, stream_id: str) -> None:
        self._insertion = f'"messageId":{json.dumps(stream_id)},'.encode()
        self._held = bytearray()
        self._bom = BOM
        self.done: bool = False
        """Whether all further bytes pass unchanged."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream, and return the bytes to record."""
        if self.done:
            return data
        searched = max(0, len(self._held) - 3)  # the end of an event is at most four bytes
        self._held += data
        passed = bytearray()
        while not self.done and (found := BLANK_LINE.search(self._held, searched)):
            searched = 0
            event = bytes(self._held[: found.end()])
            del self._held[: found.end()]
            lines = event.removeprefix(self._bom)
            self._bom = b""  # only the start of the stream can be a BOM
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
        """Return the bytes that are still held back, unchanged. Called at the end of the stream."""
        held = bytes(self._held)
        self._held.clear()
        self.done = True
        return held


def _insertion_point(values: list[re.Match[bytes]]) -> int:
    """The offset after the opening brace of a `start` chunk without `messageId`; 0 for other chunks."""
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


FORMAT = Format(name="ai-sdk", known_by=_known_by, ending=_ending, rewriter=MessageId)
