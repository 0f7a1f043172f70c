from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message, Scope

from resumable_asgi.errors import ConfigurationError
from resumable_asgi.request.key import read_key
from resumable_asgi.request.routing import Match, Router
from resumable_asgi.request.unrecorded import Reason
from resumable_asgi.settings import ResumableRoute
from resumable_asgi.templates import Action

from .test_routing import CHAT, EVENTS, scope_of


def request_of(scope: Scope, body: bytes | None = None) -> Request:
    """Without a body it is one of which nobody may read the body."""

    async def receive() -> Message:
        assert body is not None, "the body was read"
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


async def key_of(match: Match, request: Request, body: bytes | None = None) -> str | Reason:
    async def parts() -> AsyncIterator[bytes]:
        assert body is not None, "the body was read"
        yield body

    return await read_key(match, request, parts(), asyncio.Lock())


async def key_in(route: ResumableRoute, request: Request, body: bytes | None = None) -> str | Reason:
    return await key_of(Match(route=route, action=Action.START, params={}), request, body)


async def key_in_json(
    body: bytes, *, key: str = "json:id", content_type: str = "application/json"
) -> str | Reason:
    scope = scope_of("POST", "/api/chat", headers={"content-type": content_type})
    return await key_in(ResumableRoute(key=key), request_of(scope), body)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"id": "a"}', "a"),
        (b'{"id": 7}', "7"),
        (b'{"id": -7}', "-7"),
        (b'{"id": "a", "id": "b"}', "a"),
        (b'\xef\xbb\xbf {"id": "a"}', "a"),
        (b'{"id": "a", "x": ' + b"[" * 200_000, "a"),
        (b'{"x": [{"id": "b"}, "id"], "\\u0069d": "a"', "a"),
        (b'{"x": "\\"id\\": 1", "id": -0, "x": [', "0"),
        ('{"id": "ü/ ?"}'.encode(), "ü/ ?"),
        (b'{"id": "\\ud83d\\ude00"}', "\N{GRINNING FACE}"),
        (b'{"id": "%s"}' % (b"x" * 512), "x" * 512),
    ],
)
async def test_a_json_key_is_a_string_or_an_integer(body: bytes, key: str) -> None:
    assert await key_in_json(body) == key


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'"id"',
        b'["id"]',
        b"null",
        b"{}",
        b'{"id": null}',
        b'{"id": true}',
        b'{"id": 7.0}',
        b'{"id": NaN}',
        b'{"id": ""}',
        b'{"id": ["a"]}',
        b'{"id": {"id": "a"}}',
        b'{"id": "\\ud800"}',
        b'{"id": "%s"}' % (b"x" * 513),
        b'{"id": %s}' % (b"9" * 600),
        b'{"id": %s}' % (b"9" * 5000),
        b'{"x": %s, "id": "a"}' % (b"[" * 200_000),
        '{"id": "a"}'.encode("utf-16"),
        '{"id": "a"}'.encode("utf-16-le"),
        b'{"id": "a',
        b'{"id": 7',
        b'{"id": 07}',
        b'{"id" "a"}',
        b'{"x": 1 "id": "a"}',
        b'{"id": "\xff"}',
        b'{"id": "\x00"}',
    ],
)
async def test_a_malformed_body_has_no_key(body: bytes) -> None:
    assert await key_in_json(body) is Reason.NO_KEY


async def test_a_dotted_path_leads_into_objects() -> None:
    body = json.dumps({"chat": {"meta": {"id": "a"}, "id": "b"}, "list": [{"id": "c"}]}).encode()
    assert await key_in_json(body, key="json:chat.meta.id") == "a"
    assert await key_in_json(body, key="json:chat.id") == "b"
    assert await key_in_json(body, key="json:chat.id.more") is Reason.NO_KEY
    assert await key_in_json(body, key="json:list.id") is Reason.NO_KEY


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain", False),
        ("application/jsonlines", False),
        ("", False),
    ],
)
async def test_a_json_key_needs_a_json_content_type(content_type: str, is_json: bool) -> None:
    assert await key_in_json(b'{"id": "a"}', content_type=content_type) == ("a" if is_json else Reason.NO_KEY)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("query:chat", "ä b"),
        ("header:x-chat", "h"),
        ("header:X-Chat", "h"),
        ("query:none", Reason.NO_KEY),
        ("header:none", Reason.NO_KEY),
    ],
)
async def test_keys_come_from_the_query_and_from_headers(key: str, expected: str | Reason) -> None:
    scope = scope_of("POST", "/api/chat", headers={"x-chat": "h"}, query=b"chat=%C3%A4+b")
    route = ResumableRoute(key=key)
    assert await key_in(route, request_of(scope)) == expected


