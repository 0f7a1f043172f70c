"""The states of a copy, and the one table of what follows which event."""

from __future__ import annotations

from enum import Enum, auto


class CopyState(Enum):
    """What is known of a copy."""

    NEW = auto()
    """No claim was sent: nobody else can know of the log."""
    CLAIMING = auto()
    SYNCED = auto()
    """Redis holds the log up to `offset`, and takes appends."""
    STALE = auto()
    """It must be claimed again before anything is appended."""
    GIVEN_UP = auto()
    """It cannot be completed, and is only to be sealed."""
    SEALED = auto()
    """By whomever. The pointer may still have to be cleared."""


class CopyEvent(Enum):
    """What happens to a copy."""

    CLAIM = auto()
    """A claim is sent."""
    CLAIMED = auto()
    """A claim is answered: `offset` is known."""
    REFUSED = auto()
    """Nothing of the claim has happened."""
    INVALIDATE = auto()
    """The copy may not be what it was taken for."""
    LOSE = auto()
    """What was sent may or may not have happened, and no answer will come."""
    GIVE_UP = auto()
    SEAL = auto()
    """Redis says that the copy is sealed."""


_NEW, _CLAIMING, _SYNCED, _STALE, _GIVEN_UP, _SEALED = CopyState

COPY = {
    (_NEW, CopyEvent.CLAIM): _CLAIMING,
    (_NEW, CopyEvent.INVALIDATE): _NEW,
    (_NEW, CopyEvent.LOSE): _NEW,
    (_NEW, CopyEvent.GIVE_UP): _GIVEN_UP,
    (
        _NEW,
        CopyEvent.SEAL,
    ): _SEALED,  # it was released before Redis took a claim
    (_CLAIMING, CopyEvent.CLAIMED): _SYNCED,
    (_CLAIMING, CopyEvent.REFUSED): _NEW,
    (_CLAIMING, CopyEvent.INVALIDATE): _CLAIMING,  # the answer will tell
    (_CLAIMING, CopyEvent.LOSE): _STALE,
    (_CLAIMING, CopyEvent.GIVE_UP): _GIVEN_UP,
    (_CLAIMING, CopyEvent.SEAL): _SEALED,
    (_SYNCED, CopyEvent.INVALIDATE): _STALE,
    (_SYNCED, CopyEvent.LOSE): _STALE,
    (_SYNCED, CopyEvent.GIVE_UP): _GIVEN_UP,
    (_SYNCED, CopyEvent.SEAL): _SEALED,
    (_STALE, CopyEvent.CLAIM): _CLAIMING,
    (_STALE, CopyEvent.INVALIDATE): _STALE,
    (_STALE, CopyEvent.LOSE): _STALE,
    (_STALE, CopyEvent.GIVE_UP): _GIVEN_UP,
    (_STALE, CopyEvent.SEAL): _SEALED,
    (_GIVEN_UP, CopyEvent.CLAIMED): _GIVEN_UP,  # the claim was sent before
    (_GIVEN_UP, CopyEvent.REFUSED): _GIVEN_UP,
    (_GIVEN_UP, CopyEvent.INVALIDATE): _GIVEN_UP,
    (_GIVEN_UP, CopyEvent.LOSE): _GIVEN_UP,
    (_GIVEN_UP, CopyEvent.GIVE_UP): _GIVEN_UP,
    (_GIVEN_UP, CopyEvent.SEAL): _SEALED,
    (_SEALED, CopyEvent.INVALIDATE): _SEALED,
    (_SEALED, CopyEvent.LOSE): _SEALED,
}
