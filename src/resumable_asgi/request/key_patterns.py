"""The regular expressions with which `key_scan` reads JSON, and what their matches mean.

The alternatives of each expression exclude each other. Otherwise a failing match would try all of them for
every string before it, in exponential time. Possessive repetitions are used only where no backtracking is
possible, because Python 3.11.0 to 3.11.4 handle the others incorrectly.
"""

from __future__ import annotations

import functools
import json
import re
from typing import cast

LONGEST_STRING = 512 * 12 + 2
"""Bytes of a string that can be a key: 512 characters of two escapes (`\\ud83d\\ude00`), and two quotes."""

LONGEST_NUMBER = 513
"""Bytes of a number that can be a key."""

BOM = b"\xef\xbb\xbf"

_WS = rb"[ \t\n\r]*+"
_TEXT = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
# Usually the first quote without a backslash before it ends the string: this takes a fifth of the time.
_QUOTED = rb'"(?:[^"]*+(?<!\\)"|(?![^"]*+(?<!\\)")' + _TEXT + rb'")'
_WORD = rb'[^ \t\n\r",:\[\]{}]'

SPACE = re.compile(_WS)
BEGIN = re.compile(rb"(?:\xef\xbb\xbf)?+" + _WS + rb"\{")
STRING = re.compile(_QUOTED, re.DOTALL)
REST_OF_STRING = re.compile(_TEXT, re.DOTALL)
SCALAR = re.compile(_WORD + b"*+")
INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_FLAT = rb'[^"\[\]{}]++|' + _QUOTED
_DEPTH_1 = rb"[\[{](?:" + _FLAT + rb")*[\]}]"
_DEPTH_2 = rb"[\[{](?:" + _FLAT + rb"|" + _DEPTH_1 + rb")*[\]}]"
_DEPTH_3 = rb"[\[{](?:" + _FLAT + rb"|" + _DEPTH_2 + rb")*[\]}]"
# Within a skipped value: everything up to a bracket whose partner is more than three levels away, or up to
# the quote of an incomplete string. A message of the AI SDK has three levels of brackets.
UP_TO_BRACKET = re.compile(
    rb"(?:" + _FLAT + rb"|" + _DEPTH_3 + rb')*(?:([\[{]++)|([\]}]++)|(")|\Z)', re.DOTALL
)


@functools.lru_cache
def members_before(name: str) -> re.Pattern[bytes]:
    """Matches plain members with other names than `name`, and the beginning of the next member.

    That is the member up to its value, if the value is an object or array (group 1) or if the member has the
    name `name` (group 2). A plain member has a name without escapes, and a string, number or word as value.
    """
    wanted = re.escape(json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    other = _WS + b"(?!" + wanted + rb')"[^"\\]*+"' + _WS + b":" + _WS
    plain = b"(?:" + other + b"(?:" + _QUOTED + b"|" + _WORD + b"++)" + _WS + b",)*"
    then = b"(?:" + other + rb"([\[{])|" + _WS + b"(" + wanted + b")" + _WS + b":)?"
    return re.compile(plain + then, re.DOTALL)


@functools.lru_cache
def plain_key(name: str) -> re.Pattern[bytes]:
    """Matches a body whose first member has the name `name`, and a string without escapes (group 1)."""
    wanted = re.escape(json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return re.compile(_WS + rb"\{" + _WS + wanted + _WS + b":" + _WS + rb'"([^"\\\x00-\x1f]*+)"')


def end_of(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    """The end of the match of a pattern that always matches."""
    found = pattern.match(data, position)
    assert found is not None
    return found.end()


def text_of(string: bytes) -> str | None:
    """The text of a JSON string; None if it is malformed."""
    try:
        return cast("str", json.loads(string.decode()))
    except ValueError:
        return None


def key_of(value: bytes) -> str | None:
    """The key that a string or number stands for; None if it is neither a string nor an integer."""
    if value.startswith(b'"'):
        return text_of(value)
    if len(value) > LONGEST_NUMBER or not INTEGER.fullmatch(value):
        return None
    return str(int(value))
