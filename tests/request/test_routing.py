from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from resumable_asgi.request.routing import Router
from resumable_asgi.settings import ResumableRoute
from resumable_asgi.templates import Action

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
