"""Reading event streams in tests; written apart from the package's own parser, which is under test."""

from __future__ import annotations

import json
import re
from typing import Any

_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_MESSAGE_ID = re.compile(rb'"messageId":\s*"[^"]*",\s*|,\s*"messageId":\s*"[^"]*"')


def split(data: bytes | bytearray) -> tuple[list[bytes], bytes]:
    """The complete events, each with its blank line, and what follows the last of them."""
    events: list[bytes] = []
    position = 0
    for match in _END.finditer(data):
        events.append(bytes(data[position : match.end()]))
        position = match.end()
    return events, bytes(data[position:])


def is_comment(event: bytes) -> bool:
    return all(line.startswith(b":") for line in event.splitlines() if line)


def without_comments(data: bytes | bytearray) -> bytes:
    """The data less its keep-alives; a comment inside an event stays, and so is seen."""
    events, rest = split(data)
    return b"".join(event for event in events if not is_comment(event)) + rest


def comments(data: bytes | bytearray) -> list[bytes]:
    return [event for event in split(data)[0] if is_comment(event)]


def without_message_id(data: bytes) -> bytes:
    """The data less the id of an AI SDK message, which is the one thing that may be added."""
    return _MESSAGE_ID.sub(b"", data, count=1)


def payloads(data: bytes) -> list[Any]:
    """The `data:` of each event, decoded; `[DONE]` stays a string."""
    result: list[Any] = []
    for event in split(data)[0]:
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        if lines:
            text = b"\n".join(lines).decode()
            result.append(text if text == "[DONE]" else json.loads(text))
    return result


def ids(data: bytes) -> list[str]:
    """The `id:` lines, in order."""
    return [line[3:].strip().decode() for line in data.splitlines() if line.startswith(b"id:")]
