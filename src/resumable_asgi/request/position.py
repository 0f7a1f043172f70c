"""Where in a log a resuming client says it is: `Last-Event-ID: <id>` or `?offset=<bytes>`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

_OWN_ID = re.compile(rb"([0-9a-f]{32})\.(.*)", re.DOTALL)
_DIGITS = re.compile(r"[0-9]{1,19}")


class PositionError(ValueError):
    """The position is malformed; the message says which and what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """`offset` in bytes from the start of the log; `event_id` is an id that the app itself wrote."""

    stream_id: str | None = None
    offset: int = 0
    event_id: bytes | None = None


def read_position(request: Request) -> Position:
    """The position of a request, by default the start. Raises `PositionError`.

    The header comes first: an EventSource repeats its URL unchanged when it reconnects, and says only
    there how far it got. `-1` and an empty value mean from the start, as some clients' defaults do.
    """
    header = next((value for name, value in request.headers.raw if name.lower() == b"last-event-id"), b"")
    if header not in (b"", b"-1"):
        own = _OWN_ID.fullmatch(header)
        if own is None:
            return Position(event_id=header)
        return Position(stream_id=own[1].decode(), offset=_bytes("Last-Event-ID", own[2].decode("latin-1")))
    query = request.scope["query_string"]
    value = request.query_params.get("offset", "") if query else ""
    return Position() if value in ("", "-1") else Position(offset=_bytes("offset", value))


def _bytes(name: str, value: str) -> int:
    if not _DIGITS.fullmatch(value):
        raise PositionError(
            f"{name}: {value[:100]!r} is not an offset; give a number of bytes, or leave it out"
        )
    return int(value)
