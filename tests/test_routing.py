from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Scope

from resumable_asgi.errors import ConfigurationError
from resumable_asgi.routing import Action, Match, Router, read_key
from resumable_asgi.settings import ResumableRoute

CHAT = ResumableRoute()
EVENTS = ResumableRoute("/runs/{run_id}/events", methods={"GET"}, key="path:run_id")


def scope_of(
    method: str,
    path: str,
    raw_path: bytes | None = None,
    *,
    root_path: str = "",
    headers: dict[str, str] | None = None,
    query: bytes = b"",
) -> Scope:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope: Scope = {"type": "http", "method": method, "path": path, "root_path": root_path}
    scope |= {"query_string": query, "headers": pairs}
    return scope if raw_path is None else scope | {"raw_path": raw_path}


def found(routes: list[ResumableRoute], scope: Scope) -> tuple[str, Action, dict[str, str]] | None:
    match = Router(routes).match(scope)
    return match and (match.route.path, match.action, match.params)


def request_of(scope: Scope, body: bytes | None = None) -> Request:
    """Without a body it is one of which nobody may read the body."""

    async def receive() -> Message:
        assert body is not None, "the body was read"
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


async def key_in(route: ResumableRoute, request: Request) -> str | None:
    return await read_key(Match(route=route, action=Action.START, params={}), request)


async def key_in_json(
    body: bytes, *, key: str = "json:id", content_type: str = "application/json"
) -> str | None:
    scope = scope_of("POST", "/api/chat", headers={"content-type": content_type})
    return await key_in(ResumableRoute(key=key), request_of(scope, body))


@pytest.mark.parametrize(
    ("method", "path", "action", "params"),
    [
        ("POST", "/api/chat", Action.START, {}),
        ("GET", "/api/chat/7/stream", Action.RESUME, {"key": "7"}),
        ("HEAD", "/api/chat/7/stream", Action.RESUME, {"key": "7"}),
        ("DELETE", "/api/chat/7/stream", Action.STOP, {"key": "7"}),
        ("POST", "/api/chat/7/stop", Action.STOP, {"key": "7"}),
    ],
)
def test_each_action_has_its_method_and_template(
    method: str, path: str, action: Action, params: dict[str, str]
) -> None:
    assert found([CHAT], scope_of(method, path)) == ("/api/chat", action, params)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/chat"),
        ("OPTIONS", "/api/chat"),
        ("POST", "/api/chat/"),
        ("POST", "/api/chats"),
        ("POST", "/other"),
        ("POST", "/api/chat/7/stream"),
        ("GET", "/api/chat/7/stop"),
        ("GET", "/api/chat//stream"),
        ("GET", "/api/chat/7/8/stream"),
        ("GET", ""),
        ("post", "/api/chat"),
    ],
)
def test_every_other_request_is_left_alone(method: str, path: str) -> None:
    assert found([CHAT], scope_of(method, path)) is None


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/chat/7/stop"), ("DELETE", "/api/chat/7/stream")])
def test_without_a_stop_template_nothing_stops(method: str, path: str) -> None:
    assert found([ResumableRoute(stop=None)], scope_of(method, path)) is None


def test_the_first_matching_route_wins() -> None:
    routes = [ResumableRoute("/a/{x}"), ResumableRoute("/{y}/b")]
    assert found(routes, scope_of("POST", "/a/b")) == ("/a/{x}", Action.START, {"x": "b"})
    assert found(routes[::-1], scope_of("POST", "/a/b")) == ("/{y}/b", Action.START, {"y": "a"})


def test_resume_is_found_behind_a_start_template_that_takes_any_path() -> None:
    route = ResumableRoute("/runs/{x:path}", methods={"GET"}, key="path:x")
    assert found([route], scope_of("GET", "/runs/a/b/stream")) == (route.path, Action.RESUME, {"x": "a/b"})
    assert found([route], scope_of("GET", "/runs/a/b")) == (route.path, Action.START, {"x": "a/b"})


def test_convertors_restrict_what_matches_and_params_stay_text() -> None:
    route = ResumableRoute("/runs/{x:int}", key="path:x")
    assert found([route], scope_of("POST", "/runs/007")) == (route.path, Action.START, {"x": "007"})
    assert found([route], scope_of("POST", "/runs/seven")) is None


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
def test_any_encoded_id_is_found_and_decoded(chat_id: str) -> None:
    raw_path = b"/api/chat/" + quote(chat_id, safe="").encode() + b"/stream"
    scope = scope_of("GET", f"/api/chat/{chat_id}/stream", raw_path)
    assert found([CHAT], scope) == ("/api/chat", Action.RESUME, {"key": chat_id})


@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=2, max_size=2),
    st.sampled_from(["", "/sub", "/s/ü b"]),
    st.booleans(),
)
def test_several_encoded_params_are_told_apart_under_any_mount(
    values: list[str], root_path: str, in_raw_path: bool
) -> None:
    route = ResumableRoute("/{tenant}/runs/{x}", key="path:x")
    encoded = f"/{quote(values[0], safe='')}/runs/{quote(values[1], safe='')}"
    raw_path = ((quote(root_path) if in_raw_path else "") + encoded).encode()
    scope = scope_of("POST", f"{root_path}/{values[0]}/runs/{values[1]}", raw_path, root_path=root_path)
    assert found([route], scope) == (route.path, Action.START, {"tenant": values[0], "x": values[1]})


@given(st.text(), st.binary(), st.sampled_from(["", "/", "/a", "/api/chat"]))
def test_no_path_raises(path: str, raw_path: bytes, root_path: str) -> None:
    for scope in (
        scope_of("GET", path, raw_path, root_path=root_path),
        scope_of(
            "GET", f"/api/chat/{path}/stream", b"/api/chat/" + raw_path + b"/stream", root_path=root_path
        ),
    ):
        found([CHAT, EVENTS], scope)


