"""Finds a stream's key in a JSON body while the body arrives; no I/O.

`json.loads` holds the event loop for as long as the body pleases. This scan builds nothing, forgets what it
has passed, and counts its steps. It reads the members of the objects on the way to the key; of all other
values it only looks for the end. It stops at the key, or as soon as there can be none. Of repeated members
the first counts. What is malformed beside the way to the key, or behind it, is left to the app.
"""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import cast

from .key_patterns import (
    BEGIN,
    INTEGER,
    REST_OF_STRING,
    SCALAR,
    SPACE,
    STRING,
    UP_TO_BRACKET,
    members_before,
    plain_key,
)

MOST_STEPS = 100_000
"""Steps after which a body is too odd: one for ten bytes of a body of 1 MiB. A run of plain members of the
objects on the way to the key takes one step, every other member ten or more. In values that are passed over,
a run of brackets takes one, and none where three levels of them are closed again within a slice."""

_STEPS_AT_ONCE = 400

_LONGEST_KEY = 512 * 12 + 2
"""Bytes of 512 characters that are written as two escapes each (`\\ud83d\\ude00`), and two quotes."""

_LONGEST_NUMBER = 513

_NAME_STEPS = 5
_ESCAPED_STEPS = 20
"""What decoding a name costs."""

_BOM = b"\xef\xbb\xbf"


class KeyState(Enum):
    """What is known of the key so far."""

    READING = auto()
    """Feed more; at the end of the body it means that there is no key."""
    BUSY = auto()
    """Feed nothing: what was fed has not been worked through yet."""
    FOUND = auto()
    ABSENT = auto()
    TOO_ODD = auto()
    """The body takes more work than a key is worth."""


class _At(Enum):
    """What comes next in the body."""

    BODY = auto()
    OBJECT = auto()
    NAME_OR_END = auto()
    NAME = auto()
    COLON = auto()
    VALUE = auto()
    COMMA_OR_END = auto()
    WANTED_COLON = auto()
    WANTED_VALUE = auto()
    PASSED_SCALAR = auto()
    PASSED_STRING = auto()
    PASSED_NAME = auto()
    PASSED_BRACKETS = auto()
    STRING_IN_BRACKETS = auto()


_AFTER_STRING = {
    _At.PASSED_STRING: _At.COMMA_OR_END,
    _At.PASSED_NAME: _At.COLON,
    _At.STRING_IN_BRACKETS: _At.PASSED_BRACKETS,
}


