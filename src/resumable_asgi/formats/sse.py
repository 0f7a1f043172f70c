"""Plain server-sent events: event boundaries, ids and comments.

An event boundary is the offset just after a blank line, or 0. Lines end in LF, CR or CRLF, in any mixture
(https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream). Blank lines at the
very start belong to the first event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..outcome import Outcome
from .format import Ending, Format

COMMENT = b": keep-alive\n\n"
"""Sent to a follower after silence. Every client ignores it."""

BOM = b"\xef\xbb\xbf"
BLANK_LINE = re.compile(
    rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)"
)  # atomic, so that CRLF does not count as two line ends
_BOUNDARIES = (b"\n\n", b"\r\r", b"\n\r", b"\n\r\n", b"\r\r\n")
_FIRST_WINDOW = 16 * 1024


def at_boundary(tail: bytes) -> bool:
    """Whether a stream whose last bytes are `tail` (4 suffice) ends after a complete event.

    After a final CR, the LF of a CRLF may still follow. That is harmless: after an inserted event, or at the
    beginning of the next part, it is one more blank line, which ends no event.
    """
    return not tail or tail.endswith(_BOUNDARIES)


def event_start(data: bytes | bytearray, offset: int) -> int:
    """The last event boundary up to `offset`; never between the CR and the LF of one line end.

    If `data` may grow and ends in a CR at `offset`, wait for the next byte first: see `is_settled`.
    """
    end = min(offset, len(data))
    if end > 0 and data[end - 1 : end + 1] == b"\r\n":
        end -= 1
    window = _FIRST_WINDOW
    while end > 1:
        start = max(0, end - window)
        boundary = _last_boundary(data, start, end)
        if boundary or start == 0:
            return boundary
        window *= 8
    return 0


def after_event_id(data: bytes | bytearray, event_id: bytes) -> int | None:
    """The offset just after the last complete event with the line `id: <event_id>`; None if there is none.

    If `data` may grow and ends in a CR there, an LF may still follow: see `is_settled`.
    """
    if not event_id or any(byte in event_id for byte in (b"\r", b"\n", b"\0")):
        return None
    end = len(data)
    while (line_end := _last_id_line(data, event_id, end)) >= 0:
        if blank := BLANK_LINE.search(data, line_end):
            return blank.end()
        end = line_end  # the app still writes this event: look further back
    return None


def is_settled(tail: bytes) -> bool:
    """Whether the end of a live stream with the last bytes `tail` stays a line end, whatever follows.

    After a CR, an LF may follow that belongs to the same line end.
    """
    return not tail.endswith(b"\r")


def _last_boundary(data: bytes | bytearray, start: int, end: int) -> int:
    """The last boundary within `data[start:end]` (`end` splits no CRLF), or 0."""
    boundary = 0
    for pair in (b"\n\n", b"\r\r", b"\n\r"):
        found = data.rfind(pair, start, end)
        if found >= 0:
            after = found + 2
            if pair != b"\n\n" and after < end and data[after] == 0x0A:
                after += 1  # the blank line's own end is a CRLF
            boundary = max(boundary, after)
    return boundary


def _last_id_line(data: bytes | bytearray, event_id: bytes, end: int) -> int:
    """The end of the last line `id: <event_id>` before `end` (the offset of its CR or LF), or -1."""
    last = -1
    for field in (b"id: " + event_id, b"id:" + event_id):
        for line_end in (b"\n", b"\r"):
            found = data.rfind(field + line_end, 0, end)
            while found >= 0 and not _begins_line(data, found):
                found = data.rfind(field + line_end, 0, found)
            if found >= 0:
                last = max(last, found + len(field))
    return last


def _begins_line(data: bytes | bytearray, offset: int) -> bool:
    return offset == 0 or data[offset - 1] in b"\r\n" or (offset == len(BOM) and data.startswith(BOM))


def _known_by(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return True  # only event streams are recorded


def _ending(outcome: Outcome, tail: bytes) -> Ending:
    """Plain SSE has no event for a failure: a broken connection shows it."""
    return Ending(body=b"", clean=outcome is Outcome.STOPPED)


FORMAT = Format(name="sse", known_by=_known_by, ending=_ending)