async def test_a_path_key_is_the_param_for_every_action() -> None:
    router = Router([EVENTS])
    for method, path in (("GET", ""), ("GET", "/stream"), ("POST", "/stop"), ("DELETE", "/stream")):
        scope = scope_of(method, f"/runs/a b/events{path}")
        match = router.match(scope)
        assert match is not None
        assert await key_of(match, request_of(scope)) == "a b"


@pytest.mark.parametrize(
    "route", [CHAT, ResumableRoute("/runs/{x}", key="path:x", resume="/api/chat/{key}/stream")]
)
async def test_the_key_of_a_resume_is_the_key_param(route: ResumableRoute) -> None:
    scope = scope_of("GET", "/api/chat/a/b/stream", b"/api/chat/a%2fb/stream")
    match = Router([route]).match(scope)
    assert match is not None
    assert await key_of(match, request_of(scope)) == "a/b"


async def test_a_resume_with_a_key_that_no_start_can_have_has_none() -> None:
    for chat_id in ("x" * 513, "\ud800"):
        match = Router([CHAT]).match(scope_of("GET", f"/api/chat/{chat_id}/stream"))
        assert match is not None
        assert await key_of(match, request_of(scope_of("GET", "/"))) is Reason.NO_KEY


async def test_a_callable_finds_the_key_sync_or_async() -> None:
    async def from_body(request: Request) -> str | None:
        return (await request.body()).decode() or None

    scope = scope_of("POST", "/api/chat", headers={"x-chat": "a"})
    assert await key_in(ResumableRoute(key=from_body), request_of(scope, b"b")) == "b"
    assert await key_in(ResumableRoute(key=from_body), request_of(scope, b"")) is Reason.NO_KEY
    assert (
        await key_in(ResumableRoute(key=lambda request: request.headers["x-chat"]), request_of(scope)) == "a"
    )


async def test_a_callable_that_returns_something_else_is_a_configuration_error() -> None:
    def returns_a_number(request: Request) -> Any:
        return 7

    with pytest.raises(ConfigurationError, match=r"key=.*returned a int; return str or None"):
        await key_in(ResumableRoute(key=returns_a_number), request_of(scope_of("POST", "/api/chat")))


async def test_a_body_with_too_many_values_before_its_key_is_too_odd() -> None:
    assert await key_in_json(b'{"x": [%s], "id": "a"}' % (b"[[[[1]]]]," * 60_000)) is Reason.BODY_TOO_ODD
    assert await key_in_json(b'{"x": [%s""], "id": "a"}' % (b'"\\"",' * 50_000)) == "a"


async def test_scans_take_turns_and_give_way() -> None:
    """However many bodies there are, between two of their slices everybody else gets the event loop."""
    longest = 0.0
    loop = asyncio.get_running_loop()

    async def victim() -> None:
        nonlocal longest
        while True:
            before = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - before)

    turns = asyncio.Lock()
    scope = scope_of("POST", "/api/chat", headers={"content-type": "application/json"})

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"x": [' + b"[[[[1]]]]," * 100_000

    async def scan() -> str | Reason:
        return await read_key(Match(CHAT, Action.START, {}), request_of(scope), parts(), turns)

    watching = asyncio.create_task(victim())
    answers = await asyncio.gather(*[scan() for _ in range(12)])
    watching.cancel()
    assert set(answers) == {Reason.BODY_TOO_ODD}
    assert longest < 0.05  # it is 2 ms on a machine with nothing else to do; parsing one of them takes 100 ms
