from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from resumable_asgi.errors import ConfigurationError
from resumable_asgi.settings import ResumableRoute, Settings


def test_the_defaults_are_those_of_the_ai_sdk_pattern() -> None:
    route = Settings().routes[0]
    assert (route.path, route.methods, route.key) == ("/api/chat", {"POST"}, "json:id")
    assert (route.resume, route.stop) == ("/api/chat/{key}/stream", "/api/chat/{key}/stop")
    assert (route.owner, route.on_conflict, route.event_ids) == ("auto", "replace", False)
    assert (route.retention, route.replay_finished, route.keepalive) == (3600, 0, 15)
    assert route.stall_timeout == 60
    assert route.max_bytes == 8 * 1024 * 1024


def test_the_defaults_of_the_settings_are_documented_values() -> None:
    settings = Settings()
    assert (settings.redis_url, settings.prefix, settings.lease) == (None, "resumable", 10)
    assert (settings.drain_timeout, settings.redis_timeout, settings.unavailable_status) == (10, 0.5, 503)
    assert settings.max_body_bytes == 1024 * 1024
    assert settings.routes == (ResumableRoute(),)


@pytest.mark.parametrize(
    ("path", "key", "resume", "stop"),
    [
        ("/chats/{x}/messages", "path:x", "/chats/{x}/messages/stream", "/chats/{x}/messages/stop"),
        ("/chats/{x:path}", "path:x", "/chats/{x:path}/stream", "/chats/{x:path}/stop"),
        ("/t/{tenant}/chat", "json:id", "/t/{tenant}/chat/{key}/stream", "/t/{tenant}/chat/{key}/stop"),
        ("/api/chat/", "query:id", "/api/chat/{key}/stream", "/api/chat/{key}/stop"),
        ("/", "header:x-chat", "/{key}/stream", "/{key}/stop"),
    ],
)
def test_resume_and_stop_follow_from_the_path_and_the_key(
    path: str, key: str, resume: str, stop: str
) -> None:
    route = ResumableRoute(path, key=key)
    assert (route.resume, route.stop) == (resume, stop)


def test_stop_can_be_turned_off() -> None:
    assert ResumableRoute(stop=None).stop is None


def test_shared_params_are_those_of_all_three_templates_but_the_key() -> None:
    assert ResumableRoute("/{b}/{a}/chat").shared_params == ("a", "b")
    assert ResumableRoute("/{b}/{a}/chat", resume="/{b}/{key}").shared_params == ("b",)
    assert ResumableRoute("/{b}/{a}/chat", resume="/{b}/{key}", stop=None).shared_params == ("b",)
    assert ResumableRoute("/{b}/{x}/chat", key="path:x").shared_params == ("b",)


def test_origins_are_as_browsers_write_them() -> None:
    route = ResumableRoute(
        origins=["https://App.example.com:443", "http://[::1]:3000", "capacitor://localhost"]
    )
    assert route.origins == ("https://app.example.com", "http://[::1]:3000", "capacitor://localhost")
    assert Settings.from_mapping({"routes": [{"origins": ["http://a:80"]}]}).routes[0].origins == (
        "http://a",
    )


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com", "https://app.example.com/", "https://app.example.com/chat", "*", "null", "", "https://",
        "https://user@app.example.com", "https://*.example.com", "https://a?b", "https://ü.example", 5, None,
        "https://a:b", "https://a ",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused(origin: object) -> None:
    with pytest.raises(ConfigurationError, match=r"origins=.*https://app\.example\.com"):
        ResumableRoute(origins=[origin])  # type: ignore[list-item]


def test_one_origin_is_no_list_of_origins() -> None:
    with pytest.raises(ConfigurationError, match="give a list"):
        ResumableRoute(origins="https://app.example.com")


def test_methods_are_normalised_to_upper_case() -> None:
    assert ResumableRoute(methods=["post", "Put"]).methods == frozenset({"POST", "PUT"})


