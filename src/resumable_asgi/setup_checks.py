"""Warnings about the app around the middleware, and what streams are bound to; each is logged once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.types import ASGIApp, Scope

from .settings import ResumableRoute, Settings

logger: logging.Logger = logging.getLogger(__name__)

_OUTER = ("AuthenticationMiddleware", "CORSMiddleware", "SessionMiddleware")
_COMPRESSING = ("GZipMiddleware", "BrotliMiddleware", "ZstdMiddleware", "CompressMiddleware")

_BOUND_TO = {
    "auto": (
        "the authenticated user (scope['user']), else the Authorization header, else whoever knows the key. A"
        " token that a service sends for all of its users makes them one owner: see docs/ownership.md"
    ),
    "user": "the authenticated user (scope['user'])",
    "public": "whoever knows the key",
}

_INSIDE = (
    "%s is inside ResumableStreamMiddleware, so it does not see resume requests: add it after"
    " ResumableStreamMiddleware, because the middleware that is added last is outermost"
)
_WORKERS = (
    "memory:// keeps streams in one process, but there are %d workers, so that most resumes find nothing: set"
    " redis_url to a Redis, or run one worker"
)
_COMPRESSED = (
    "%s compresses event streams and delays events: exclude text/event-stream from it, or add it before"
    " ResumableStreamMiddleware"
)
_HTTP_1_0 = (
    "a request uses HTTP/1.0, in which a failed stream looks complete. Behind nginx add"
    " `proxy_http_version 1.1;` and `proxy_buffering off;` (docs/servers.md)"
)
_ROUTED = (
    "a framework has routed this request before ResumableStreamMiddleware saw it, as Litestar does for"
    " middleware=[...]: streams are recorded, but resumes and stops are 404. Wrap the whole app:"
    " app = ResumableStreamMiddleware(Litestar(...))"
)
_SIGNED = (
    "owner=%r of %s is the cookie of SessionMiddleware, which changes with every response, so that no stream"
    " is found again: give owner='session:<key>', with a key of request.session that names the user"
)


class SetupChecks:
    """Checks the apps around one middleware and its first requests; each finding is logged once."""

    __slots__ = ("_app", "_looked_outside", "_said", "_settings")

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._looked_outside = False
        self._said: set[tuple[str, tuple[object, ...]]] = set()

    def at_construction(self, *, in_memory: bool) -> None:
        for route in self._settings.routes:
            logger.info("streams of %s belong to %s", route.path, _bound_to(route))
        for inner in _inside(self._app):
            self._warn(_INSIDE, inner)
        if in_memory and (workers := workers_asked_for()) > 1:
            self._warn(_WORKERS, workers)

    def at_start(self, scope: Scope, middleware: ASGIApp) -> None:
        """Check the middleware outside this one, if the app is Starlette's.

        Called at startup, or at the first request if there is no lifespan.
        """
        if self._looked_outside:
            return
        self._looked_outside = True
        for outer in _chain(getattr(scope.get("app"), "middleware_stack", None)):
            if outer is middleware:
                return
            kinds = _class_names(type(outer))
            if "SessionMiddleware" in kinds:
                self._warn_of_signed_cookie(getattr(outer, "session_cookie", "session"))
            if not set(kinds).isdisjoint(_COMPRESSING) and not _spares_event_streams(outer):
                self._warn(_COMPRESSED, type(outer).__name__)

    def at_request(self, scope: Scope, *, start: bool) -> None:
        """Check a request to a configured route."""
        if scope.get("http_version") == "1.0":
            self._warn(_HTTP_1_0)
        if start and "route_handler" in scope:
            self._warn(_ROUTED)
        if "session" in scope:
            self._warn_of_signed_cookie("session")

    def _warn_of_signed_cookie(self, name: str) -> None:
        for route in self._settings.routes:
            if route.owner == f"cookie:{name}":
                self._warn(_SIGNED, route.owner, route.path)

    def _warn(self, message: str, *arguments: object) -> None:
        if (message, arguments) not in self._said:
            self._said.add((message, arguments))
            logger.warning(message, *arguments)


def _bound_to(route: ResumableRoute) -> str:
    owner = route.owner
    if not isinstance(owner, str):
        return f"what {getattr(owner, '__qualname__', 'a function')} returns"
    form, _, name = owner.partition(":")
    if form == "session":
        return f"session[{name!r}]"
    if form == "state":
        return f"request.state.{name}"
    return _BOUND_TO.get(owner, f"the {form} {name}")


def _chain(app: object) -> Iterator[object]:
    """An app and the apps inside it, which Starlette's middleware holds as `app`."""
    for _ in range(100):  # bounded, because an app may hold itself
        if app is None:
            return
        yield app
        app = getattr(app, "app", None)


def _inside(app: object) -> Iterator[str]:
    """The classes of `_OUTER` in `app`, also those that Starlette will only add when it builds its stack."""
    for each in _chain(app):
        kinds = [type(each), *(added.cls for added in getattr(each, "user_middleware", ()))]
        for kind in kinds:
            yield from (name for name in _class_names(kind) if name in _OUTER)


def _class_names(kind: object) -> list[str]:
    """The names of a class and its bases. The classes may be of packages that are not installed."""
    return [each.__name__ for each in getattr(kind, "__mro__", ())]


def _spares_event_streams(compressing: object) -> bool:
    """Whether a compressing middleware excludes event streams, by its setting or by default."""
    told: Any = getattr(compressing, "exclude_content_types", None)
    if told is None:
        modules = [sys.modules.get(kind.__module__) for kind in type(compressing).__mro__]
        told = [kind for module in modules for kind in getattr(module, "DEFAULT_EXCLUDED_CONTENT_TYPES", ())]
    return any("text/event-stream".startswith(str(kind).rstrip("*")) for kind in told)


def workers_asked_for(arguments: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """The number of workers on the server's command line or in its environment; 1 if there is none.

    `sys.argv` of a worker is the server's command line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    named = [environ.get("WEB_CONCURRENCY", ""), environ.get("GRANIAN_WORKERS", "")]
    for name, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if name in ("--workers", "-w"):
            named.append(value)
        elif name.startswith("--workers="):
            named.append(name.removeprefix("--workers="))
    numbers = [int(each) for each in named if each.isascii() and each.isdigit()]
    return numbers[-1] if numbers else 1
