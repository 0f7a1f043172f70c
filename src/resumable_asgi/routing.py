"""From a scope to the configured route, the action and the stream's key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple, cast
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import Scope

from resumable_asgi.settings import ResumableRoute, ask

LONGEST_KEY = 512
"""Characters; a request with a longer key is unrecorded."""

_ENCODED_SLASH = re.compile(rb"%2[fF]")
_SLASH_MARK = "\udc2f"
"""Stands for an encoded slash while matching: decoding UTF-8 never yields a lone surrogate, so it is free."""


class Action(Enum):
    """What a matched request asks for."""

    START = auto()
    RESUME = auto()
    STOP = auto()


class Match(NamedTuple):
    """A request on a configured route; `params` are its fully decoded path parameters."""

    route: ResumableRoute
    action: Action
    params: dict[str, str]


class _Rule(NamedTuple):
    route: ResumableRoute
    action: Action
    methods: frozenset[str]
    template: str
    regex: re.Pattern[str]


class Router:
    """Finds the first configured route that a request belongs to.

    Within one route the resume and stop templates come before the start template: they are the longer
    ones, and a start template that ends in a `path` parameter would swallow them.
    """

    __slots__ = ("_rules", "prefixes")

    def __init__(self, routes: Iterable[ResumableRoute]) -> None:
        rules = [rule for route in routes for rule in _rules_of(route)]
        self._rules = {
            method: tuple(rule for rule in rules if method in rule.methods)
            for method in {method for rule in rules for method in rule.methods}
        }
        self.prefixes = tuple({rule.template.partition("{")[0] for rule in rules})
        """The texts before each template's first parameter: a path that begins with none of them below the
        mount point belongs to no route."""

    def match(self, scope: Scope) -> Match | None:
        """The route and action of an HTTP `scope`, or None. Never raises, however odd the path is."""
        path: str = scope["path"]
        mount = _mount_length(path, scope.get("root_path"))
        if not path.startswith(self.prefixes, mount):
            return None
        marked = _mark_encoded_slashes(path, scope.get("raw_path"))[mount:]
        for rule in self._rules.get(scope["method"], ()):
            if found := rule.regex.match(marked):
                params = found.groupdict("")
                if _SLASH_MARK in marked:
                    params = {name: value.replace(_SLASH_MARK, "/") for name, value in params.items()}
                return Match(rule.route, rule.action, params)
        return None


def _rules_of(route: ResumableRoute) -> Iterator[_Rule]:
    def rule(action: Action, methods: Iterable[str], template: str) -> _Rule:
        return _Rule(route, action, frozenset(methods), template, compile_path(template)[0])

    yield rule(Action.RESUME, {"GET", "HEAD"}, route.resume)
    if route.stop is not None:
        yield rule(Action.STOP, {"POST"}, route.stop)
        yield rule(Action.STOP, {"DELETE"}, route.resume)
    yield rule(Action.START, route.methods, route.path)


def _mount_length(path: str, root_path: str | None) -> int:
    """How many characters of `path` are the mount point; as in `starlette._utils.get_route_path`."""
    if not root_path or not path.startswith(root_path):
        return 0
    length = len(root_path)
    return length if path[length : length + 1] in ("", "/") else 0


def _mark_encoded_slashes(path: str, raw_path: bytes | None) -> str:
    """`path` with a mark for each slash that stands encoded in `raw_path`, so that it separates nothing.

    `raw_path` only counts while it says the same as `path`: servers may leave it out, put no mount point or
    a query into it, and middleware that rewrites `path`, which the app routes by, seldom updates it.
    """
    if not raw_path or not _ENCODED_SLASH.search(raw_path):
        return path
    parts = _ENCODED_SLASH.split(raw_path.partition(b"?")[0])
    marked = _SLASH_MARK.join(unquote_to_bytes(part).decode("utf-8", "replace") for part in parts)
    plain = marked.replace(_SLASH_MARK, "/")
    # Equal but for a mount point that only `path` has; every character of the two then lines up.
    return path[: len(path) - len(plain)] + marked if path.endswith(plain) else path


async def read_key(match: Match, request: Request) -> str | None:
    """The stream's key, or None if the request has none: 1 to 512 characters that UTF-8 can encode.

    Raises:
        ConfigurationError: a user's callable returned something else than a string or None.
        starlette.requests.ClientDisconnect: the client left before its body was complete.
    """
    route = match.route
    if match.action is not Action.START:
        return _usable(match.params.get(route.key_param, match.params.get("key")))
    if not isinstance(route.key, str):
        return _usable(await ask("key", route.key, request))
    form, _, name = route.key.partition(":")
    if form == "path":
        return _usable(match.params.get(name))
    if form == "query":
        return _usable(request.query_params.get(name))
    if form == "header":
        return _usable(request.headers.get(name))
    return _usable(_json_text(await request.body(), name)) if _is_json(request) else None


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _json_text(body: bytes, dotted_path: str) -> str | None:
    """The string or integer at `dotted_path` of a JSON object; anything malformed is None."""
    try:
        value: object = json.loads(body)
        for name in dotted_path.split("."):
            if not isinstance(value, Mapping):
                return None
            value = cast("Mapping[str, Any]", value).get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)  # ValueError beyond the interpreter's limit of digits
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def _usable(key: str | None) -> str | None:
    if not key or len(key) > LONGEST_KEY:
        return None
    try:
        key.encode()
    except UnicodeEncodeError:
        return None
    return key
