"""The names in Redis, and the scripts: every key and channel that is used is named here."""

from __future__ import annotations

import re
from importlib.resources import files

from .resp import pack

SEAL_ID = b"18446744073709551615-18446744073709551615"
SEAL_MESSAGE = b"18446744073709551615:"


class Keys:
    """The names under one prefix; `slot` is a `Slot.name`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def pointer(self, slot: str) -> bytes:
        return f"{self._prefix}:{{{slot}}}:active".encode()

    def log(self, slot: str, stream_id: str) -> bytes:
        """The log's stream; its channel has the same name."""
        return f"{self._prefix}:{{{slot}}}:log:{stream_id}".encode()

    def worker(self, worker: str) -> bytes:
        return f"{self._prefix}:worker:{worker}".encode()


class Script:
    """A Lua script; what it takes and answers stands at the head of its file.

    It is sent whole each time, less its comments. That is some hundred bytes three times a stream, and there
    is no cache of scripts on the server to be lost.
    """

    def __init__(self, name: str) -> None:
        text = files("resumable_asgi.store").joinpath("lua", f"{name}.lua").read_bytes()
        self._text = re.sub(rb" *--[^\n]*\n", b"\n", text).strip()

    def pack(self, keys: list[bytes], *arguments: bytes) -> bytes:
        return pack(b"EVAL", self._text, b"%d" % len(keys), *keys, *arguments)


CLAIM = Script("claim")
SEAL = Script("seal")
CLEAR = Script("clear")
FIND = Script("find")
POST = Script("post")