@pytest.mark.parametrize("raw", [b"%FF%2F", b"%2F%ZZ", b"%2F%", b"%ED%A0%80%2F", b"\xff%2f"])
def test_malformed_encodings_do_not_raise(raw: bytes) -> None:
    assert found([CHAT], scope_of("GET", "/api/chat/\ufffd/stream", b"/api/chat/" + raw + b"/stream"))


def test_a_query_left_in_the_raw_path_is_ignored() -> None:
    scope = scope_of("GET", "/api/chat/a/b/stream", b"/api/chat/a%2Fb/stream?next=%2Fhome")
    assert found([CHAT], scope) == ("/api/chat", Action.RESUME, {"key": "a/b"})


def test_a_path_that_middleware_has_rewritten_counts_more_than_the_raw_one() -> None:
    scope = scope_of("GET", "/api/chat/7/stream", b"/v1/elsewhere/a%2Fb")
    assert found([CHAT], scope) == ("/api/chat", Action.RESUME, {"key": "7"})


def test_an_encoded_slash_separates_no_segments() -> None:
    assert found([CHAT], scope_of("POST", "/api/chat", b"/api%2Fchat")) is None


@pytest.mark.parametrize(
    ("path", "root_path", "matches"),
    [
        ("/sub/api/chat", "/sub", True),
        ("/api/chat", "/sub", True),
        ("/subapi/chat", "/sub", False),
        ("/sub/api/chat", "", False),
        ("/api/chat", "/api/chat", False),
        ("/sub/sub/api/chat", "/sub", False),
    ],
)
def test_mounts_are_stripped_as_starlette_does(path: str, root_path: str, matches: bool) -> None:
    match = found([CHAT], scope_of("POST", path, path.encode(), root_path=root_path))
    assert (match is not None) is matches


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"id": "a"}', "a"),
        (b'{"id": 7}', "7"),
        (b'{"id": -7}', "-7"),
        (b'{"id": "a", "id": "b"}', "b"),
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
        b'{"id": "a", "x": %s}' % (b"[" * 200_000),
    ],
)
async def test_a_malformed_body_has_no_key(body: bytes) -> None:
    assert await key_in_json(body) is None


async def test_a_dotted_path_leads_into_objects() -> None:
    body = json.dumps({"chat": {"meta": {"id": "a"}, "id": "b"}, "list": [{"id": "c"}]}).encode()
    assert await key_in_json(body, key="json:chat.meta.id") == "a"
    assert await key_in_json(body, key="json:chat.id") == "b"
    assert await key_in_json(body, key="json:chat.id.more") is None
    assert await key_in_json(body, key="json:list.id") is None


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
    assert await key_in_json(b'{"id": "a"}', content_type=content_type) == ("a" if is_json else None)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("query:chat", "ä b"),
        ("header:x-chat", "h"),
        ("header:X-Chat", "h"),
        ("query:none", None),
        ("header:none", None),
    ],
)
async def test_keys_come_from_the_query_and_from_headers(key: str, expected: str | None) -> None:
    scope = scope_of("POST", "/api/chat", headers={"x-chat": "h"}, query=b"chat=%C3%A4+b")
    route = ResumableRoute(key=key)
    assert await key_in(route, request_of(scope)) == expected


async def test_a_path_key_is_the_param_for_every_action() -> None:
    router = Router([EVENTS])
    for method, path in (("GET", ""), ("GET", "/stream"), ("POST", "/stop"), ("DELETE", "/stream")):
        scope = scope_of(method, f"/runs/a b/events{path}")
        match = router.match(scope)
        assert match is not None
        assert await read_key(match, request_of(scope)) == "a b"


@pytest.mark.parametrize(
    "route", [CHAT, ResumableRoute("/runs/{x}", key="path:x", resume="/api/chat/{key}/stream")]
)
async def test_the_key_of_a_resume_is_the_key_param(route: ResumableRoute) -> None:
    scope = scope_of("GET", "/api/chat/a/b/stream", b"/api/chat/a%2fb/stream")
    match = Router([route]).match(scope)
    assert match is not None
    assert await read_key(match, request_of(scope)) == "a/b"


async def test_a_resume_with_a_key_that_no_start_can_have_has_none() -> None:
    for chat_id in ("x" * 513, "\ud800"):
        match = Router([CHAT]).match(scope_of("GET", f"/api/chat/{chat_id}/stream"))
        assert match is not None
        assert await read_key(match, request_of(scope_of("GET", "/"))) is None


async def test_a_callable_finds_the_key_sync_or_async() -> None:
    async def from_body(request: Request) -> str | None:
        return (await request.body()).decode() or None

    scope = scope_of("POST", "/api/chat", headers={"x-chat": "a"})
    assert await key_in(ResumableRoute(key=from_body), request_of(scope, b"b")) == "b"
    assert await key_in(ResumableRoute(key=from_body), request_of(scope, b"")) is None
    assert (
        await key_in(ResumableRoute(key=lambda request: request.headers["x-chat"]), request_of(scope)) == "a"
    )


async def test_a_callable_that_returns_something_else_is_a_configuration_error() -> None:
    def returns_a_number(request: Request) -> Any:
        return 7

    with pytest.raises(ConfigurationError, match=r"key=.*returned a int; return str or None"):
        await key_in(ResumableRoute(key=returns_a_number), request_of(scope_of("POST", "/api/chat")))


async def test_a_client_that_leaves_before_its_body_is_complete_is_reported() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = scope_of("POST", "/api/chat", headers={"content-type": "application/json"})
    with pytest.raises(ClientDisconnect):
        await key_in(CHAT, Request(scope, receive))
