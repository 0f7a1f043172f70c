"""Everything that a stranger can send: a clear answer, never an exception, never another's bytes."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from testkit.inprocess import JSON, SSE, Exchange, Host, HostRun, Worker, answer_lifespan
from testkit.valkey import Valkey

from resumable_asgi import ResumableRoute, Settings

SECRET = b"data: for ann's eyes only\n\n"
ANN = (b"x-user", b"ann")
ROUTES = [
    ResumableRoute(owner="header:x-user", max_bytes=50_000),
    ResumableRoute(
        "/runs/{run:path}/events", methods={"GET"}, key="path:run", owner="cookie:sid", max_bytes=50_000
    ),
    ResumableRoute("/q", key="query:id", owner="auto"),
    ResumableRoute("/h", key="header:x-key", owner="session:user"),
    ResumableRoute("/deep", key="json:a.b.c", owner="public"),
]
OWN = {200, 204, 400, 413, 418, 503}
"""What the middleware answers, and the app (200 for a start, 418 for all else)."""

FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Stranger:
    """One worker in an event loop of its own, with a stream of somebody's in it; `ask` as anybody."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._runner.run(self._begin(url))

    async def _begin(self, url: str) -> None:
        self.victims = Host()
        self.worker = Worker(
            self._app, settings=Settings(redis_url=url, routes=ROUTES, max_body_bytes=20_000)
        )
        await self.worker.startup()
        self.secret = self.worker.post("c", headers=[ANN])
        run: HostRun = await self.victims.run()
        run.emit(SECRET)
        await self.secret.until(SECRET)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        if not self.victims.runs and ANN in scope["headers"]:
            await self.victims(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        start = scope["path"] in ("/api/chat", "/q", "/h", "/deep") and scope["method"] == "POST"
        head = {"status": 200, "headers": [SSE]} if start else {"status": 418, "headers": []}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": b"data: mine\n\n"})

    def ask(self, method: str, path: str, **options: Any) -> Exchange:
        return self._runner.run(self._ask(method, path, **options))

    async def _ask(self, method: str, path: str, **options: Any) -> Exchange:
        exchange = Exchange(self.worker.middleware, method, path, **options)
        try:
            await exchange.ended()
        finally:
            await exchange.close()
        assert exchange.status in OWN, exchange.messages
        assert SECRET not in exchange.body
        assert (exchange.stream_id or "") != self.secret.stream_id
        if exchange.status >= 400 and exchange.status != 418:
            assert json.loads(exchange.body)["error"]
        return exchange

    def close(self) -> None:
        async def end() -> None:
            assert not self.secret.task.done(), "a stranger ended somebody's stream"
            self.victims.runs[0].finish()
            await self.secret.ended()
            assert self.secret.body == SECRET
            await self.worker.close()

        with self._runner:
            self._runner.run(end())


@pytest.fixture(params=["memory", "redis"])
def stranger(request: pytest.FixtureRequest) -> Iterator[Stranger]:
    valkey: Valkey | None = request.getfixturevalue("valkey") if request.param == "redis" else None
    made = Stranger("memory://" if valkey is None else valkey.url)
    yield made
    made.close()


Text = st.text(max_size=20) | st.sampled_from(
    ["c", "..", "%2F", "c/stream", "x" * 600, "\udc2f", "\x00", "{key}"]
)
Bytes = st.binary(max_size=30) | st.sampled_from([b"ann", b"-1", b"x" * 70_000, b"\xff\x00", b"c"])
Methods = st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "get", "\xe9"])
Paths = st.one_of(
    st.builds("/api/chat/{}/stream".format, Text),
    st.builds("/api/chat/{}/stop".format, Text),
    st.builds("/runs/{}/events{}".format, Text, st.sampled_from(["", "/stream", "/stop"])),
    st.builds("/{}/{}/stream".format, st.sampled_from(["q", "h", "deep"]), Text),
    st.sampled_from(["/api/chat", "/q", "/h", "/deep", "", "/", "/api/chat/", "//api/chat"]),
    Text,
)
Positions = st.one_of(
    Bytes,
    st.integers(-(10**30), 10**30).map(lambda number: b"%d" % number),
    st.builds(lambda head, tail: head + b"." + tail, st.sampled_from([b"f" * 32, b"0" * 31]), Bytes),
)
Names = st.sampled_from(
    [b"last-event-id", b"Last-Event-ID", b"x-key", b"cookie", b"authorization", b"content-type", b"x-user"]
)
Headers = st.lists(st.tuples(Names, Bytes | Positions), max_size=4).map(
    lambda headers: [header for header in headers if header != ANN]
)
Json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**40), 10**40) | Text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "a", "b", "c", "activeStreamId"]), inner, max_size=4)
    ),
    max_leaves=10,
)
Bodies = st.one_of(
    Json.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    Json.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")[:-1]),
    Bytes,
    st.sampled_from(
        [
            b"[" * 19_000,
            b'{"id":' * 3000,
            b'{"id": %s}' % (b"9" * 5000),
            b'{"id": 1e999}',
            b'{"id": "' + b"x" * 600 + b'"}',
            b'{"id": "\\ud800"}',
            b'\xef\xbb\xbf{"id": "c"}',
            '{"id": "c"}'.encode("utf-16"),
            b" " * 30_000,
        ]
    ),
)


