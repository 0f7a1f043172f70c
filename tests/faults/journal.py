"""What the app under test sent, written down by itself before it sent it."""

from __future__ import annotations

import dataclasses
import os
import struct
import time
from pathlib import Path

_RECORD = struct.Struct(">cdI")


class JournalWriter:
    """One file a run. Every record is in the kernel before `write` returns, so a SIGKILL loses none."""

    def __init__(self, directory: Path, run: str, incarnation: str) -> None:
        self._fd = os.open(directory / run, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o644)
        self._ended = False
        self._write(b"S", incarnation.encode())

    def chunk(self, data: bytes) -> None:
        self._write(b"C", data)

    def end(self, how: str) -> None:
        """`finished`, `raised`, or what cut the generator short; only the first end counts."""
        if not self._ended:
            self._ended = True
            self._write(b"E", how.encode())
            os.close(self._fd)

    def _write(self, kind: bytes, data: bytes) -> None:
        os.write(self._fd, _RECORD.pack(kind, time.monotonic(), len(data)) + data)


@dataclasses.dataclass(frozen=True)
class Journal:
    """The journal of one run as it is now. Times are those of the machine's monotonic clock."""

    incarnation: str
    started: float
    body: bytes
    marks: list[tuple[float, int]]
    """When the body had which length."""
    ending: str | None
    ended: float | None

    @classmethod
    def read(cls, directory: Path, run: str) -> Journal | None:
        """None if the run never began."""
        try:
            raw = (directory / run).read_bytes()
        except FileNotFoundError:
            return None
        records: list[tuple[bytes, float, bytes]] = []
        at = 0
        while at + _RECORD.size <= len(raw):
            kind, when, length = _RECORD.unpack_from(raw, at)
            at += _RECORD.size + length
            if at <= len(raw):
                records.append((kind, when, raw[at - length : at]))
        if not records:
            return None
        body = bytearray()
        marks: list[tuple[float, int]] = []
        for kind, when, data in records:
            if kind == b"C":
                body += data
                marks.append((when, len(body)))
        last_kind, last_when, last = records[-1]
        ending = (last.decode(), last_when) if last_kind == b"E" else (None, None)
        return cls(records[0][2].decode(), records[0][1], bytes(body), marks, *ending)
