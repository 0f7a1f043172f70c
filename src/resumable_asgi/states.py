"""States as tables: each machine is an enum, and one literal table of what follows which event."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar


class Member(Enum):
    """A state or an event. `Enum` hashes names, and does it in Python; members are singletons."""

    __hash__ = object.__hash__


State = TypeVar("State", bound=Member)
Event = TypeVar("Event", bound=Member)


class IllegalTransitionError(RuntimeError):
    """The table has nothing for this event in this state; the message names both."""


def after(table: Mapping[tuple[State, Event], State], state: State, event: Event) -> State:
    """The state that follows `event` in `state`. Raises `IllegalTransitionError`."""
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransitionError(
            f"{type(state).__name__} {state.name} has nothing for {event.name}"
        ) from None
