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

from . import checks
from .errors import ConfigurationError
from .templates import Templates, check_every_start_is_found

Reader: TypeAlias = Callable[[Request], Awaitable[str | None] | str | None]
"""A user's function that reads a key or an owner from a request; None means that there is none."""

OnConflict: TypeAlias = Literal["replace", "stop", "reject", "join"]

DEFAULT = "default"
"""Stands for the default of `resume` and `stop`; not a template, because those begin with a slash."""

_CONFLICTS: tuple[OnConflict, ...] = ("replace", "stop", "reject", "join")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableRoute:
    """One route whose event streams can be resumed.

    After construction `resume` and `stop` hold the templates in use, `methods` a frozenset in upper case.

    Raises:
        ConfigurationError: a field has a wrong value.
    """

    path: str = field(default="/api/chat", kw_only=False)
    """The Starlette path template of the route that starts streams."""
    methods: Collection[str] = frozenset({"POST"})
    """The HTTP methods that start a stream."""
    key: str | Reader = "json:id"
    """Where a start request has the stream's key: `json:<dotted.path>` of its body, `path:<param>`,
    `query:<name>`, `header:<name>`, or a sync or async function `(Request) -> str | None`. A request
    without a key passes through unrecorded."""
    resume: str = DEFAULT
    """The path template of the resume route (`GET`). The default is `<path>/{key}/stream`; for a `path:`
    key, whose parameter stands in `path` already, it is `<path>/stream`."""
    stop: str | None = DEFAULT
    """The path template of the stop route (`POST`). The default is `<path>/{key}/stop`; for a `path:` key
    it is `<path>/stop`. `DELETE` on the resume route stops a stream, too. `None` turns both off."""
    owner: str | Reader = "auto"
    """Who a stream belongs to: `auto`, `user`, `session:<key>`, `header:<name>`, `cookie:<name>`,
    `state:<attr>`, `public`, or a sync or async function `(Request) -> str | None`. A request without an
    owner passes through unrecorded."""
    origins: Collection[str] = ()
    """Origins of other hosts whose pages may stop streams with cookies, such as `https://app.example.com`."""
    on_conflict: OnConflict = "replace"
    """What a second start with the same key does while the first one runs. `replace`, the only value so
    far: the new stream becomes the resumable one, and the old one continues for its own client."""
    retention: float = 3600.0
    """How many seconds a stream is kept after its end. At least 1."""
    replay_finished: float = 0.0
    """For how many seconds a finished stream is replayed even if a client received its end; at most
    `retention`."""
    event_ids: bool = False
    """Whether to write an SSE `id:` into every event. Not available yet: it must be `False`."""
    keepalive: float | None = 15.0
    """After how many seconds of silence a client is sent an SSE comment. `None`: never."""
    max_bytes: int = 8 * 1024 * 1024
    """How many bytes of a stream are kept. A longer stream continues for the clients that follow it, but
    can no longer be resumed."""
    stall_timeout: float | None = 60.0
    """After how many seconds a client is cut off that takes no byte while there are some. It can resume.
    `None`: never."""
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
        if self.resume == DEFAULT:
            self._set("resume", f"{self._base}/stream")
        if self.stop == DEFAULT:
            self._set("stop", self.default_stop)
        shared = params & self._keyed_template("resume", self.resume)
        if self.stop is not None:
            shared &= self._keyed_template("stop", self.stop)
        self._set("shared_params", tuple(sorted(shared - {"key", self.key_param})))
        self._check_values()
        self._check_overlap()

    @property
    def _base(self) -> str:
        by_path = isinstance(self.key, str) and self.key.startswith("path:")
        return self.path.rstrip("/") + ("" if by_path else "/{key}")

    @property
    def default_stop(self) -> str:
        """The stop template of a route that names none."""
        return f"{self._base}/stop"

    @property
    def templates(self) -> Templates:
        """The templates in use, and what else decides which stream a request finds."""
        identity = (self.path, self.owner, self.shared_params)
        methods = frozenset(self.methods)
        return Templates(
            self.path, methods, self.resume, self.stop, self.key_param, self.shared_params, identity
        )

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
        self._set("origins", checks.origins("origins", self.origins))
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
    """Where streams are kept: `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://host:port,host:port/service/db`, `redis+cluster://host:port,host:port`, or `memory://`
    for this process only. `None`: nothing is recorded, and there is never anything to resume or stop.
    `user:password@` before the hosts are the credentials of Redis itself. Those of the Sentinels are options:
    `?sentinel_username=…&sentinel_password=…`. All of them are percent-encoded."""
    routes: Sequence[ResumableRoute] = field(default_factory=lambda: (ResumableRoute(),))
    """The routes whose streams can be resumed. The first route that matches a request is used."""
    prefix: str = "resumable"
    """What the name of every key in Redis begins with."""
    lease: float = 10.0
    """After how many seconds of silence a worker counts as dead. At least 0.5."""
    drain_timeout: float = 10.0
    """How many seconds running streams may continue at shutdown."""
    redis_timeout: float = 0.5
    """How many seconds Redis may delay the start of a response, at most."""
    unavailable_status: int = 503
    """The status of a resume that cannot reach Redis: a 5xx, or 204 for clients that show every error to
    their users, as the AI SDK does. With 204 they miss a running stream without notice."""
    max_body_bytes: int = 1024 * 1024
    """How many bytes of a request body are held back, at most, while its `json:` key is looked for. The
    search stops at the key, so let it come first. A start that does not have it within these bytes passes
    through unrecorded."""

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
        ConfigurationError: it returned something other than a string or None.
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
    check_every_start_is_found([route.templates for route in routes])
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