def test_settings_are_frozen_and_keep_no_reference_to_the_users_list() -> None:
    routes = [ResumableRoute()]
    settings = Settings(routes=routes)
    routes.append(ResumableRoute("/other"))
    assert settings.routes == (ResumableRoute(),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lease = 3  # type: ignore[misc]
    assert hash(settings) == hash(Settings())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            ("path", value)
            for value in ("", "api/chat", None, 3, "/a/{", "/a/{b c}", "/a/{}", "/a?b", "/a/}b")
        ],
        *[("path", value) for value in ("/{key}/chat", "/{a}/{a}", "/{a:nothing}", "/a/{b:int")],
        *[("methods", value) for value in ([], "POST", None, {"PO ST"}, [3], {""}, 5, ["POST", None])],
        *[
            ("key", value)
            for value in ("", "json:", "json:a..b", "json", "id", "path:", "path:a-b", "jsn:id", 5)
        ],
        *[("key", value) for value in ("query:", "header:a b", "path:absent", "path:key", None, "header:")],
        *[("resume", value) for value in ("/x", "/x/{id}", "x/{key}", None, "", 3, "/{key}/{key}")],
        *[("stop", value) for value in ("/x", "/x/{id}", "x/{key}", "", 3, False, "/{key}?a")],
        *[
            ("owner", value)
            for value in ("", "usr", "user:x", "session", "session:", "cookie:a b", None, "state:")
        ],
        *[("on_conflict", value) for value in ("", "replaces", None, 3, True)],
        *[
            ("retention", value)
            for value in (0, 0.9, -1, "3600", None, True, float("nan"), float("inf"), 10**400)
        ],
        *[("replay_finished", value) for value in (-1, float("nan"), "0", None, False, 3601)],
        *[("keepalive", value) for value in (0, -1, float("-inf"), float("nan"), "15", False)],
        *[("stall_timeout", value) for value in (0, -1, float("nan"), "60", False, True)],
        *[("max_bytes", value) for value in (0, -1, 1.5, 1e6, "1", None, True)],
        *[("event_ids", value) for value in (0, 1, "yes", None)],
    ],
)
def test_a_wrong_value_of_a_route_names_the_field_and_the_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ResumableRoute(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field}=")
    assert re.search(r": .*(give|write|did you mean|known are|correct|raise)", message), message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("prefix", value) for value in ("", "a b", "{a}", "a*", "a\n", None, 3, "é", "x" * 129)],
        *[("lease", value) for value in (0, 0.49, -1, float("nan"), float("inf"), "10", None, True)],
        *[("drain_timeout", value) for value in (-0.1, float("nan"), "1", None, False)],
        *[("redis_timeout", value) for value in (0, -1, float("nan"), "1", None, True)],
        *[("unavailable_status", value) for value in (200, 404, 600, "503", 503.0, None, True)],
        *[("max_body_bytes", value) for value in (0, -1, 2.0, "1", None, True)],
        *[("routes", value) for value in ([], (), None, "/api/chat", ["/api/chat"], {ResumableRoute()}, 3)],
    ],
)
def test_a_wrong_value_of_the_settings_names_the_field_and_the_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(**{field: value})
    assert str(caught.value).startswith(f"{field}=")
    assert "give" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "app"},
        {"on_conflict": "stop"},
        {"on_conflict": "reject"},
        {"on_conflict": "join"},
        {"event_ids": True},
    ],
)
def test_what_does_not_work_yet_says_so_and_what_does(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"not available in this version; give"):
        ResumableRoute(**changes)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/0",
        "redis://",
        "rediss://user:p%40ss@example.org:6380/2?ssl_cert_reqs=none",
        "redis://[::1]:6379",
        "unix:///run/redis.sock",
        "unix://user:secret@/run/redis.sock?db=1",
        "redis+sentinel://one:26379,two:26379/main/0",
        "redis+sentinel://one/main",
        "redis+sentinel://user:secret@[::1]:26379,two/main",
        "redis+sentinel://user:secret@one/main/0?sentinel_username=asker&sentinel_password=p%40ss&db=1",
        "redis+cluster://one",
        "redis+cluster://one:7000,two:7001/0",
        "REDIS+CLUSTER://user:p%40ss@[::1]:7000,two",
        "memory://",
        None,
    ],
)
def test_urls_of_every_supported_kind_are_accepted(url: str | None) -> None:
    assert Settings(redis_url=url).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "localhost:6379",
        "http://hunter2@localhost",
        "redis:/hunter2@localhost",
        "redis://:hunter2/x@localhost",
        "redis://:hunter2@localhost:port",
        "redis://:hunter2@localhost:99999",
        "redis://:hunter2@localhost/zero",
        "redis://:hunter2@[::1",
        "redis://:hunter2℀@localhost",
        "unix://:hunter2@",
        "unix://",
        "memory://hunter2",
        "redis+sentinel://:hunter2@one",
        "redis+sentinel://:hunter2@one:26379",
        "redis+sentinel://:hunter2@one:x/main",
        "redis+sentinel://:hunter2@one:0/main",
        "redis+sentinel://:hunter2@/main",
        "redis+sentinel://:hunter2@one,,two/main",
        "redis+sentinel://:hunter2@one/main/zero",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@one,,two",
        "redis+cluster://:hunter2@one:0",
        "redis+cluster://:hunter2@one:x",
        "redis+cluster://:hunter2@one:7000/1",
        "redis+cluster://:hunter2@one:7000?db=1",
    ],
)
def test_a_wrong_url_is_refused_without_printing_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(redis_url=url)
    assert str(caught.value).startswith("redis_url=")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_url_that_is_no_string_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="redis_url=<bytes>"):
        Settings(redis_url=b"redis://:hunter2@localhost")  # type: ignore[arg-type]


