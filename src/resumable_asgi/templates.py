"""The path templates of routes: which requests each one answers, and whether a resume finds every stream."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import NamedTuple

from starlette.convertors import CONVERTOR_TYPES
from starlette.routing import compile_path

from .errors import ConfigurationError

_SAMPLE = "sample"
_SAMPLES = (_SAMPLE, "7", "7.5", "123e4567-e89b-12d3-a456-426614174000", f"{_SAMPLE}/{_SAMPLE}")
_MOST_TRIALS = 300
_LITERAL = re.compile(r"(?<=/)[^/{}]+(?=/|$)")
_PARAMETER = re.compile(r"{([a-zA-Z_][a-zA-Z0-9_]*)(?::([a-zA-Z_][a-zA-Z0-9_]*))?}")


class Action(Enum):
    """What a matched request asks for."""

    START = auto()
    RESUME = auto()
    STOP = auto()


class Rule(NamedTuple):
    """One template and its methods."""

    action: Action
    methods: frozenset[str]
    template: str


class Templates(NamedTuple):
    """The templates of one route. Routes with the same `identity` find each other's streams."""

    path: str
    methods: frozenset[str]
    resume: str
    stop: str | None
    key_param: str
    """The parameter of `resume` and `stop` that holds the key, unless they call it `key`."""
    shared_params: tuple[str, ...]
    identity: object

    def rules(self) -> Iterator[Rule]:
        """The rules in the order in which the router tries them.

        Resume and stop come first: they are longer, and a start template that ends in a `path` parameter
        matches them too.
        """
        yield Rule(Action.RESUME, frozenset({"GET", "HEAD"}), self.resume)
        if self.stop is not None:
            yield Rule(Action.STOP, frozenset({"POST"}), self.stop)
            yield Rule(Action.STOP, frozenset({"DELETE"}), self.resume)
        yield Rule(Action.START, self.methods, self.path)


class _Asked(NamedTuple):
    route: Templates
    action: Action
    params: dict[str, str]


class _Trial:
    """Tries the templates of all routes in turn, as the router does."""

    def __init__(self, routes: Sequence[Templates]) -> None:
        self._rules = [
            (route, rule, compile_path(rule.template)[0]) for route in routes for rule in route.rules()
        ]

    def ask(self, method: str, path: str) -> _Asked | None:
        for route, rule, regex in self._rules:
            if method in rule.methods and (found := regex.match(path)):
                return _Asked(route, rule.action, found.groupdict(""))
        return None


def check_every_start_is_found(routes: Sequence[Templates]) -> None:
    """Try each route's templates with sample parameters and with words from the other templates.

    Raises:
        ConfigurationError: a request would start a stream that its resume template does not find.
    """
    trial = _Trial(routes)
    words = sorted(
        {word for route in routes for rule in route.rules() for word in _LITERAL.findall(rule.template)}
    )
    for route in routes:
        for params in itertools.islice(_sample_params(route, words), _MOST_TRIALS):
            _check_start(trial, route, params)


def _check_start(trial: _Trial, route: Templates, params: dict[str, str]) -> None:
    path = _filled(route.path, params)
    method = min(route.methods)
    start = trial.ask(method, path)
    if start is None or start.route is not route or start.action is not Action.START:
        return
    key = params.get(route.key_param, _SAMPLE)
    resume = _filled(route.resume, {**params, "key": key})
    found = trial.ask("GET", resume)
    if (
        found is not None
        and found.action is Action.RESUME
        and found.route.identity == route.identity
        and found.params.get(found.route.key_param, found.params.get("key")) == key
        and all(found.params.get(name) == start.params.get(name) for name in route.shared_params)
    ):
        return
    raise ConfigurationError(
        f"resume={route.resume!r} of the route {route.path!r}: {method} {path} would start a stream, but"
        f" GET {resume} {_led_to(found)}, so the stream is never found again; {_remedy(route, found)}"
    )


def _led_to(found: _Asked | None) -> str:
    if found is None:
        return "matches no template"
    if found.action is Action.START:
        return f"starts a stream of the route {found.route.path!r}"
    return f"belongs to {found.route.resume!r} of the route {found.route.path!r}"


def _remedy(route: Templates, found: _Asked | None) -> str:
    if found is None or found.route is route:
        return "let its parameters take whatever those of path take"
    return f"put this route before {found.route.path!r}, or give one of them a resume template of its own"


def _sample_params(route: Templates, words: list[str]) -> Iterator[dict[str, str]]:
    """Values for the parameters of the start's template. The key is only tried with samples."""
    names = list(
        dict.fromkeys((name, convertor or "str") for name, convertor in _PARAMETER.findall(route.path))
    )
    values: list[list[str]] = []
    for name, convertor in names:
        regex = re.compile(CONVERTOR_TYPES[convertor].regex)
        tried = list(_SAMPLES) if name == route.key_param else [*_SAMPLES, *words]
        values.append([value for value in tried if regex.fullmatch(value)])
    for chosen in itertools.product(*values):
        yield {name: value for (name, _), value in zip(names, chosen, strict=True)}


def _filled(template: str, params: dict[str, str]) -> str:
    return _PARAMETER.sub(lambda found: params.get(found[1], _SAMPLE), template)
