"""The lease that tells other processes that this worker lives, and whose value is its mailbox."""

from __future__ import annotations

from typing import NamedTuple

from .answers import refused
from .resp import Reply


class Mail(NamedTuple):
    """What a renewal of the lease says. `vanished`: the lease was gone although it had been renewed, so Redis
    was emptied, or this process has slept for longer than its lease."""

    vanished: bool
    stops: list[str]
    """Ids of logs that are to be stopped."""


class Lease:
    """Does no I/O: the writer sends `command` on each heartbeat, and hands the reply to `renewed`."""

    def __init__(self, command: bytes, seconds: float) -> None:
        self.command = command
        self.seconds = seconds
        self._renewed_at = float("-inf")
        self._expected = False
        """Whether Redis should have it when it is renewed next."""

    def renewed(self, reply: Reply, now: float) -> Mail:
        """Take the old value, which is the mailbox. Raises `RedisRefusedError`."""
        refused(reply)
        vanished = reply is None and self._expected
        text = "" if reply is None else reply.decode("latin-1")
        stops = [text[at : at + 32] for at in range(0, len(text), 32)]
        self._expected = True
        self._renewed_at = now
        return Mail(vanished, stops)

    def lapse(self) -> None:
        """It is not renewed for now, so that it may be gone the next time."""
        self._expected = False

    def valid(self, now: float) -> bool:
        """Whether other processes may still take this one to be alive."""
        return now - self._renewed_at < self.seconds