def test_the_representation_of_settings_holds_no_password() -> None:
    assert "hunter2" not in repr(Settings(redis_url="redis://:hunter2@localhost"))


def test_two_routes_for_the_same_path_and_method_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two routes for POST"):
        Settings(routes=[ResumableRoute("/a"), ResumableRoute("/a", methods={"POST", "PUT"})])
    Settings(routes=[ResumableRoute("/a"), ResumableRoute("/a", methods={"PUT"})])


def test_two_paths_with_the_same_resume_template_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"resume='/x/{key}'.*never reached"):
        Settings(routes=[ResumableRoute("/a", resume="/x/{key}"), ResumableRoute("/b", resume="/x/{key}")])


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/c/{x}", "key": "path:x", "methods": {"GET"}, "resume": "/c/{x}"},
        {"path": "/c/{x}", "key": "path:x", "methods": {"DELETE"}, "resume": "/c/{x}"},
        {"path": "/c/{x}", "key": "path:x", "stop": "/c/{x}"},
    ],
)
def test_a_resume_or_stop_template_that_is_also_the_start_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="answers to the same request"):
        ResumableRoute(**changes)


def test_a_route_may_be_resumed_at_its_own_path_with_another_method() -> None:
    assert ResumableRoute("/c/{x}", key="path:x", resume="/c/{x}").resume == "/c/{x}"


def test_the_environment_sets_the_scalars() -> None:
    environ = {
        "REDIS_URL": "redis://localhost",
        "RESUMABLE_PREFIX": "app",
        "RESUMABLE_LEASE": "5",
        "RESUMABLE_DRAIN_TIMEOUT": "0",
        "RESUMABLE_REDIS_TIMEOUT": "0.25",
        "RESUMABLE_UNAVAILABLE_STATUS": "204",
        "RESUMABLE_MAX_BODY_BYTES": "1000",
        "PATH": "/bin",
    }
    assert Settings.from_env(environ) == Settings(
        redis_url="redis://localhost",
        prefix="app",
        lease=5,
        drain_timeout=0,
        redis_timeout=0.25,
        unavailable_status=204,
        max_body_bytes=1000,
    )


