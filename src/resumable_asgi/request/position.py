"""The position from which a client resumes: `Last-Event-ID: <id>` or `?offset=<bytes>`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

_OWN_ID = re.compile(rb"([0-9a-f]{32})\.(.*)", re.DOTALL)
_DIGITS = re.compile(r"[0-9]{1,19}")


class PositionError(ValueError):
    """The position is malformed. The message names it and says what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """`offset` in bytes from the start of the log; `event_id` is an id that the app itself wrote."""

    stream_id: str | None = None
    offset: int = 0
    event_id: bytes | None = None


def read_position(request: Request) -> Position:
    """The position in a request; the default is the start. Raises `PositionError`.

    The header takes precedence: an EventSource repeats its URL unchanged when it reconnects, and gives its
    position in the header only. `-1` and an empty value mean the start; some clients send them by default.
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
