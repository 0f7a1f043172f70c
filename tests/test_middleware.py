"""The whole middleware in one process: what is recorded, resumed, stopped and passed through."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import warnings
from typing import Any

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from testkit.inprocess import JSON, SSE, Exchange, Host, worker
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings
from resumable_asgi.errors import ConfigurationError

FIRST, LAST = b"data: 1\n\n", b"data: \xe6\x97\xa5\r\n\r\n"


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else request.getfixturevalue("valkey").url


async def test_a_stream_is_recorded_resumed_and_forgotten_when_it_was_delivered(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        assert exchange.stream_id is not None
        run.emit(FIRST)
        await exchange.until(FIRST)
        resumed = await made.resume().until(FIRST)
        assert (resumed.status, resumed.stream_id) == (200, exchange.stream_id)
        run.finish(LAST)
        for client in (exchange, resumed):
            await client.ended()
            assert client.body == FIRST + LAST
            assert client.complete
        await wait_until(made.nothing)
        again = await made.resume().ended()
        assert (again.status, again.body) == (204, b"")


async def test_who_saw_a_byte_can_resume(url: str) -> None:
    async with worker(redis_url=url) as made:
        for n in range(20):
            exchange, run = await made.begin(f"c{n}")
            resumed = await made.resume(f"c{n}").until_started()
            assert resumed.stream_id == exchange.stream_id
            run.finish()
            await exchange.ended()


async def test_a_client_cut_off_before_the_end_gets_all_of_it_later(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        run.emit(FIRST)
        await exchange.until(FIRST)
        exchange.disconnect()
        await exchange.ended()
        run.finish(LAST)
        await run.until_ended("returned")
        for _ in range(2):
            resumed = await made.resume().ended()
            if resumed.status == 204:
                break
            assert resumed.body == FIRST + LAST
            assert resumed.complete
        assert resumed.status == 204


async def test_a_failed_stream_replays_and_breaks_off_every_time(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        run.emit(FIRST)
        await exchange.until(FIRST)
        run.fail(LookupError())
        with pytest.raises(LookupError):
            await exchange.ended()
        for _ in range(3):
            resumed = await made.resume().ended()
            assert (resumed.status, resumed.body, resumed.complete) == (200, FIRST, False)


async def test_a_resume_answers_the_first_response_s_status_and_headers(url: str) -> None:
    kept = [SSE, (b"X-Host", b"kept"), (b"x-host", b"twice"), (b"Vary", b"cookie")]
    dropped = [(b"Set-Cookie", b"a=b"), (b"date", b"now"), (b"content-length", b"9"), (b"X-Request-Id", b"1")]
    dropped += [(b"Cache-Control", b"public, max-age=60"), (b"CDN-Cache-Control", b"max-age=60")]
    dropped += [(b"ETag", b'"1"'), (b"Last-Modified", b"now"), (b"Age", b"1"), (b"Expires", b"tomorrow")]
    dropped += [(b"Accept-Ranges", b"bytes"), (b"Content-Range", b"bytes 0-1/2"), (b"x-csrf-token", b"c")]
    private = (b"cache-control", b"private, no-store")
    host = Host({"type": "http.response.start", "status": 201, "headers": [*kept, *dropped]})
    async with worker(host, redis_url=url) as made:
        exchange, run = made.post(), await host.run()
        await exchange.until_started()
        id_header = (b"resumable-stream-id", (exchange.stream_id or "").encode())
        assert exchange.start["headers"] == [*kept, *dropped, id_header]
        resumed = await made.resume().until_started()
        assert (resumed.status, resumed.start["headers"]) == (201, [*kept, private, id_header])
        head = await made.request("HEAD", "/api/chat/c/stream").ended()
        assert (head.start["headers"], head.body, head.complete) == ([*kept, private, id_header], b"", True)
        run.finish()


async def test_the_inner_app_hears_of_no_encoding_and_of_no_way_past_the_middleware(url: str) -> None:
    extensions = {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "http.response.debug": {}}
    async with worker(redis_url=url) as made:
        headers = [(b"Accept-Encoding", b"gzip, br"), (b"accept", b"*/*")]
        _, run = await made.begin(headers=headers, extensions=dict(extensions))
        names = [name.lower() for name, _ in run.scope["headers"]]
        assert b"accept-encoding" not in names
        assert b"accept" in names
        assert list(run.scope["extensions"]) == ["http.response.debug"]
        run.finish()


async def test_the_app_gets_the_request_body_that_was_read_for_the_key(url: str) -> None:
    async with worker(redis_url=url) as made:
        parts = [b'{"id": ', b'"c", "text": "', b"x" * 100_000, b'"}']
        exchange = made.post(body=parts)
        run = await made.host.run()
        await exchange.until_started()
        assert run.body == b"".join(parts)
        assert exchange.stream_id is not None
        run.finish()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"id": ""}', b'{"id": null}', b"[1]", b'{"id": {}}', b"\xff", b'{"id": 1.5}']
)
async def test_a_request_without_a_key_passes_through(url: str, body: bytes) -> None:
    async with worker(redis_url=url) as made:
        exchange = made.post(body=body)
        run = await made.host.run()
        await exchange.until_started()
        assert run.body == body
        assert exchange.stream_id is None
        run.finish(FIRST)
        assert (await exchange.ended()).body == FIRST


async def test_a_body_larger_than_may_be_read_passes_through(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(redis_url=url, max_body_bytes=1000) as made:
        parts = [b'{"text": "', b"x" * 1000, b"y" * 1000, b'", "id": "c"}']
        exchange = made.post(body=parts)
        run = await made.host.run()
        await exchange.until_started()
        assert run.body == b"".join(parts)
        assert exchange.stream_id is None
        assert "max_body_bytes=1000" in caplog.text
        run.finish(FIRST)
        await exchange.ended()


async def test_a_key_at_the_beginning_is_found_in_a_body_of_any_size(url: str) -> None:
    async with worker(redis_url=url, max_body_bytes=1000) as made:
        parts = [b'{"id": "c", "text": "' + b"x" * 2000, b"y" * 100_000, b'"}']
        exchange = made.post(body=parts)
        run = await made.host.run()
        await exchange.until_started()
        assert run.body == b"".join(parts)
        assert exchange.stream_id is not None
        run.finish(FIRST)
        await exchange.ended()


async def test_nothing_is_read_behind_the_key_before_the_app_asks(url: str) -> None:
    called = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        called.set()
        await send({"type": "http.response.start", "status": 200, "headers": [SSE]})
        await send({"type": "http.response.body", "body": FIRST, "more_body": True})
        await receive()

    async with worker(app, lifespan=False, redis_url=url) as made:
        exchange = made.post(body=[b'{"id": "c", ', b"the rest never comes"])
        exchange._parts.pop()
        await asyncio.wait_for(called.wait(), 5)
        await exchange.until(FIRST)
        assert exchange.stream_id is not None


async def test_an_owner_is_asked_before_the_body_is_read(url: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body"})

    async with worker(app, lifespan=False, redis_url=url, owner="header:x-user") as made:
        exchange = await made.post(body=[b'{"text": ', b"the rest never comes"]).ended()
        assert exchange.status == 401
        assert len(exchange._parts) == 2


async def test_twelve_odd_bodies_pass_through_unrecorded_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with worker(redis_url="memory://") as made:
        body = b'{"x": [' + b"[[[[1]]]]," * 60_000 + b'0], "id": "c"}'
        exchanges = [made.post(body=body) for _ in range(12)]
        for number in range(12):
            (await made.host.run(number)).finish(FIRST)
        for exchange in exchanges:
            await exchange.ended()
            assert exchange.stream_id is None
        assert [run.body for run in made.host.runs] == [body] * 12
        assert caplog.text.count("too many values before the key") == 1


@pytest.mark.parametrize("raised_by", ["key", "owner"])
@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (HTTPException(401, "Who are you?", {"WWW-Authenticate": "Bearer"}), 401, b"Who are you?"),
        (HTTPException(404), 404, b"Not Found"),
        (HTTPException(204), 204, b""),
        (fastapi.HTTPException(422, {"why": ["so"]}), 422, b'{"detail":{"why":["so"]}}'),
    ],
)
async def test_an_http_exception_of_an_owner_or_key_function_is_the_answer(
    url: str, raised_by: str, error: HTTPException, status: int, body: bytes
) -> None:
    async def refuse(request: Request) -> str:
        raise error

    async with worker(redis_url=url, **{raised_by: refuse}) as made:
        requests = [("POST", "/api/chat")]
        if raised_by == "owner":
            requests += [("GET", "/api/chat/c/stream"), ("POST", "/api/chat/c/stop")]
            requests += [("DELETE", "/api/chat/c/stream")]
        for method, path in requests:
            exchange = await made.request(method, path, headers=[JSON], body=b'{"id": "c"}').ended()
            assert (exchange.status, exchange.body, exchange.complete) == (status, body, True)
            challenge = (error.headers or {}).get("WWW-Authenticate")
            assert exchange.headers.get(b"www-authenticate") == (challenge and challenge.encode())
        assert made.host.runs == []


async def test_a_post_that_only_looks_like_a_stop_reaches_the_app(url: str) -> None:
    """A start template that takes any path takes its own stops, too: they are stops while there is a run."""
    async with worker(redis_url=url, path="/f/{p:path}", key="path:p") as made:
        exchange = made.request("POST", "/f/a/stop", headers=[JSON], body=b"{}")
        run = await made.host.run()
        await exchange.until_started()
        assert (run.body, exchange.stream_id is not None) == (b"{}", True)
        run.finish(FIRST)
        await exchange.ended()

        running = made.request("POST", "/f/a")
        await running.until_started()
        stop = await made.request("POST", "/f/a/stop").ended()
        assert json.loads(stop.body) == {"success": True, "stopped": True}
        await running.ended()
        assert len(made.host.runs) == 2


async def test_a_stop_template_that_was_written_is_a_stop(url: str) -> None:
    async with worker(redis_url=url, path="/f/{p:path}", key="path:p", stop="/f/{p:path}/halt") as made:
        stop = await made.request("POST", "/f/a/halt").ended()
        assert json.loads(stop.body) == {"success": True, "stopped": False}
        assert made.host.runs == []


@pytest.mark.parametrize(
    ("reason", "options", "request_options"),
    [
        ("has no key", {}, {"body": b"{}"}),
        ("has no owner", {"owner": "header:x-user"}, {}),
        ("'application/json'", {}, {}),
    ],
)
async def test_what_is_not_recorded_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, reason: str, options: dict[str, Any], request_options: dict[str, Any]
) -> None:
    kind = JSON if "json" in reason else SSE
    host = Host({"type": "http.response.start", "status": 200, "headers": [kind]})
    async with worker(host, redis_url="memory://", **options) as made:
        for number in range(3):
            exchange = made.post(**request_options)
            (await host.run(number)).finish(FIRST)
            await exchange.ended()
    warned = [record for record in caplog.records if reason in record.getMessage()]
    assert len(warned) == 1
    assert "/api/chat" in warned[0].getMessage()
    assert warned[0].levelno == logging.WARNING


async def test_an_error_of_the_app_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    host = Host({"type": "http.response.start", "status": 500, "headers": [JSON]})
    async with worker(host, redis_url="memory://") as made:
        exchange = made.post()
        (await host.run()).finish()
        await exchange.ended()
    assert "is not recorded" not in caplog.text


async def test_a_client_that_leaves_in_its_upload_passes_through(url: str) -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])

    async with worker(app, lifespan=False, redis_url=url) as made:
        exchange = made.post(body=[b'{"id"', b': "c"}'])
        exchange._parts.pop()
        exchange._parts.append(b"")
        exchange._parts[0:] = []
        exchange.disconnect()
        await exchange.ended()
        assert heard == ["http.disconnect"]
        assert await made.nothing()


async def test_other_requests_and_kinds_of_connection_pass_through(url: str) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["type"], receive, send))

    async with worker(app, lifespan=False, redis_url=url) as made:

        async def receive() -> Any: ...
        async def send(message: Any) -> None: ...

        for scope in (
            {"type": "websocket", "path": "/api/chat"},
            {"type": "http", "path": "/api/chat", "method": "GET"},
            {"type": "http", "path": "/other", "method": "POST"},
            {"type": "http", "path": "/api/chat/c/stream", "method": "POST"},
            {"type": "something.new"},
        ):
            await made.middleware(scope, receive, send)
            assert seen.pop() == (scope["type"], receive, send)


@pytest.mark.parametrize("position", [b"offset=x", b"offset=1e3", b"offset=-2", b"offset=" + b"9" * 30])
async def test_a_malformed_position_is_refused(url: str, position: bytes) -> None:
    async with worker(redis_url=url) as made:
        await made.begin()
        answer = await made.request("GET", "/api/chat/c/stream", query=position).ended()
        assert answer.status == 400
        assert "not an offset" in json.loads(answer.body)["error"]


async def test_a_position_beyond_the_end_is_refused_or_waited_for(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        run.emit(FIRST)
        await exchange.until(FIRST)
        ahead = await made.resume(offset=len(FIRST + LAST)).until_started()
        exchange.disconnect()
        await exchange.ended()
        run.emit(LAST)
        run.fail(LookupError())
        await ahead.ended()
        assert (ahead.status, ahead.body, ahead.complete) == (200, b"", False)
        beyond = await made.resume(offset=len(FIRST + LAST) + 1).ended()
        assert beyond.status == 400
        assert str(len(FIRST + LAST)) in json.loads(beyond.body)["error"]


async def test_many_followers_get_the_same_bytes(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        followers = [await made.resume().until_started() for _ in range(30)]
        events = [b"data: %d\n\n" % n for n in range(100)]
        for event in events:
            run.emit(event)
        run.finish()
        for client in (exchange, *followers):
            await client.ended()
            assert client.body == b"".join(events)
            assert client.complete


async def test_a_second_start_takes_the_place_of_the_first(url: str) -> None:
    async with worker(redis_url=url) as made:
        first, first_run = await made.begin()
        second, second_run = await made.begin()
        assert (await made.resume().until_started()).stream_id == second.stream_id
        first_run.finish(FIRST)
        second_run.emit(LAST)
        assert (await first.ended()).body == FIRST
        assert (await made.resume().until(LAST)).stream_id == second.stream_id
        second_run.finish()


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{}", b'{"activeStreamId": null}', b'{"assistantMessage": {"parts": [1e9, {}]}}']
)
async def test_a_stop_that_names_no_stream_stops_the_running_one(url: str, body: bytes) -> None:
    async with worker(redis_url=url) as made:
        exchange, _ = await made.begin()
        assert await made.stop(body=body)
        await exchange.ended()
        assert not await made.stop(body=body)
        assert (await made.resume().ended()).status == 204


async def test_a_stop_that_names_another_stream_stops_nothing(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, _ = await made.begin()
        assert not await made.stop(body=json.dumps({"activeStreamId": "f" * 32}).encode())
        assert await made.stop(body=json.dumps({"activeStreamId": exchange.stream_id}).encode())
        await exchange.ended()


async def test_delete_on_the_resume_route_stops_too(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, _ = await made.begin()
        answer = await made.request("DELETE", "/api/chat/c/stream").ended()
        assert json.loads(answer.body) == {"success": True, "stopped": True}
        await exchange.ended()


async def test_an_owner_is_told_nothing_of_another_s_stream(url: str) -> None:
    async with worker(redis_url=url, owner="header:x-user") as made:
        ann, bob = [(b"x-user", b"ann")], [(b"x-user", b"bob")]
        exchange, run = await made.begin(headers=ann)
        last = (b"last-event-id", f"{exchange.stream_id}.0".encode())
        for headers in (bob, [], [*bob, last], [(b"x-user", b""), last]):
            answer = await made.resume(headers=headers).ended()
            assert (answer.status, answer.body) == (204, b"")
            stopped = await made.request(
                "POST",
                "/api/chat/c/stop",
                headers=headers,
                body=json.dumps({"activeStreamId": exchange.stream_id}).encode(),
            ).ended()
            assert json.loads(stopped.body) == {"success": True, "stopped": False}
        run.finish(FIRST)
        assert (await exchange.ended()).body == FIRST


async def test_an_overflowing_stream_is_not_resumable_but_goes_on_everywhere(valkey: Valkey) -> None:
    options: dict[str, Any] = {"redis_url": valkey.url, "max_bytes": 500, "redis_timeout": 3}
    async with worker(**options) as here, worker(**options) as there:
        exchange, run = await here.begin()
        run.emit(b"data: first\n\n")
        clients = [exchange, here.resume(), there.resume(), there.resume()]
        for client in clients:
            await client.until(b"data: first\n\n")
        events = [b"data: %05d\n\n" % n for n in range(400)]
        for event in events:
            run.emit(event)
        await exchange.until(b"data: first\n\n" + b"".join(events))
        for made in (here, there):
            await wait_until(made.nothing)
        run.finish()
        for client in clients:
            await client.ended()
            assert client.body == b"data: first\n\n" + b"".join(events)
            assert client.complete
        for made in (here, there):
            assert (await made.resume().ended()).status == 204


async def test_an_overflowing_stream_is_not_resumable_by_its_id_either(url: str) -> None:
    async with worker(redis_url=url, max_bytes=100) as made:
        exchange, run = await made.begin()
        for n in range(100):
            run.emit(b"data: %04d\n\n" % n)
        await run.until_sent(100)
        await wait_until(made.nothing)
        last = (b"last-event-id", f"{exchange.stream_id}.0".encode())
        assert (await made.resume(headers=[last]).ended()).status == 204
        run.finish()
        await exchange.ended()


async def test_followers_on_another_worker_end_when_that_one_shuts_down(valkey: Valkey) -> None:
    async with worker(redis_url=valkey.url) as here, worker(redis_url=valkey.url) as there:
        exchange, run = await here.begin()
        run.emit(FIRST)
        follower = await there.resume().until(FIRST)
        await there.shutdown()
        await follower.ended(5)
        assert (follower.body, follower.complete) == (FIRST, False)
        assert not exchange.task.done()
        run.finish()
        await exchange.ended()
        assert exchange.complete


async def test_what_was_delivered_while_redis_was_slow_is_not_replayed(valkey: Valkey) -> None:
    async with worker(redis_url=valkey.url, redis_timeout=0.1) as made:
        exchange, run = await made.begin()
        run.emit(FIRST)
        await exchange.until(FIRST)
        with valkey.client() as client:
            client.execute_command("CLIENT", "PAUSE", 500, "ALL")
        run.finish()
        await exchange.ended()
        assert exchange.complete
        await wait_until(lambda: not made.store.writer.copies)  # type: ignore[attr-defined]
        assert (await made.resume().ended()).status in (204, 503)
        await wait_until(made.nothing)


@pytest.mark.parametrize("status", [503, 204, 502])
async def test_a_resume_that_cannot_know_answers_what_was_configured(status: int) -> None:
    options: dict[str, Any] = {"redis_url": "redis://127.0.0.1:1/0", "redis_timeout": 0.2}
    async with worker(unavailable_status=status, **options) as made:
        answer = await made.resume().ended()
        assert answer.status == status
        assert answer.headers.get(b"retry-after") == (None if status == 204 else b"1")
        if status != 204:  # as people read it
            assert answer.headers[b"content-type"].startswith(b"text/plain")
            assert answer.body == b"Could not check for a running answer. Please try again."
        stopped = await made.request("POST", "/api/chat/c/stop").ended()
        assert stopped.status == 503
        exchange, run = await made.begin()
        run.emit(FIRST)
        await exchange.until(FIRST)
        assert (await made.resume().until(FIRST)).stream_id == exchange.stream_id
        run.finish(LAST)
        assert (await exchange.ended()).body == FIRST + LAST


async def test_without_a_redis_url_every_request_passes_through_untouched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    host = Host()
    middleware = ResumableStreamMiddleware(host)
    assert caplog.text.count("streams are not resumable") == 1
    exchange = Exchange(
        middleware, "POST", "/api/chat", headers=[JSON, (b"accept-encoding", b"gzip")], body=b'{"id": "c"}'
    )
    run = await host.run()
    run.finish(FIRST)
    await exchange.ended()
    assert exchange.stream_id is None
    assert (b"accept-encoding", b"gzip") in run.scope["headers"]
    for method in ("GET", "HEAD"):
        resumed = await Exchange(middleware, method, "/api/chat/c/stream").ended()
        assert (resumed.status, resumed.body, resumed.complete) == (204, b"", True)
    for method, path in (("POST", "/api/chat/c/stop"), ("DELETE", "/api/chat/c/stream")):
        stopped = await Exchange(middleware, method, path, body=b"{}").ended()
        assert (stopped.status, json.loads(stopped.body)) == (200, {"success": True, "stopped": False})
    assert len(host.runs) == 1
    assert caplog.text.count("streams are not resumable") == 1


def test_a_wrong_redis_url_in_the_environment_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://localhost")
    with pytest.raises(ConfigurationError, match="redis_url"):
        ResumableStreamMiddleware(Host())


# -- Starlette's TestClient, which has an event loop for each request unless it is entered


def chat_app(url: str) -> Starlette:
    async def chat(request: Request) -> StreamingResponse:
        words = (await request.json())["words"]
        return StreamingResponse((f"data: {word}\n\n" for word in words), media_type="text/event-stream")

    async def other(request: Request) -> PlainTextResponse:
        return PlainTextResponse("other")

    app = Starlette(routes=[Route("/api/chat", chat, methods=["POST"]), Route("/other", other)])
    app.add_middleware(
        ResumableStreamMiddleware,
        settings=Settings(redis_url=url, routes=[ResumableRoute(replay_finished=60)]),
    )
    return app


def talk(client: TestClient) -> None:
    for n in range(3):
        body = {"id": f"c{n}", "words": ["one", "two"]}
        answer = client.post("/api/chat", json=body)
        assert answer.text == "data: one\n\ndata: two\n\n"
        assert client.get(f"/api/chat/c{n}/stream").text == answer.text
        assert client.post(f"/api/chat/c{n}/stop", json={}).json() == {"success": True, "stopped": False}
    assert client.get("/api/chat/unknown/stream").status_code == 204
    assert client.get("/other").text == "other"


def test_a_test_client_with_a_lifespan_sees_what_a_browser_does(url: str) -> None:
    with TestClient(chat_app(url)) as client:
        talk(client)


def test_a_test_client_without_a_lifespan_sees_it_too(url: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the next test is about that
        talk(TestClient(chat_app(url)))
        gc.collect()


def test_event_loops_that_end_leave_no_connection_open(valkey: Valkey) -> None:
    """Each request without a lifespan has a loop of its own, and nobody to close what was opened in it."""
    client = TestClient(chat_app(valkey.url))
    with valkey.client() as redis, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        before = redis.info("clients")["connected_clients"]
        gc.disable()
        try:
            for _ in range(10):
                client.get("/api/chat/c/stream")
            assert redis.info("clients")["connected_clients"] <= before + 3
        finally:
            gc.enable()
            del client
            gc.collect()


async def test_requests_of_two_event_loops_share_the_logs_in_memory() -> None:
    app = chat_app("memory://")

    def post() -> str:
        return TestClient(app).post("/api/chat", json={"id": "c", "words": ["one"]}).text

    assert await asyncio.to_thread(post) == "data: one\n\n"
    exchange = await Exchange(app, "GET", "/api/chat/c/stream").ended()
    assert exchange.body == b"data: one\n\n"
