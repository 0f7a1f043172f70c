"""What a user configures: `ResumableRoute` and `Settings`.

Every wrong value raises `ConfigurationError` at construction. Durations are in seconds.
"""

from __future__ import annotations

import inspect
import os
import tomllib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast

from starlette.requests import Request

from resumable_asgi import checks
from resumable_asgi.errors import ConfigurationError

Reader: TypeAlias = Callable[[Request], Awaitable[str | None] | str | None]
"""A user's function that reads a key or an owner from a request; None means that there is none."""

OnConflict: TypeAlias = Literal["replace", "stop", "reject", "join"]

DEFAULT = "default"
"""Stands for the default of `resume` and `stop`; no template, since those begin with a slash."""

_CONFLICTS: tuple[OnConflict, ...] = ("replace", "stop", "reject", "join")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableRoute:
    """One route whose event streams can be resumed.

    After construction `resume` and `stop` hold the templates in use, `methods` a frozenset in upper case.

    Raises:
        ConfigurationError: a field has a wrong value.
    """

    path: str = field(default="/api/chat", kw_only=False)
    """Starlette path template of the route that starts streams."""
    methods: Collection[str] = frozenset({"POST"})
    key: str | Reader = "json:id"
    """Where the stream's key stands: `json:<dotted.path>`, `path:<param>`, `query:<name>`, `header:<name>` or
    a callable, sync or async. A request without a key passes through unrecorded."""
    resume: str = DEFAULT
    """GET template. Default: `<path>/{key}/stream`, for a `path:` key `<path>/stream`."""
    stop: str | None = DEFAULT
    """POST template. Default: like `resume`, with `stop` at its end. None turns stopping off."""
    owner: str | Reader = "auto"
    """Who a stream belongs to: `auto`, `user`, `public`, `session:<key>`, `header:<name>`, `cookie:<name>`,
    `state:<attr>` or a callable, sync or async."""
    on_conflict: OnConflict = "replace"
    """What a second start with the same key does while one runs."""
    retention: float = 3600.0
    """Seconds that a sealed log is kept; at least 1."""
    replay_finished: float = 0.0
    """Seconds during which a finished, already delivered stream is replayed too; at most `retention`."""
    event_ids: bool = False
    """Write an SSE `id:` into every event."""
    keepalive: float | None = 15.0
    """Seconds of silence after which a follower is sent an SSE comment; None: never."""
    max_bytes: int = 8 * 1024 * 1024
    """Bytes per log; beyond it the response goes on but is no longer resumable."""
    stall_timeout: float | None = 60.0
    """Seconds after which a client that takes no byte, while there are some, is cut off; None: never."""
    shared_params: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The path parameters, other than the key, that a start, a resume and a stop all carry; sorted."""

    def __post_init__(self) -> None:
        params = checks.template("path", self.path)
        checks.key(self.key)
        by_path = isinstance(self.key, str) and self.key.startswith("path:")
        if by_path and self.key_param not in params:
            raise checks.wrong("key", self.key, f"write '{{{self.key_param}}}' into path={self.path!r}")
        if "key" in params and self.key != "path:key":
            raise checks.wrong("path", self.path, "'{key}' means the key: rename it, or give key='path:key'")
        base = self.path.rstrip("/") + ("" if by_path else "/{key}")
        if self.resume == DEFAULT:
            self._set("resume", f"{base}/stream")
        if self.stop == DEFAULT:
            self._set("stop", f"{base}/stop")
        shared = params & self._keyed_template("resume", self.resume)
        if self.stop is not None:
            shared &= self._keyed_template("stop", self.stop)
        self._set("shared_params", tuple(sorted(shared - {"key", self.key_param})))
        self._check_values()
        self._check_overlap()

    @property
    def key_param(self) -> str:
        """The path parameter that holds the key in `resume` and `stop` (where `key` will do too)."""
        if isinstance(self.key, str) and self.key.startswith("path:"):
            return self.key.removeprefix("path:")
        return "key"

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the one way to normalise a frozen dataclass

    def _keyed_template(self, name: str, value: object) -> frozenset[str]:
        params = checks.template(name, value)
        if params.isdisjoint({"key", self.key_param}):
            raise checks.wrong(name, value, f"write '{{{self.key_param}}}' where the stream's key stands")
        return params

    def _check_overlap(self) -> None:
        taken = {"GET", "HEAD"} if self.stop is None else {"GET", "HEAD", "DELETE"}
        for name, template, verbs in (("resume", self.resume, taken), ("stop", self.stop, {"POST"})):
            if template == self.path and not verbs.isdisjoint(self.methods):
                raise checks.wrong(name, template, "path answers to the same request; change one of them")

    def _check_values(self) -> None:
        self._set("methods", checks.methods("methods", self.methods))
        checks.owner(self.owner)
        checks.choice("on_conflict", self.on_conflict, known=_CONFLICTS, unavailable=_CONFLICTS[1:])
        self._set("retention", checks.seconds("retention", self.retention, least=1))
        self._set("replay_finished", checks.seconds("replay_finished", self.replay_finished, least=0))
        if self.replay_finished > self.retention:
            remedy = f"the log is only kept for retention={self.retention:g}; raise that or lower this"
            raise checks.wrong("replay_finished", self.replay_finished, remedy)
        if checks.flag("event_ids", self.event_ids):
            raise checks.wrong("event_ids", self.event_ids, "not available in this version; give False")
        if self.keepalive is not None:
            self._set("keepalive", checks.seconds("keepalive", self.keepalive, least=0, exclusive=True))
        checks.size("max_bytes", self.max_bytes)
        if self.stall_timeout is not None:
            stall_timeout = checks.seconds("stall_timeout", self.stall_timeout, least=0, exclusive=True)
            self._set("stall_timeout", stall_timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one `ResumableStreamMiddleware`.

    Raises:
        ConfigurationError: a field has a wrong value.
    """

    redis_url: str | None = field(default=None, repr=False)
    """`redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service/db`,
    `redis+cluster://host:port,host:port`, `memory://` (this process only) or None (every request passes
    through untouched)."""
    routes: Sequence[ResumableRoute] = field(default_factory=lambda: (ResumableRoute(),))
    """The first match wins."""
    prefix: str = "resumable"
    """Of every key in Redis."""
    lease: float = 10.0
    """Seconds of silence after which a worker counts as dead; at least 0.5."""
    drain_timeout: float = 10.0
    """Seconds that running runs may take to finish at shutdown."""
    redis_timeout: float = 0.5
    """Seconds that Redis may delay a response's start at most."""
    unavailable_status: int = 503
    """What a resume answers when Redis cannot be asked: 204 or a 5xx."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Bytes of a request body that are read at most to find a `json:` key."""

    def __post_init__(self) -> None:
        checks.redis_url(self.redis_url)
        self._set("routes", _checked_routes(self.routes))
        checks.prefix("prefix", self.prefix)
        self._set("lease", checks.seconds("lease", self.lease, least=0.5))
        self._set("drain_timeout", checks.seconds("drain_timeout", self.drain_timeout, least=0))
        self._set(
            "redis_timeout", checks.seconds("redis_timeout", self.redis_timeout, least=0, exclusive=True)
        )
        checks.unavailable_status("unavailable_status", self.unavailable_status)
        checks.size("max_body_bytes", self.max_body_bytes)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read `REDIS_URL` (empty means None) and `RESUMABLE_<FIELD>` for the scalar fields.

        Raises:
            ConfigurationError: a value is wrong, or a variable `RESUMABLE_…` is unknown.
        """
        values: dict[str, Any] = {"redis_url": environ.get("REDIS_URL", "").strip() or None}
        for variable in environ:
            if not variable.startswith("RESUMABLE_"):
                continue
            name = variable.removeprefix("RESUMABLE_")
            parse = _SCALARS.get(name.lower()) if name.isupper() else None
            if parse is None:
                raise checks.unknown_variable(variable, _SCALARS)
            try:
                values[name.lower()] = parse(environ[variable])
            except ValueError:
                raise checks.wrong(variable, environ[variable], "give a number") from None
        return cls(**values)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build from plain data; `routes` is a list of mappings. False for `stop`, `keepalive` or
        `stall_timeout` means None, which TOML cannot write.

        Raises:
            ConfigurationError: a value is wrong, or a key is unknown.
        """
        values = _known_fields("settings", mapping, cls)
        routes = values.get("routes", ())
        if "routes" in values and isinstance(routes, Sequence) and not isinstance(routes, str):
            values["routes"] = tuple(_route(item) for item in cast("Sequence[object]", routes))
        return cls(**values)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Read the table `[resumable]` of a TOML file, its routes as `[[resumable.routes]]`.

        Raises:
            ConfigurationError: the file cannot be read, has no such table, or a value in it is wrong.
        """
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise checks.wrong(
                "path", str(path), f"cannot be read ({error.strerror}); give a TOML file"
            ) from error
        except ValueError as error:
            raise checks.wrong("path", str(path), f"not valid TOML ({error}); correct it") from None
        if "resumable" not in document:
            raise checks.wrong("path", str(path), "has no table [resumable]; add it")
        return cls.from_mapping(document["resumable"])


_SCALARS: dict[str, Callable[[str], object]] = {
    "prefix": str,
    "lease": float,
    "drain_timeout": float,
    "redis_timeout": float,
    "unavailable_status": int,
    "max_body_bytes": int,
}


async def ask(name: str, function: Reader, request: Request) -> str | None:
    """Call a user's sync or async `function` of the setting `name`.

    Raises:
        ConfigurationError: it returned something else than a string or None.
    """
    returned: Any = function(request)
    answer: object = await returned if inspect.isawaitable(returned) else returned
    if answer is not None and not isinstance(answer, str):
        raise ConfigurationError(
            f"{name}={function!r}: returned a {type(answer).__name__}; return str or None"
        )
    return answer


def _known_fields(where: str, mapping: object, cls: type[Settings] | type[ResumableRoute]) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):  # its value may hold a password
        raise ConfigurationError(
            f"{where}=<{type(mapping).__name__}>: give a mapping of field names to values"
        )
    values = dict(cast("Mapping[str, Any]", mapping))
    checks.known_keys(where, values, [each.name for each in fields(cls) if each.init])
    return values


def _route(item: object) -> ResumableRoute:
    if isinstance(item, ResumableRoute):
        return item
    values = _known_fields("routes", item, ResumableRoute)
    for name in ("stop", "keepalive", "stall_timeout"):
        if values.get(name) is False:
            values[name] = None
    return ResumableRoute(**values)


def _checked_routes(value: object) -> tuple[ResumableRoute, ...]:
    remedy = "give a list of one or more ResumableRoute"
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise checks.wrong("routes", cast("object", value), remedy)
    routes: list[ResumableRoute] = []
    for route in cast("Sequence[object]", value):
        if not isinstance(route, ResumableRoute):
            raise checks.wrong("routes", route, remedy)
        for other in routes:
            _check_pair(other, route)
        routes.append(route)
    return tuple(routes)


def _check_pair(first: ResumableRoute, second: ResumableRoute) -> None:
    if first.path == second.path:
        both = sorted(set(first.methods) & set(second.methods))
        if both:
            raise checks.wrong("routes", second.path, f"two routes for {', '.join(both)}; keep one of them")
        return
    for name in ("resume", "stop"):
        template = getattr(second, name)
        if template is not None and template == getattr(first, name):
            remedy = f"{first.path!r} has the same {name}, so this one is never reached; give it its own"
            raise checks.wrong(name, template, remedy)
