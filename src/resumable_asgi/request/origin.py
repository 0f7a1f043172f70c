"""Whether a request comes from a page of another site, which must not use its visitor's cookies."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?P<host>\[[0-9a-f:.]+\]|[^/:\s\[\]@?#]+)(?::[0-9]+)?")
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^/:\s\[\]@?#]+)(?::[0-9]*)?")


def may_stop(headers: Headers, origins: Collection[str]) -> bool:
    """Whether a stop comes from a page that may stop streams, or not from a page.

    Only browsers add cookies by themselves, and a page of another site cannot make them add `Authorization`.
    A browser that is too old for `Sec-Fetch-Site` still sends `Origin` with a POST.
    """
    if not _by_cookie(headers):
        return True
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site in ("same-origin", "none") or _is_one_of(origin, origins):
        return True
    if site == "cross-site":
        return False
    return origin is None or _host(_ORIGIN, origin) == _host(_HOST, headers.get("host", "")) != ""


def may_read(headers: Headers, origins: Collection[str]) -> bool:
    """False for a page of another site: it can make the browser send the request, but not read the answer."""
    cross_site = _by_cookie(headers) and headers.get("sec-fetch-site") == "cross-site"
    return not cross_site or _is_one_of(headers.get("origin"), origins)


def _by_cookie(headers: Headers) -> bool:
    return "cookie" in headers and "authorization" not in headers


def _is_one_of(origin: str | None, origins: Collection[str]) -> bool:
    return origin is not None and origin.lower() in origins


def _host(pattern: re.Pattern[str], value: str) -> str:
    found = pattern.fullmatch(value.lower())
    return "" if found is None else found["host"]