def check(stranger: Stranger, function: Callable[..., None]) -> None:
    """Run a property without a fixture in its own signature, which Hypothesis would not renew."""
    FUZZ(function)()


def test_no_request_is_answered_by_an_exception(stranger: Stranger) -> None:
    @given(Methods, Paths, Bytes | Positions.map(lambda at: b"offset=" + at), Headers, Bodies)
    @example("GET", "/api/chat/c/stream", b"offset=1", [(b"last-event-id", b"f" * 32 + b".0")], b"")
    @example("POST", "/api/chat/c/stop", b"", [], b'{"activeStreamId": {}}')
    def ask(method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        stranger.ask(method, path, query=query, headers=headers, body=body)

    check(stranger, ask)


def test_no_body_of_a_start_is_answered_by_an_exception(stranger: Stranger) -> None:
    @given(
        st.sampled_from(["/api/chat", "/deep", "/q", "/h"]),
        st.lists(Bodies, min_size=1, max_size=3),
        st.sampled_from([JSON, (b"content-type", b"text/json;x=\xff"), (b"content-type", b"a/b+json")]),
        Headers,
    )
    def ask(
        path: str, parts: list[bytes], kind: tuple[bytes, bytes], headers: list[tuple[bytes, bytes]]
    ) -> None:
        exchange = stranger.ask("POST", path, body=parts, headers=[*headers, kind])
        assert exchange.body == b"data: mine\n\n"

    check(stranger, ask)


def test_raw_paths_may_say_anything(stranger: Stranger) -> None:
    @given(Paths, st.binary(max_size=40) | Paths.map(lambda path: path.encode("utf-8", "replace")), Text)
    def ask(path: str, raw_path: bytes, root_path: str) -> None:
        stranger.ask("GET", path, raw_path=raw_path, root_path=root_path)
        stranger.ask("DELETE", path, raw_path=None, root_path=root_path)

    check(stranger, ask)


@pytest.mark.parametrize(
    "position",
    [
        b"f" * 32 + b".",
        b"f" * 32 + b".-1",
        b"f" * 32 + b".1.1",
        b"f" * 32 + b"." + b"9" * 20,
        b"f" * 32 + b".\xb2",
        b"f" * 32 + b".0x1",
        b"f" * 32 + b". 1",
    ],
)
def test_malformed_positions_are_refused(stranger: Stranger, position: bytes) -> None:
    headers = [(b"last-event-id", position), (b"x-user", b"bob")]
    assert stranger.ask("GET", "/api/chat/c/stream", headers=headers).status == 400


def test_the_id_of_another_s_stream_opens_nothing(stranger: Stranger) -> None:
    stream_id = (stranger.secret.stream_id or "").encode()
    for headers in ([], [(b"x-user", b"bob")], [(b"x-user", b"ann ")], [(b"x-user", b"")]):
        position = (b"last-event-id", stream_id + b".0")
        answer = stranger.ask("GET", "/api/chat/c/stream", headers=[*headers, position])
        assert (answer.status, answer.body) == (204, b"")
        body = json.dumps({"activeStreamId": stream_id.decode()}).encode()
        answer = stranger.ask("POST", "/api/chat/c/stop", headers=headers, body=body)
        assert json.loads(answer.body) == {"success": True, "stopped": False}


def test_an_endless_body_costs_bounded_memory(stranger: Stranger) -> None:
    part = b" " * 10_000
    for path, method in (
        ("/api/chat", "POST"),
        ("/api/chat/c/stop", "POST"),
        ("/api/chat/c/stream", "DELETE"),
    ):
        tracemalloc.start()
        try:
            answer = stranger.ask(method, path, headers=[JSON, (b"x-user", b"bob")], body=[part] * 2000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert answer.status == (200 if path == "/api/chat" else 413)
        assert peak < 2_000_000
