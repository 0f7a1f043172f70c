"""The checks behind `settings`: each returns the accepted value or raises `ConfigurationError`.

A message names the field, the value and the remedy. The value of `redis_url` is never printed, because it
may hold a password.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.routing import compile_path

from .errors import ConfigurationError

LONGEST_DURATION = 1e9
"""Seconds, about 31 years: a longer one overflows Redis's milliseconds sooner or later."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: a header, cookie or method name
_PARAMETER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")  # as in starlette.routing.PARAM_REGEX
_TEMPLATE_PARAMETER = re.compile(r"{[a-zA-Z_][a-zA-Z0-9_]*(:[a-zA-Z_][a-zA-Z0-9_]*)?}")
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?P<port>:[0-9]{1,5})?"
)
_PREFIX = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_KEY_FORMS: dict[str, re.Pattern[str] | None] = {
    "json": re.compile(r"[^.]+(\.[^.]+)*", re.DOTALL),
    "path": _PARAMETER,
    "query": re.compile(r".+", re.DOTALL),
    "header": _TOKEN,
}
_KEY_HINT = "'json:<dotted.path>', 'path:<param>', 'query:<name>' or 'header:<name>'"

_OWNER_FORMS: dict[str, re.Pattern[str] | None] = {
    "auto": None,
    "user": None,
    "public": None,
    "app": None,
    "session": re.compile(r".+", re.DOTALL),
    "header": _TOKEN,
    "cookie": _TOKEN,
    "state": re.compile(r".+", re.DOTALL),
}
_OWNER_HINT = "'auto', 'user', 'public', 'session:<key>', 'header:<name>', 'cookie:<name>' or 'state:<attr>'"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "memory")
_SENTINEL = re.compile(
    r"redis\+sentinel://(?:[^/]*@)?(?P<hosts>[^/@?#]+)/(?P<service>[^/?#]+)(?:/(?P<db>[0-9]+))?/?(?:\?[^#]*)?"
)
_CLUSTER = re.compile(r"redis\+cluster://(?:[^/]*@)?(?P<hosts>[^/@?#]+)/?(?:0/?)?", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")


def wrong(field: str, value: object, remedy: str) -> ConfigurationError:
    """The error for a wrong `value` of `field`; `remedy` says what to write instead."""
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__, or an int with too many digits to print
        shown = f"<{type(value).__name__}>"
    return ConfigurationError(f"{field}={shown if len(shown) <= 200 else shown[:200] + '…'}: {remedy}")


def nearest(name: str, known: Collection[str]) -> str:
    """A remedy for an unknown `name`: the known name that is most like it, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def known_keys(where: str, keys: Iterable[object], known: Collection[str]) -> None:
    """Raise for the first of `keys` that is not `known`."""
    for key in keys:
        if key not in known:
            raise ConfigurationError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")


def unknown_variable(variable: str, fields: Iterable[str]) -> ConfigurationError:
    """The error for an environment variable `RESUMABLE_…` that names none of `fields`."""
    known = {name.upper(): f"RESUMABLE_{name.upper()}" for name in fields} | {"REDIS_URL": "REDIS_URL"}
    close = difflib.get_close_matches(variable.removeprefix("RESUMABLE_").upper(), known, n=1, cutoff=0.5)
    hint = f"did you mean {known[close[0]]}?" if close else f"known are {', '.join(sorted(known.values()))}"
    return ConfigurationError(f"{variable}: unknown environment variable; {hint}")


def flag(field: str, value: object) -> bool:
    """True or False; 1 and 0 are refused."""
    if not isinstance(value, bool):
        raise wrong(field, value, "give True or False")
    return value


def seconds(field: str, value: object, *, least: float, exclusive: bool = False) -> float:
    """A finite number of seconds from `least` (from above it, if `exclusive`) to `LONGEST_DURATION`."""
    bound = f"{'above' if exclusive else 'of at least'} {least:g} and at most {LONGEST_DURATION:g}"
    remedy = f"give a number of seconds {bound}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(field, value, remedy)
    if not least <= value <= LONGEST_DURATION or (exclusive and value == least):  # NaN compares as False
        raise wrong(field, value, remedy)
    return float(value)


def size(field: str, value: object) -> int:
    """A whole number of bytes, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(field, value, "give a whole number of bytes of at least 1")
    return value


def unavailable_status(field: str, value: object) -> int:
    """204, or a server error."""
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 204 or 500 <= value <= 599):
        raise wrong(field, value, "give 503 or another 5xx, or 204 for clients that show every error")
    return value


