"""What is wrong around the middleware is said once, and what streams are bound to."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from testkit.inprocess import JSON, Exchange, Host, answer_lifespan

from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings
from resumable_asgi.setup_checks import workers_asked_for


class SessionMiddleware:
    """As Starlette's, which needs a package more."""

    def __init__(self, app: ASGIApp, session_cookie: str = "session") -> None:
        self.app = app
        self.session_cookie = session_cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "session": {}}, receive, send)


class OldGZipMiddleware:
    __name__ = "GZipMiddleware"

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


OldGZipMiddleware.__name__ = "GZipMiddleware"


def memory(**route: Any) -> Settings:
    return Settings(redis_url="memory://", routes=[ResumableRoute(**route)])


def started(*outer: Any, settings: Settings, inner: tuple[Any, ...] = ()) -> None:
    """Start an app with this middleware, the `inner` added before it and the `outer` added after it."""
    app = Starlette()
    for each in inner:
        app.add_middleware(each)
    app.add_middleware(ResumableStreamMiddleware, settings=settings)
    for each, options in outer:
        app.add_middleware(each, **options)
    with TestClient(app):
        pass


@pytest.mark.parametrize("kind", [CORSMiddleware, AuthenticationMiddleware, SessionMiddleware])
def test_what_belongs_outside_is_warned_of_inside(caplog: pytest.LogCaptureFixture, kind: Any) -> None:
    options = {"backend": None} if kind is AuthenticationMiddleware else {}
    ResumableStreamMiddleware(kind(Host(), **options), settings=memory())
    assert caplog.text.count(f"{kind.__name__} is inside") == 1


def test_what_an_app_is_to_build_inside_is_warned_of_too(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette()
    app.add_middleware(CORSMiddleware)
    ResumableStreamMiddleware(app, settings=memory())
    assert "CORSMiddleware is inside" in caplog.text


def test_nothing_is_warned_of_where_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    started(
        (SessionMiddleware, {}),
        (CORSMiddleware, {}),
        (GZipMiddleware, {}),
        settings=memory(owner="session:user"),
    )
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(("cookie", "warned"), [("session", True), ("mine", True), ("sid", False)])
def test_a_signed_session_cookie_as_owner_is_warned_of_at_start(
    caplog: pytest.LogCaptureFixture, cookie: str, warned: bool
) -> None:
    name = "session" if cookie == "sid" else cookie
    started((SessionMiddleware, {"session_cookie": name}), settings=memory(owner=f"cookie:{cookie}"))
    assert (caplog.text.count("owner='session:<key>'") == 1) is warned


async def test_a_signed_session_cookie_is_warned_of_without_starlette_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = SessionMiddleware(ResumableStreamMiddleware(Host(), settings=memory(owner="cookie:session")))
    for _ in range(2):
        await Exchange(app, "GET", "/api/chat/c/stream").ended()
    assert caplog.text.count("owner='session:<key>'") == 1


def test_a_gzip_that_keeps_events_back_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    started((OldGZipMiddleware, {}), settings=memory())
    assert "GZipMiddleware compresses event streams" in caplog.text


def test_a_gzip_that_is_told_to_compress_event_streams_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("starlette", minversion="1.0")
    started((GZipMiddleware, {"exclude_content_types": ("image/png",)}), settings=memory())
    assert "GZipMiddleware compresses event streams" in caplog.text


async def test_http_1_0_is_warned_of_once_and_on_configured_routes(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    middleware = ResumableStreamMiddleware(host, settings=memory())
    other = Exchange(middleware, "GET", "/other", http_version="1.0")
    (await host.run()).finish()
    await other.ended()
    assert "HTTP/1.0" not in caplog.text
    for _ in range(2):
        await Exchange(middleware, "GET", "/api/chat/c/stream", http_version="1.0").ended()
    assert caplog.text.count("HTTP/1.0") == 1
    assert "proxy_http_version 1.1" in caplog.text


async def test_a_framework_that_has_routed_the_request_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Litestar's scope, in middleware that stands in `middleware=[...]`."""
    host = Host()
    middleware = ResumableStreamMiddleware(host, settings=memory())
    for number in range(2):
        exchange = Exchange(
            middleware, "POST", "/api/chat", headers=[JSON], body=b'{"id": "c"}', route_handler=object()
        )
        (await host.run(number)).finish()
        await exchange.ended()
    assert caplog.text.count("as Litestar does") == 1


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ("auto", "Authorization header"),
        ("user", "the authenticated user"),
        ("public", "whoever knows the key"),
        ("session:uid", "session['uid']"),
        ("header:x-user", "the header x-user"),
        ("cookie:sid", "the cookie sid"),
        ("state:user", "request.state.user"),
        (answer_lifespan, "what answer_lifespan returns"),
    ],
)
def test_one_line_a_route_says_what_its_streams_are_bound_to(
    caplog: pytest.LogCaptureFixture, owner: Any, said: str
) -> None:
    caplog.set_level(logging.INFO)
    ResumableStreamMiddleware(Host(), settings=memory(owner=owner))
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO and "belong to" in r.message]
    assert len(lines) == 1
    assert "/api/chat" in lines[0]
    assert said in lines[0]


@pytest.mark.parametrize(
    ("arguments", "environ", "workers"),
    [
        (["app:app"], {}, 1),
        (["--workers", "4", "app:app"], {}, 4),
        (["app:app", "--workers=4"], {}, 4),
        (["-w", "4", "app:app"], {}, 4),
        (["app:app", "--workers"], {}, 1),
        (["app:app"], {"WEB_CONCURRENCY": "3"}, 3),
        (["--workers", "1"], {"WEB_CONCURRENCY": "3"}, 1),
        (["app:app"], {"GRANIAN_WORKERS": "2"}, 2),
        (["app:app"], {"WEB_CONCURRENCY": "many"}, 1),
    ],
)
def test_the_number_of_workers_is_read_from_the_command_line(
    arguments: list[str], environ: dict[str, str], workers: int
) -> None:
    assert workers_asked_for(arguments, environ) == workers


def test_several_workers_in_memory_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    monkeypatch.setattr("sys.argv", ["uvicorn", "app:app"])
    ResumableStreamMiddleware(Host(), settings=memory())
    assert "2 workers" in caplog.text
