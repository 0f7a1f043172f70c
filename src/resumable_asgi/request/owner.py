"""Who a request's stream belongs to, and the name of the stream's keys in Redis.

An owner is a text such as `user:<digest>`. It contains its kind, so that owners of different kinds never
match, and secrets only as SHA-256 digests.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any, cast

from starlette.requests import Request

from ..settings import ResumableRoute, ask

logger: logging.Logger = logging.getLogger(__name__)

PUBLIC = "public"
"""The owner of streams that are protected by their keys alone."""

_ADDRESS = re.compile(r"<[^>]* at 0x[0-9a-fA-F]+")
"""The address in the default `repr` of an object. Another object can have it later."""


class Owners:
    """Finds the owners of requests; each instance logs each warning once."""

    __slots__ = ("_warned",)

    def __init__(self) -> None:
        self._warned: set[str] = set()

    async def owner_of(self, route: ResumableRoute, request: Request) -> str | None:
        """The owner according to `route.owner`. None: the request has none, and is not recorded.

        Raises:
            ConfigurationError: a user's callable returned something other than a string or None.
        """
        form = route.owner
        if not isinstance(form, str):
            return _owner("callable", await ask("owner", form, request))
        if form == "public":
            return PUBLIC
        if form == "user":
            return self._user(request)
        if form == "auto":
            return self._auto(request)
        kind, _, name = form.partition(":")
        if kind == "header":
            return _header(request, name)
        if kind == "cookie":
            return _owner(form, request.cookies.get(name))
        if kind == "state":
            return _owner(form, _member(request.scope.get("state"), name))
        return _owner(form, self._session(request, name))

    def _auto(self, request: Request) -> str | None:
        if _authenticated(request):
            return self._user(request)  # None for a user without a name, whose streams must not be public
        if "authorization" in request.headers:
            return _header(request, "authorization")
        self._warn(
            "owner='auto' found no authenticated user and no Authorization header, so streams are public:"
            " whoever knows a key can resume and stop them. Choose another owner, or 'public' if intended."
        )
        return PUBLIC

    def _user(self, request: Request) -> str | None:
        """The authenticated user: the first of two names that has a stable text.

        `display_name` is not used, because users choose it, and two users may choose the same one.
        """
        if not _authenticated(request):
            self._warn(
                "owner='user' found no authenticated user, so nothing is recorded: add the authentication"
                " middleware after ResumableStreamMiddleware, so that it runs first."
            )
            return None
        user = request.scope["user"]
        for name in ("identity", "username"):
            try:
                value = getattr(user, name, None)
            except Exception:  # noqa: BLE001 - a user's property: BaseUser's raises NotImplementedError
                value = None
            # The name is part of the owner: a chosen username must not be another user's identity.
            if owner := _owner(f"user:{name}", value):
                return owner
        self._warn(
            "a user of type %s has neither an identity nor a username with a stable text (a str, an int, a"
            " UUID), so nothing is recorded: give it one, or set owner to a function of the request.",
            type(user).__name__,
        )
        return None

    def _session(self, request: Request, name: str) -> object:
        if "session" not in request.scope:
            self._warn(
                "owner='session:%s' finds no session, so nothing is recorded: add SessionMiddleware after"
                " ResumableStreamMiddleware, so that it runs first.",
                name,
            )
            return None
        return _member(request.scope["session"], name)

    def _warn(self, message: str, *arguments: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message, *arguments)


def stream_key_name(
    route: ResumableRoute, mount: str, params: Mapping[str, str], owner: str, key: str
) -> str:
    """The digest `<k>` in Redis key names: 32 hexadecimal characters.

    Two starts share it if route, mount point (`root_path`), owner, key and those path parameters agree that
    the start, resume and stop templates have in common.
    """
    shared = [params.get(name, "") for name in route.shared_params]
    parts = (route.path, mount.rstrip("/"), *shared, owner, key)
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    # With their lengths, so that different parts never give the same bytes.
    return hashlib.sha256(b"".join([b"%d:%b" % (len(part), part) for part in encoded])).hexdigest()[:32]


def _authenticated(request: Request) -> bool:
    try:
        answer = getattr(request.scope.get("user"), "is_authenticated", False)
        return bool(answer() if callable(answer) else answer)  # a bound method would always be true
    except Exception:  # noqa: BLE001 - a user's property, for example of a lazy object
        return True  # a user of whom nothing is known: their streams must not be public


def _header(request: Request, name: str) -> str | None:
    return _owner(f"header:{name.lower()}", request.headers.get(name))


def _member(holder: object, name: str) -> object:
    """An item of a mapping, or an attribute of an object such as Starlette's `State`."""
    if isinstance(holder, Mapping):
        return cast("Mapping[str, Any]", holder).get(name)
    return getattr(holder, name, None)


def _owner(kind: str, value: object) -> str | None:
    """The owner with the identity `value`; None if that names nobody."""
    text = _stable_text(value)
    if not text:
        return None
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}:{digest}"


def _stable_text(value: object) -> str:
    """The text of a value, which must be the same in every process at every time; empty if there is none.

    A number and its digits give the same text, because sessions that are stored as JSON may mix them.
    """
    if isinstance(value, str):
        text = str(value)
    elif value is None or isinstance(value, bool) or callable(value):
        return ""
    elif isinstance(value, bytes):
        text = value.hex()
    elif isinstance(value, Collection) and (not isinstance(value, tuple) or value == ()):
        return ""  # a mapping, list or set: its order or content changes
    else:
        try:
            text = str(cast("object", value))
        except Exception:  # noqa: BLE001 - a user's type, or an int with too many digits to print
            return ""
    return "" if _ADDRESS.search(text) else text