class KeyScan:
    """One body's scan for the string or integer at `dotted_path`; a float, a boolean and null are no keys."""

    __slots__ = ("_at", "_carry", "_depth", "_members", "_names", "_steps", "key", "state")

    def __init__(self, dotted_path: str) -> None:
        self.state = KeyState.READING
        self.key: str | None = None
        """The key, once it is found."""
        self._at = _At.BODY
        self._names = dotted_path.split(".")[::-1]
        self._members = members_before(self._names[-1])
        self._carry = b""
        self._depth = 0
        self._steps = 0

    def __repr__(self) -> str:
        return f"<KeyScan {self.state.name} at {self._at.name}, {self._steps} steps>"

    @property
    def decided(self) -> bool:
        """Whether more of the body changes nothing."""
        return self.state is not KeyState.READING and self.state is not KeyState.BUSY

    def feed(self, data: bytes) -> KeyState:
        """Go on with the next piece of the body. One of 8 KiB takes 1 ms at most."""
        if self._at is _At.BODY and not self._carry and (key := self._at_once(data)) is not None:
            self.key, self.state = key, KeyState.FOUND
            return self.state
        if self.state is KeyState.BUSY:
            self.state = KeyState.READING
        if self._carry:
            data, self._carry = self._carry + data, b""
        position = 0
        pause = self._steps + _STEPS_AT_ONCE
        while self.state is KeyState.READING and position < len(data):
            self._steps += 1
            if self._steps > MOST_STEPS:
                self.state = KeyState.TOO_ODD
                break
            if self._steps > pause:
                self.state, self._carry = KeyState.BUSY, data[position:]
                break
            after = self._step(data, position)
            if after is None:
                self._carry = data[position:]
                break
            position = after
        return self.state

    def _at_once(self, data: bytes) -> str | None:
        """The key in a body that begins as nearly all do; None if it takes a closer look."""
        if len(self._names) > 1:
            return None
        found = plain_key(self._names[0]).match(data)
        try:
            return found and found[1].decode()
        except UnicodeDecodeError:
            return None

    def _step(self, data: bytes, position: int) -> int | None:
        """Take what comes next and return where it ends; None if `data` ends within it."""
        at = self._at
        if at is _At.PASSED_BRACKETS:
            return self._pass_brackets(data, position)
        if at is _At.PASSED_STRING or at is _At.PASSED_NAME or at is _At.STRING_IN_BRACKETS:
            return self._pass_string(data, position)
        if at is _At.PASSED_SCALAR:
            return self._pass_scalar(data, position)
        if at is _At.BODY:
            return self._begin(data)
        if at is _At.NAME or at is _At.NAME_OR_END:
            found = self._members.match(data, position)
            if found is not None and found.end() > position:
                return self._pass_members(found)
        position = _end(SPACE, data, position)
        if position == len(data):
            return position
        return self._take(data, position, data[position : position + 1])

    def _take(self, data: bytes, position: int, first: bytes) -> int | None:
        """Take the token that begins with `first`."""
        at = self._at
        if at is _At.COMMA_OR_END and first == b",":
            self._at = _At.NAME
        elif at is _At.COLON and first == b":":
            self._at = _At.VALUE
        elif at is _At.WANTED_COLON and first == b":":
            self._at = _At.WANTED_VALUE
        elif at is _At.OBJECT and first == b"{":
            self._at = _At.NAME_OR_END
        elif (at is _At.NAME or at is _At.NAME_OR_END) and first == b'"':
            return self._take_name(data, position)
        elif at is _At.VALUE:
            return self._begin_value(data, position, first)
        elif at is _At.WANTED_VALUE:
            return self._take_wanted(data, position, first)
        else:
            self.state = KeyState.ABSENT  # malformed, or the end of the object that would have the key
        return position + 1

    def _take_name(self, data: bytes, position: int) -> int | None:
        name = self._names[-1]
        found = STRING.match(data, position)
        if found is None:
            if len(data) - position <= 12 * len(name) + 2:
                return None
            self._at = _At.PASSED_NAME
            return position + 1
        self._steps += _ESCAPED_STEPS if b"\\" in found[0] else _NAME_STEPS
        if found.end() - position <= 12 * len(name) + 2 and _text(found[0]) == name:
            self._at = _At.WANTED_COLON
        else:
            self._at = _At.COLON
        return found.end()

    def _begin_value(self, data: bytes, position: int, first: bytes) -> int:
        if first == b'"':
            found = STRING.match(data, position)
            if found is not None:
                self._at = _At.COMMA_OR_END
                return found.end()
            self._at = _At.PASSED_STRING
        elif first in b"[{":
            self._at = _At.PASSED_BRACKETS
            self._depth = 1
        else:
            self._at = _At.PASSED_SCALAR
            return position
        return position + 1

    def _take_wanted(self, data: bytes, position: int, first: bytes) -> int | None:
        if len(self._names) > 1:
            if first == b"{":
                self._names.pop()
                self._members = members_before(self._names[-1])
                self._at = _At.NAME_OR_END
            else:
                self.state = KeyState.ABSENT
            return position + 1
        if first == b'"':
            found, longest = STRING.match(data, position), _LONGEST_KEY
        else:
            found, longest = SCALAR.match(data, position), _LONGEST_NUMBER
            if found is not None and found.end() == len(data):
                found = None  # more of it may come
        if found is None and len(data) - position <= longest:
            return None
        self.key = None if found is None else _key(found[0])
        self.state = KeyState.ABSENT if self.key is None else KeyState.FOUND
        return position + 1

    def _begin(self, data: bytes) -> int | None:
        found = BEGIN.match(data)
        if found is not None:
            self._at = _At.NAME_OR_END
            return found.end()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            return None
        self._at = _At.OBJECT
        return len(_BOM) if data.startswith(_BOM) else 0

    def _pass_members(self, found: re.Match[bytes]) -> int:
        self._at = _At.NAME
        if found[1] is not None:
            self._at = _At.PASSED_BRACKETS
            self._depth = 1
        elif found[2] is not None:
            self._at = _At.WANTED_VALUE
        return found.end()

    def _pass_scalar(self, data: bytes, position: int) -> int:
        end = _end(SCALAR, data, position)
        if end < len(data):
            self._at = _At.COMMA_OR_END
        return end

    def _pass_string(self, data: bytes, position: int) -> int | None:
        end = _end(REST_OF_STRING, data, position)
        if end == len(data):
            return end
        if data[end : end + 1] != b'"':
            return None if end == position else end  # a backslash, and what it escapes is to come
        self._at = _AFTER_STRING[self._at]
        return end + 1

    def _pass_brackets(self, data: bytes, position: int) -> int:
        found = UP_TO_BRACKET.match(data, position)
        assert found is not None
        if found[1]:
            self._depth += len(found[1])
        elif found[2]:
            closed = len(found[2])
            if closed >= self._depth:
                self._at = _At.COMMA_OR_END
                return found.end() - closed + self._depth
            self._depth -= closed
        elif found[3]:
            self._at = _At.STRING_IN_BRACKETS
        return found.end()


def _end(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    """Where a match of a pattern that also matches nothing ends."""
    found = pattern.match(data, position)
    assert found is not None
    return found.end()


def _text(string: bytes) -> str | None:
    """The text of a JSON string, None if it is malformed."""
    try:
        return cast("str", json.loads(string.decode()))
    except ValueError:
        return None


def _key(value: bytes) -> str | None:
    if value.startswith(b'"'):
        return _text(value)
    if len(value) > _LONGEST_NUMBER or not INTEGER.fullmatch(value):
        return None
    return str(int(value))
