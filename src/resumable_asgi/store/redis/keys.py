"""The names in Redis, and the scripts: every key and channel that is used is named here."""

from __future__ import annotations

import re
from importlib.resources import files

from .resp import pack

SEAL_ID = b"18446744073709551615-18446744073709551615"
SEAL_MESSAGE = b"18446744073709551615:"


class Keys:
    """The names under one prefix; `name` is that of a `StreamKey`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def pointer(self, name: str) -> bytes:
        return f"{self._prefix}:{{{name}}}:active".encode()

    def log(self, name: str, stream_id: str) -> bytes:
        """The log's stream; its channel has the same name."""
        return f"{self._prefix}:{{{name}}}:log:{stream_id}".encode()

    def worker(self, worker: str) -> bytes:
        return f"{self._prefix}:worker:{worker}".encode()


class Script:
    """A Lua script; what it takes and answers stands at the head of its file.

    It is sent whole each time, less its comments. That is some hundred bytes three times a stream, and there
    is no cache of scripts on the server to be lost.
    """

    def __init__(self, name: str) -> None:
        text = files("resumable_asgi.store.redis").joinpath("lua", f"{name}.lua").read_bytes()
        self.name = name
        self.text: bytes = re.sub(rb" *--[^\n]*\n", b"\n", text).strip()

    @property
    def calls(self) -> list[str]:
        """The commands in it. The name of the one that publishes is an argument."""
        names = {name.decode() for name in re.findall(rb"redis.p?call\('(\w+)'", self.text)}
        return sorted(names | ({"PUBLISH"} if b"redis.pcall(ARGV" in self.text else set()))

    def pack(self, keys: list[bytes], *arguments: bytes) -> bytes:
        return pack(b"EVAL", self.text, b"%d" % len(keys), *keys, *arguments)


CLAIM = Script("claim")
SEAL = Script("seal")
CLEAR = Script("clear")
FIND = Script("find")
POST = Script("post")


def name_of(command: bytes) -> str:
    """What a packed command is called, and of a script what it calls."""
    name = command.split(b"\r\n", 3)[2].decode("latin-1")
    for script in (CLAIM, SEAL, CLEAR, FIND, POST):
        if name == "EVAL" and script.text in command:
            return f"EVAL ({script.name}.lua: {', '.join(script.calls)})"
    return name