@pytest.mark.parametrize("environ", [{}, {"REDIS_URL": ""}, {"REDIS_URL": " "}])
def test_no_or_an_empty_redis_url_in_the_environment_means_none(environ: dict[str, str]) -> None:
    assert Settings.from_env(environ).redis_url is None


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("RESUMABLE_LEESE", "did you mean RESUMABLE_LEASE?"),
        ("RESUMABLE_DRAIN", "did you mean RESUMABLE_DRAIN_TIMEOUT?"),
        ("RESUMABLE_REDIS_URL", "did you mean REDIS_URL?"),
        ("RESUMABLE_lease", "RESUMABLE_LEASE"),
        ("RESUMABLE_ROUTES", "RESUMABLE_"),
        ("RESUMABLE_", "RESUMABLE_LEASE"),
    ],
)
def test_an_unknown_environment_variable_names_the_nearest_known_one(variable: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({variable: "1"})
    assert variable in str(caught.value)
    assert nearest in str(caught.value)


@pytest.mark.parametrize("value", ["", "ten", "1s"])
def test_an_environment_variable_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"RESUMABLE_LEASE='.*': give a number"):
        Settings.from_env({"RESUMABLE_LEASE": value})


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_an_environment_variable_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="lease="):
        Settings.from_env({"RESUMABLE_LEASE": value})


def test_a_mapping_gives_the_same_settings_as_code() -> None:
    mapping = {"redis_url": "memory://", "lease": 3, "routes": [{"path": "/a", "methods": ["GET"]}, {}]}
    routes = [ResumableRoute("/a", methods={"GET"}), ResumableRoute()]
    assert Settings.from_mapping(mapping) == Settings(redis_url="memory://", lease=3, routes=routes)
    assert Settings.from_mapping({}) == Settings()
    assert Settings.from_mapping({"routes": [ResumableRoute("/b")]}).routes[0].path == "/b"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"laese": 3}, "settings: unknown key 'laese'; did you mean 'lease'?"),
        ({"routes": [{"pth": "/a"}]}, "routes: unknown key 'pth'; did you mean 'path'?"),
        ({"routes": [{"shared_params": ()}]}, "unknown key 'shared_params'"),
        ({"qqqq": 1}, "settings: unknown key 'qqqq'; known are drain_timeout"),
        ({3: 1}, "settings: unknown key 3"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Settings.from_mapping(mapping)


@pytest.mark.parametrize("mapping", [None, [], "x", {"routes": {}}, {"routes": ["/a"]}, {"routes": [3]}])
def test_a_mapping_of_the_wrong_shape_is_refused(mapping: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"(settings|routes)="):
        Settings.from_mapping(mapping)


def test_a_mapping_of_the_wrong_shape_is_not_printed_since_it_may_hold_a_password() -> None:
    shapes: list[Any] = ["redis://:hunter2@localhost", [{"redis_url": "redis://:hunter2@localhost"}]]
    for shape in shapes:
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_mapping(shape)
        assert "hunter2" not in str(caught.value)


def test_a_path_parameter_named_key_is_the_key() -> None:
    route = ResumableRoute("/chats/{key}", key="path:key")
    assert (route.resume, route.stop) == ("/chats/{key}/stream", "/chats/{key}/stop")
    with pytest.raises(ConfigurationError, match=r"rename it, or give key='path:key'"):
        ResumableRoute("/{key}/chats/{x}", key="path:x")


def test_a_toml_file_holds_settings_and_routes(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        """
        [other]
        x = 1
        [resumable]
        redis_url = "redis://localhost"
        lease = 4.5
        [[resumable.routes]]
        path = "/chats/{x}/messages"
        key = "path:x"
        stop = false
        keepalive = false
        stall_timeout = false
        [[resumable.routes]]
        """,
        encoding="utf-8",
    )
    first = ResumableRoute("/chats/{x}/messages", key="path:x", stop=None, keepalive=None, stall_timeout=None)
    expected = Settings(redis_url="redis://localhost", lease=4.5, routes=[first, ResumableRoute()])
    assert Settings.from_toml(file) == expected
    assert Settings.from_toml(str(file)) == expected


@pytest.mark.parametrize(
    "content", [b"", b"[other]\n", b"[resumable", b"\xff", b"resumable = 3", b"[[resumable]]"]
)
def test_a_toml_file_without_a_valid_table_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError):
        Settings.from_toml(file)


def test_a_missing_toml_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No such file.*give a TOML file"):
        Settings.from_toml(tmp_path / "none.toml")
