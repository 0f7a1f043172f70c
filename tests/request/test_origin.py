from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from resumable_asgi.request.origin import may_read, may_stop

TRUSTED = ("https://app.example.com",)


def headers_of(site: str | None, origin: str | None, **others: str) -> Headers:
    given = {"host": "api.example.com:8000", "cookie": "sid=1", **others}
    if site is not None:
        given["sec-fetch-site"] = site
    if origin is not None:
        given["origin"] = origin
    return Headers(given)


@pytest.mark.parametrize(
    ("site", "origin", "allowed"),
    [
        ("same-origin", "http://api.example.com:8000", True),
        ("same-origin", None, True),
        ("none", None, True),
        ("none", "null", True),
        ("cross-site", None, False),
        ("cross-site", "null", False),
        ("cross-site", "https://evil.example", False),
        ("cross-site", "https://api.example.com", False),
        ("cross-site", "https://app.example.com", True),
        ("cross-site", "https://app.example.com.evil.example", False),
        ("cross-site", "https://app.example.com:444", False),
        ("cross-site", "http://app.example.com", False),
        ("same-site", None, True),
        ("same-site", "https://api.example.com", True),
        ("same-site", "http://API.example.com:3000", True),
        ("same-site", "https://evil.example.com", False),
        ("same-site", "https://app.example.com", True),
        ("same-site", "null", False),
        ("same-site", "", False),
        (None, None, True),
        (None, "https://api.example.com", True),
        (None, "https://app.example.com", True),
        (None, "https://evil.example", False),
        (None, "null", False),
        (None, "https://api.example.com.evil.example", False),
        (None, "https://api.example.com@evil.example", False),
        (None, "https://api.example.com/evil", False),
        ("something new", "https://evil.example", False),
    ],
)
def test_a_stop_with_cookies_must_not_come_from_elsewhere(
    site: str | None, origin: str | None, allowed: bool
) -> None:
    assert may_stop(headers_of(site, origin), TRUSTED) is allowed


@pytest.mark.parametrize("site", ["cross-site", "same-site", None])
def test_who_sends_no_cookie_or_says_who_it_is_may_stop(site: str | None) -> None:
    by_token = headers_of(site, "https://evil.example", authorization="Bearer t")
    without = Headers({name: value for name, value in by_token.items() if name[0] == "o" or name[0] == "s"})
    assert may_stop(by_token, ())
    assert may_stop(without, ())


@pytest.mark.parametrize("host", ["[::1]:8000", "[::1]"])
def test_a_host_may_be_an_ipv6_address(host: str) -> None:
    assert may_stop(headers_of(None, "http://[::1]:3000", host=host), ())
    assert not may_stop(headers_of(None, "http://[::2]:3000", host=host), ())


def test_a_request_without_a_host_is_nobody_s() -> None:
    assert not may_stop(headers_of(None, "null", host=""), ())
    assert not may_stop(headers_of(None, "https://evil.example", host=""), ())


@pytest.mark.parametrize(
    ("site", "origin", "readable"),
    [
        ("cross-site", None, False),
        ("cross-site", "https://evil.example", False),
        ("cross-site", "https://app.example.com", True),
        ("same-site", "https://other.example.com", True),
        ("same-origin", None, True),
        ("none", None, True),
        (None, None, True),
    ],
)
def test_a_page_of_another_site_cannot_read_what_it_has_its_user_s_browser_ask(
    site: str | None, origin: str | None, readable: bool
) -> None:
    assert may_read(headers_of(site, origin), TRUSTED) is readable
    assert may_read(headers_of(site, origin, authorization="Bearer t"), TRUSTED)
