"""Finds a stream's key in a JSON body while the body arrives; no I/O.

`json.loads` would hold the event loop for as long as the body wishes. This scan builds no objects, forgets
what it has passed, and counts its steps. For the path `data.id` it reads the body
`{"user": {"a": 1}, "data": {"id": "c1"}}` in these steps (`_At` before, what the step takes, `_At` after):

    BODY             {             NAME_OR_END
    NAME_OR_END      "user": {     PASSED_BRACKETS    a value that is not on the path: only its end matters
    PASSED_BRACKETS  "a": 1}       COMMA_OR_END
    COMMA_OR_END     ,             NAME
    NAME             "data":       WANTED_VALUE       the first name of the path
    WANTED_VALUE     {             NAME_OR_END        the path continues in this object
    NAME_OR_END      "id":         WANTED_VALUE       the last name of the path
    WANTED_VALUE     "c1"          FOUND

A run of plain members (`"a": "b", "c": 1,`) is one step; members with escapes in their names are read token
by token. A token that the end of a piece cuts is kept in `_carry` and read again with the next piece. The
first of members with the same name counts. The app deals with errors outside the path or after the key.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from .key_patterns import (
    BEGIN,
    BOM,
    LONGEST_NUMBER,
    LONGEST_STRING,
    REST_OF_STRING,
    SCALAR,
    SPACE,
    STRING,
    UP_TO_BRACKET,
    end_of,
    key_of,
    members_before,
    plain_key,
    text_of,
)

MOST_STEPS = 100_000
"""Steps after which the scan gives up: one for ten bytes of a body of 1 MiB. A run of plain members takes one
step, every other member ten or more. Within a skipped value a run of brackets takes one step, and none if
three levels of them are closed within the same piece."""

_STEPS_AT_ONCE = 400
"""Steps in one call of `feed`."""

_NAME_STEPS, _ESCAPED_STEPS = 5, 20
"""Steps that a name counts for, without and with escapes."""


class KeyState(Enum):
    """What the scan knows of the key."""

    READING = auto()
    """Feed the next piece. At the end of the body there is no key."""
    BUSY = auto()
    """Feed an empty piece: the last one has not been scanned to its end."""
    FOUND = auto()
    ABSENT = auto()
    TOO_ODD = auto()
    """The scan has taken `MOST_STEPS`."""


class _At(Enum):
    """What the scan expects next in the body."""

    BODY = auto()  # a byte order mark, or the first token
    OBJECT = auto()  # the brace that opens the body's object
    NAME_OR_END = auto()  # after an opening brace on the path
    NAME = auto()  # after a comma
    COLON = auto()  # after a name that is not on the path
    VALUE = auto()  # after that colon
    COMMA_OR_END = auto()  # after a value that is not on the path
    WANTED_COLON = auto()  # after a name on the path
    WANTED_VALUE = auto()  # after that colon: the next object of the path, or the key
    PASSED_SCALAR = auto()  # the rest of a number or word that is skipped
    PASSED_STRING = auto()  # the rest of a string that is skipped
    PASSED_NAME = auto()  # the rest of a name that is too long to be on the path
    PASSED_BRACKETS = auto()  # the rest of an object or array that is skipped
    STRING_IN_BRACKETS = auto()  # the rest of a string within one


_AFTER_TOKEN = {
    (_At.OBJECT, b"{"): _At.NAME_OR_END,
    (_At.COLON, b":"): _At.VALUE,
    (_At.COMMA_OR_END, b","): _At.NAME,
    (_At.WANTED_COLON, b":"): _At.WANTED_VALUE,
}
"""The punctuation that a state accepts, and the state after it."""

_AFTER_STRING = {
    _At.PASSED_STRING: _At.COMMA_OR_END,
    _At.PASSED_NAME: _At.COLON,
    _At.STRING_IN_BRACKETS: _At.PASSED_BRACKETS,
}
"""The state after the end of a skipped string."""


class KeyScan:
    """Scans one body for the string or integer at `dotted_path`. Floats, booleans and null are no keys."""

    __slots__ = ("_at", "_carry", "_depth", "_members", "_names", "_steps", "key", "state")

    def __init__(self, dotted_path: str) -> None:
        self.state: KeyState = KeyState.READING
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
        """Whether the rest of the body does not matter."""
        return not (self.state is KeyState.READING or self.state is KeyState.BUSY)

    def feed(self, data: bytes) -> KeyState:
        """Scan the next piece of the body. A piece of 8 KiB takes 1 ms at most."""
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
        """The key, if it is the first member of the body, as it usually is; None if a full scan is needed."""
        if len(self._names) > 1:
            return None
        found = plain_key(self._names[0]).match(data)
        try:
            return found and found[1].decode()
        except UnicodeDecodeError:
            return None

    def _step(self, data: bytes, position: int) -> int | None:
        """Take the next token or run of tokens. Returns where it ends, or None if `data` ends within it."""
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
        position = end_of(SPACE, data, position)
        if position == len(data):
            return position
        return self._take(data, position, data[position : position + 1])

    def _take(self, data: bytes, position: int, first: bytes) -> int | None:
        """Take the token that begins with `first`."""
        at = self._at
        if (after := _AFTER_TOKEN.get((at, first))) is not None:
            self._at = after
        elif (at is _At.NAME or at is _At.NAME_OR_END) and first == b'"':
            return self._take_name(data, position)
        elif at is _At.VALUE:
            return self._begin_value(data, position, first)
        elif at is _At.WANTED_VALUE:
            return self._take_wanted(data, position, first)
        else:
            self.state = KeyState.ABSENT  # malformed, or the end of the object that should have the key
        return position + 1

    def _take_name(self, data: bytes, position: int) -> int | None:
        """Take a name, and compare it with the next one of the path."""
        name = self._names[-1]
        found = STRING.match(data, position)
        if found is None:
            if len(data) - position <= 12 * len(name) + 2:
                return None
            self._at = _At.PASSED_NAME
            return position + 1
        self._steps += _ESCAPED_STEPS if b"\\" in found[0] else _NAME_STEPS
        if found.end() - position <= 12 * len(name) + 2 and text_of(found[0]) == name:
            self._at = _At.WANTED_COLON
        else:
            self._at = _At.COLON
        return found.end()

    def _begin_value(self, data: bytes, position: int, first: bytes) -> int:
        """Skip a value that is not on the path, or begin to."""
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
        """Enter the next object of the path, or take the key."""
        if len(self._names) > 1:
            if first == b"{":
                self._names.pop()
                self._members = members_before(self._names[-1])
                self._at = _At.NAME_OR_END
            else:
                self.state = KeyState.ABSENT
            return position + 1
        if first == b'"':
            found, longest = STRING.match(data, position), LONGEST_STRING
        else:
            found, longest = SCALAR.match(data, position), LONGEST_NUMBER
            if found is not None and found.end() == len(data):
                found = None  # it may continue in the next piece
        if found is None and len(data) - position <= longest:
            return None
        self.key = None if found is None else key_of(found[0])
        self.state = KeyState.ABSENT if self.key is None else KeyState.FOUND
        return position + 1

    def _begin(self, data: bytes) -> int | None:
        """Take the byte order mark, if there is one, and the brace that opens the object."""
        found = BEGIN.match(data)
        if found is not None:
            self._at = _At.NAME_OR_END
            return found.end()
        if len(data) < len(BOM) and BOM.startswith(data):
            return None
        self._at = _At.OBJECT
        return len(BOM) if data.startswith(BOM) else 0

    def _pass_members(self, found: re.Match[bytes]) -> int:
        """Skip plain members, up to a value that `members_before` stops at."""
        self._at = _At.NAME
        if found[1] is not None:
            self._at = _At.PASSED_BRACKETS
            self._depth = 1
        elif found[2] is not None:
            self._at = _At.WANTED_VALUE
        return found.end()

    def _pass_scalar(self, data: bytes, position: int) -> int:
        end = end_of(SCALAR, data, position)
        if end < len(data):
            self._at = _At.COMMA_OR_END
        return end

    def _pass_string(self, data: bytes, position: int) -> int | None:
        end = end_of(REST_OF_STRING, data, position)
        if end == len(data):
            return end
        if data[end : end + 1] != b'"':
            return None if end == position else end  # a backslash without the character that it escapes
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
