"""Redis's wire protocol, version 2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).

Commands are packed and replies parsed without an object for each command: redis-py's client costs several
times as much as all other work for a chunk. hiredis parses the replies if it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Reply = Any
"""bytes, int, None, `ReplyError`, or a list of them."""


class ReplyError(Exception):
    """An error reply of Redis. Replies of this type are returned, not raised."""


_ELSEWHERE = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")


def is_elsewhere(reply: Reply) -> bool:
    """Whether a node of a Cluster answers that it does not serve a hash slot, or not at the moment
    (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""
    return isinstance(reply, ReplyError) and str(reply).startswith(_ELSEWHERE)


class Parser(Protocol):
    """The interface of `hiredis.Reader`. `gets` returns False while the next reply is incomplete."""

    def feed(self, data: bytes, /) -> object: ...
    def gets(self) -> Reply: ...


def pack(*arguments: bytes) -> bytes:
    """One command in the form in which it is sent."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


class PythonParser:
    """Parses replies if hiredis is not installed."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes, /) -> None:
        self._data += data

    def gets(self) -> Reply:
        parsed = self._parse(0)
        if parsed is None:
            return False
        reply, end = parsed
        del self._data[:end]
        return reply

    def _parse(self, start: int) -> tuple[Reply, int] | None:
        """The reply at `start` and its end; None if it is incomplete."""
        line_end = self._data.find(b"\r\n", start)
        if line_end < 0:
            return None
        kind, line, end = self._data[start], bytes(self._data[start + 1 : line_end]), line_end + 2
        if kind == 0x2B:  # +
            return line, end
        if kind == 0x2D:  # -
            return ReplyError(line.decode("utf-8", "replace")), end
        if kind == 0x3A:  # :
            return int(line), end
        if kind not in (0x24, 0x2A):
            raise ReplyError(f"not a reply of Redis: {bytes([kind])!r}")
        length = int(line)
        if length < 0:
            return None, end
        if kind == 0x24:  # $
            if len(self._data) < end + length + 2:
                return None
            return bytes(self._data[end : end + length]), end + length + 2
        items: list[Reply] = []
        for _ in range(length):
            parsed = self._parse(end)
            if parsed is None:
                return None
            items.append(parsed[0])
            end = parsed[1]
        return items, end


def _hiredis_parser() -> Callable[[], Parser] | None:
    try:
        import hiredis
    except ImportError:
        return None
    return lambda: hiredis.Reader(protocolError=ReplyError, replyError=ReplyError)


new_parser: Callable[[], Parser] = _hiredis_parser() or PythonParser
