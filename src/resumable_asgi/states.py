"""States as tables: each machine is an enum, and one literal table of what follows which event."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)


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