def prefix(field: str, value: object) -> str:
    """A prefix of Redis keys: no braces (they make hash tags), white space or glob characters."""
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise wrong(field, value, "give 1 to 128 of the characters A-Z a-z 0-9 . _ : / -")
    return value


def methods(field: str, value: object) -> frozenset[str]:
    """One or more HTTP methods, in upper case."""
    remedy = "give a set of HTTP methods such as {'POST'}"
    if isinstance(value, str) or not isinstance(value, Collection) or not value:
        raise wrong(field, value, remedy)  # pyright: ignore[reportUnknownArgumentType]
    items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    names = {item.upper() for item in items if isinstance(item, str) and _TOKEN.fullmatch(item)}
    if len(names) == 0 or not all(isinstance(item, str) and item.upper() in names for item in items):
        raise wrong(field, items, remedy)
    return frozenset(names)


def origins(field: str, value: object) -> tuple[str, ...]:
    """Origins as browsers write them: in lower case, without the scheme's default port."""
    remedy = (
        "give a list of origins such as 'https://app.example.com': scheme, host and port, nothing after them"
    )
    if isinstance(value, str) or not isinstance(value, Collection):
        raise wrong(field, value, remedy)  # pyright: ignore[reportUnknownArgumentType]
    items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    found: list[str] = []
    for item in items:
        text = item.lower() if isinstance(item, str) else ""
        if not (match := _ORIGIN.fullmatch(text)):
            raise wrong(field, item, remedy)
        own_port = {"http": ":80", "https": ":443"}.get(match["scheme"], "")
        found.append(text.removesuffix(own_port) if match["port"] == own_port else text)
    return tuple(found)


def choice(field: str, value: object, *, known: Collection[str], unavailable: Collection[str]) -> None:
    """One of `known` that is not in `unavailable`."""
    if not isinstance(value, str) or value not in known:
        raise wrong(field, value, nearest(value, known) if isinstance(value, str) else f"give one of {known}")
    if value in unavailable:
        rest = " or ".join(repr(name) for name in known if name not in unavailable)
        raise wrong(field, value, f"not available in this version; give {rest}")


def template(field: str, value: object) -> frozenset[str]:
    """A Starlette path template; returns the names of its parameters."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise wrong(field, value, "give a path template that begins with '/'")
    if any(character in "{}?#" for character in _TEMPLATE_PARAMETER.sub("", value)):
        raise wrong(field, value, "write a parameter as '{name}' or '{name:convertor}', and no query")
    try:
        return frozenset(compile_path(value)[2])
    except (AssertionError, ValueError) as error:
        raise wrong(field, value, f"not a path template of Starlette: {error}; correct it") from None


def key(value: object) -> None:
    """Where a request has the stream's key."""
    _reader("key", value, _KEY_FORMS, _KEY_HINT)


def owner(value: object) -> None:
    """Who a stream belongs to."""
    _reader("owner", value, _OWNER_FORMS, _OWNER_HINT)
    if value == "app":
        raise wrong("owner", value, f"not available in this version; give {_OWNER_HINT}")


def _reader(field: str, value: object, forms: dict[str, re.Pattern[str] | None], hint: str) -> None:
    """A callable, or one of `forms`: a bare word (pattern None) or `<form>:<name>`."""
    if callable(value):
        return
    if not isinstance(value, str):
        raise wrong(field, value, f"give {hint}, or a callable (Request) -> str | None")
    form, colon, name = value.partition(":")
    if form not in forms:
        raise wrong(field, value, f"{nearest(form, forms)} (give {hint}, or a callable)")
    pattern = forms[form]
    if pattern is None and colon:
        raise wrong(field, value, f"write just {form!r}")
    if pattern is not None and not pattern.fullmatch(name):
        raise wrong(field, value, f"write '{form}:' and a valid name after it")


