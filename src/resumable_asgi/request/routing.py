"""Finds the configured route and the action of a request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from starlette.routing import compile_path
from starlette.types import Scope

from ..settings import ResumableRoute
from ..templates import Action, Rule

_ENCODED_SLASH = re.compile(rb"%2[fF]")
_SLASH_MARK = "\udc2f"
"""Replaces an encoded slash during matching. UTF-8 never decodes to a lone surrogate."""


class Match(NamedTuple):
    """A request on a configured route; `params` are its fully decoded path parameters."""

    route: ResumableRoute
    action: Action
    params: dict[str, str]
    start: Match | None = None
    """For a stop by the default template: the start that the request is if there is nothing to stop. A start
    template that ends in a `path` parameter matches its own stops."""


class _Rule(NamedTuple):
    route: ResumableRoute
    rule: Rule
    regex: re.Pattern[str]
    start: re.Pattern[str] | None


class Router:
    """Finds the first configured route that a request belongs to."""

    __slots__ = ("_rules", "prefixes")

    def __init__(self, routes: Iterable[ResumableRoute]) -> None:
        rules = [rule for route in routes for rule in _rules_of(route)]
        self._rules = {
            method: tuple(each for each in rules if method in each.rule.methods)
            for method in {method for each in rules for method in each.rule.methods}
        }
        self.prefixes: tuple[str, ...] = tuple({each.rule.template.partition("{")[0] for each in rules})
        """The text of each template before its first parameter. A path below the mount point that begins with
        none of them belongs to no route."""

    def match(self, scope: Scope) -> Match | None:
        """The route and action of an HTTP `scope`, or None. Never raises, however odd the path is."""
        path: str = scope["path"]
        mount = _mount_length(path, scope.get("root_path"))
        if not path.startswith(self.prefixes, mount):
            return None
        marked = _mark_encoded_slashes(path, scope.get("raw_path"))[mount:]
        for route, rule, regex, start in self._rules.get(scope["method"], ()):
            if found := regex.match(marked):
                other = start and start.match(marked)
                started = Match(route, Action.START, _params(other)) if other else None
                return Match(route, rule.action, _params(found), started)
        return None


def _params(found: re.Match[str]) -> dict[str, str]:
    params = found.groupdict("")
    if _SLASH_MARK in found[0]:
        params = {name: value.replace(_SLASH_MARK, "/") for name, value in params.items()}
    return params


def _rules_of(route: ResumableRoute) -> list[_Rule]:
    start = compile_path(route.path)[0]
    return [
        _Rule(
            route,
            rule,
            compile_path(rule.template)[0],
            start if rule.template == route.default_stop and rule.methods.issubset(route.methods) else None,
        )
        for rule in route.templates.rules()
    ]


def _mount_length(path: str, root_path: str | None) -> int:
    """The length of the mount point in `path`; as in `starlette._utils.get_route_path`."""
    if not root_path or not path.startswith(root_path):
        return 0
    length = len(root_path)
    return length if path[length : length + 1] in ("", "/") else 0


def _mark_encoded_slashes(path: str, raw_path: bytes | None) -> str:
    """`path` with a mark for each slash that is encoded in `raw_path`, so that it separates no segments.

    `raw_path` is used only if it agrees with `path`. Servers may omit it, omit the mount point in it, or add
    the query to it, and middleware that rewrites `path` seldom updates it.
    """
    if not raw_path or not _ENCODED_SLASH.search(raw_path):
        return path
    parts = _ENCODED_SLASH.split(raw_path.partition(b"?")[0])
    marked = _SLASH_MARK.join(unquote_to_bytes(part).decode("utf-8", "replace") for part in parts)
    plain = marked.replace(_SLASH_MARK, "/")
    # Apart from a mount point that only `path` has, both are equal, character by character.
    return path[: len(path) - len(plain)] + marked if path.endswith(plain) else path
