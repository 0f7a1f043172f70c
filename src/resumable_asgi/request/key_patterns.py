"""The regular expressions by which `key_scan` reads JSON.

The branches of each exclude each other. Otherwise a match that fails would try them all for every string that
it has passed, and the time would grow exponentially. Possessive repetitions stand only around what cannot
backtrack, because Python 3.11.0 to 3.11.4 get the others wrong.
"""

from __future__ import annotations

import functools
import json
import re

_WS = rb"[ \t\n\r]*+"
_TEXT = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
# A first quote that follows no backslash ends its string: to look for that takes a fifth of the time.
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
# Within a value that is passed over: all up to a bracket whose pair is too far away, or to a quote whose
# string is not yet complete. A message of the AI SDK has brackets in three levels.
UP_TO_BRACKET = re.compile(
    rb"(?:" + _FLAT + rb"|" + _DEPTH_3 + rb')*(?:([\[{]++)|([\]}]++)|(")|\Z)', re.DOTALL
)


@functools.lru_cache
def members_before(name: str) -> re.Pattern[bytes]:
    """Matches plain members that are not called `name`, and the next one as far as its value, if that is an
    object or array (group 1) or if the member is called `name` (group 2). A plain member has a name without
    escapes, and a value that is a string, a number or a word."""
    wanted = re.escape(json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    other = _WS + b"(?!" + wanted + rb')"[^"\\]*+"' + _WS + b":" + _WS
    plain = b"(?:" + other + b"(?:" + _QUOTED + b"|" + _WORD + b"++)" + _WS + b",)*"
    then = b"(?:" + other + rb"([\[{])|" + _WS + b"(" + wanted + b")" + _WS + b":)?"
    return re.compile(plain + then, re.DOTALL)


@functools.lru_cache
def plain_key(name: str) -> re.Pattern[bytes]:
    """Matches a body whose first member is called `name` and has a text without escapes (group 1)."""
    wanted = re.escape(json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return re.compile(_WS + rb"\{" + _WS + wanted + _WS + b":" + _WS + rb'"([^"\\\x00-\x1f]*+)"')