def redis_url(value: object) -> None:
    """A URL with a known scheme and valid parts, or None."""
    if value is None:
        return
    if not isinstance(value, str):
        raise ConfigurationError(
            f"redis_url=<{type(value).__name__}>: give a string such as 'redis://localhost'"
        )
    found = _SCHEME.match(value)
    scheme = found[1].lower() if found else ""
    if scheme not in _SCHEMES:
        shown = f"{scheme}://…" if scheme else "<a text without '://'>"
        raise _url_error(shown, f"give a URL with one of the schemes {', '.join(_SCHEMES)}, or None")
    shown = f"{scheme}://…"
    if "#" in value or "@" in re.sub("^[^/?]*", "", value[len(f"{scheme}://") :]):
        raise _url_error(shown, "percent-encode each / ? # @ in the user, the password and the options")
    if _fails(lambda: urlsplit(value)):
        raise _url_error(
            shown, "the user, password or host is malformed; percent-encode special characters in them"
        )
    _URL_CHECKS[scheme](value)
    _check_sentinel_options(scheme, parse_qs(urlsplit(value).query, keep_blank_values=True))


def _fails(parse: Callable[[], object]) -> bool:
    """Whether `parse` raises.

    The error that the caller then raises does not have the parser's error as its context, which may quote
    the password.
    """
    try:
        parse()
    except ValueError:
        return True
    return False


def _url_error(shown: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"redis_url={shown}: {remedy}")


def _check_server(url: str) -> None:
    shown = url.partition("://")[0] + "://…"
    parts = urlsplit(url)
    if _fails(lambda: parts.port):
        raise _url_error(shown, "the port is malformed; write redis://[[user]:password@]host[:port][/db]")
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdigit()):
        raise _url_error(
            shown, "the path is the number of the database, for example redis://localhost:6379/0"
        )


def _check_socket(url: str) -> None:
    if not url.partition("://")[2].partition("?")[0].rpartition("@")[2].strip("/"):
        raise _url_error("unix://…", "write the path of the socket, such as unix:///run/redis.sock")


def _check_sentinel(url: str) -> None:
    found = _SENTINEL.fullmatch(url)
    hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found else [None]
    if not all(host and 0 < int(host["port"] or 26379) < 65536 for host in hosts):
        remedy = "write redis+sentinel://[[user]:password@]host:port,host:port/service/db"
        raise _url_error("redis+sentinel://…", remedy)


def _check_sentinel_options(scheme: str, options: dict[str, list[str]]) -> None:
    """The Sentinels' own credentials: each is given at most once and is not empty."""
    given = {name: values for name, values in options.items() if name.startswith("sentinel_")}
    known = given.keys() <= {"sentinel_username", "sentinel_password"}
    once = all(len(values) == 1 and values[0] for values in given.values())
    if given and not (scheme == "redis+sentinel" and known and once):
        remedy = "write ?sentinel_username=…&sentinel_password=…, percent-encoded, after redis+sentinel://…"
        raise _url_error(f"{scheme}://…", remedy)


def _check_memory(url: str) -> None:
    if url != "memory://":
        raise _url_error("memory://…", "write just memory://")


def _check_cluster(url: str) -> None:
    found = _CLUSTER.fullmatch(url)
    hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found else [None]
    if not all(host and 0 < int(host["port"] or 6379) < 65536 for host in hosts):
        remedy = (
            "write redis+cluster://[[user]:password@]host:port,host:port (for TLS give redis=RedisCluster(…))"
        )
        raise _url_error("redis+cluster://…", remedy)


_URL_CHECKS: dict[str, Callable[[str], Any]] = {
    "redis": _check_server,
    "rediss": _check_server,
    "unix": _check_socket,
    "redis+sentinel": _check_sentinel,
    "redis+cluster": _check_cluster,
    "memory": _check_memory,
}
