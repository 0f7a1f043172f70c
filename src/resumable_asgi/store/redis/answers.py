"""The answers of the Lua scripts, parsed into named fields. The head of each script says what they mean."""

from __future__ import annotations

from typing import NamedTuple

from ...outcome import Outcome
from . import refusals
from .commands import Commands, LogKeys
from .connection import RedisRefusedError
from .resp import Reply, ReplyError

Seal = tuple[Outcome, str]
"""An outcome and its detail."""


class ClaimAnswer(NamedTuple):
    """`stored` bytes are there. `replaced`: a newer stream has the pointer, or had it last."""

    stored: int
    replaced: bool
    seal: Seal | None
    """Set if the log is sealed."""

    @classmethod
    def parse(cls, reply: list[Reply]) -> ClaimAnswer:
        if len(reply) == 1:
            return cls(int(reply[0]), replaced=False, seal=None)
        if reply[1:] == [b"replaced"]:
            return cls(int(reply[0]), replaced=True, seal=None)
        return cls(int(reply[0]), replaced=False, seal=_seal(reply[1:]))


class SealAnswer(NamedTuple):
    """Whether this seal is the one. If it is not, the log is `gone`, has another seal, or ends elsewhere."""

    sealed: bool
    gone: bool
    before: Seal | None
    """The seal that was there before."""
    untold: str
    """Why followers could not be told of this seal; empty if they were."""

    @classmethod
    def parse(cls, reply: list[Reply]) -> SealAnswer:
        kind = reply[0]
        return cls(
            sealed=kind == b"sealed",
            gone=kind == b"gone",
            before=_seal(reply[1:]) if kind == b"was" else None,
            untold=reply[1].decode("utf-8", "replace") if kind == b"sealed" and len(reply) > 1 else "",
        )


class FindAnswer(NamedTuple):
    """As Redis gives it, since a log that this version cannot read is not yet wrong to find.

    A seal without a detail ends the answer there: Lua drops what follows.
    """

    id: bytes
    head: bytes | None
    """None if the log has outgrown its limit."""
    end: bytes
    outcome: bytes | None
    """None while the log is live."""
    # Lua ends a table at its first nil.
    detail: bytes | None = None
    first_end: bytes | None = None
    """The offset after the first entry."""
    first_data: bytes | None = None
    worker: bytes | None = None
    """Set if there is no head, and the last entry names the worker."""

    @classmethod
    def parse(cls, reply: Reply) -> FindAnswer | None:
        return None if reply is None else cls(*reply)

    @property
    def first(self) -> tuple[int, bytes] | None:
        """The first entry: the offset after it, and its bytes."""
        if self.first_end is None or self.first_data is None:
            return None
        return int(self.first_end), self.first_data


def _seal(fields: list[Reply]) -> Seal:
    """A seal that no version known here writes stands for the worst."""
    try:
        return Outcome(fields[0].decode()), fields[1].decode()
    except (ValueError, IndexError):
        return Outcome.LOST, "an unknown seal"


def note_untold(commands: Commands, keys: LogKeys, answer: SealAnswer) -> None:
    """Say it if a seal could not be published."""
    if answer.untold:
        refusals.note(commands.publish(keys, 0, b""), answer.untold)


_OF_ONE_LOG = ("WRONGTYPE", "equal or smaller", "exhausted the last possible ID")
"""Errors that tell something about one log, by their texts in Redis 6.2 to Valkey 9; a script's error holds
that of its command. All others are taken to be Redis's state."""


def refused(reply: Reply) -> bool:
    """Whether a reply is an error that concerns one log only. Raises `RedisRefusedError` for every other."""
    if not isinstance(reply, ReplyError):
        return False
    text = str(reply)
    if any(part in text for part in _OF_ONE_LOG):
        return True
    raise RedisRefusedError(text)
