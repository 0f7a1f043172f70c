"""What an app and its client see of each other while a run stands between them."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Callable
from contextvars import ContextVar

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from testkit.inprocess import JSON, SSE, Exchange, Host, HostRun, worker
from testkit.wait import wait_until

MEMORY = "memory://"
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [SSE, (b"Set-Cookie", b"a=b"), (b"x-host", b"kept"), (b"content-encoding", b"identity")],
}


def body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def merged(messages: list[Message]) -> list[Message]:
    """Messages as a client can tell them apart: bodies that follow each other are one."""
    result: list[Message] = []
    for message in messages:
        message = dict(message)
        if message["type"] == "http.response.start":
            message["headers"] = [
                (name, value) for name, value in message["headers"] if name != b"resumable-stream-id"
            ]
        if result and result[-1]["type"] == message["type"] == "http.response.body":
            result[-1]["body"] += bytes(message["body"])
            result[-1]["more_body"] = message.get("more_body", False)
        else:
            if "body" in message:
                message["body"] = bytes(message["body"])
            result.append(message)
    return result


async def end_of(exchange: Exchange) -> tuple[list[Message], BaseException | None]:
    """What a client got, and what the call raised."""
    (error,) = await asyncio.gather(exchange.ended(), return_exceptions=True)
    return merged(exchange.messages), error if isinstance(error, BaseException) else None


async def bare(
    order: Callable[[HostRun], None], start: Message
) -> tuple[list[Message], BaseException | None]:
    """What a client gets without the middleware, and what the call raises."""
    host = Host(start)
    exchange = Exchange(host, "POST", "/api/chat", body=b'{"id": "c"}')
    order(await host.run())
    return await end_of(exchange)


async def recorded(
    order: Callable[[HostRun], None], start: Message
) -> tuple[list[Message], BaseException | None]:
    async with worker(Host(start), redis_url=MEMORY) as made:
        host = made.app
        assert isinstance(host, Host)
        exchange = made.post()
        order(await host.run())
        return await end_of(exchange)


def plainly(run: HostRun) -> None:
    for data in (b"data: 1\n\n", b"", b"data: \xe6", b"\x97\xa5\r\n\r\n"):
        run.emit(data)
    run.finish(b"data: last\n\n")


def with_a_memoryview(run: HostRun) -> None:
    run.message({"type": "http.response.body", "body": memoryview(b"data: 1\n\n"), "more_body": True})
    run.message({"type": "http.response.body", "body": bytearray(b"data: 2\n\n"), "more_body": True})
    run.finish()


def without_final_body(run: HostRun) -> None:
    run.emit(b"data: 1\n\n")
    run.leave()


def and_raise(run: HostRun) -> None:
    run.emit(b"data: 1\n\n")
    run.fail(LookupError("in the middle"))


def and_raise_after_the_end(run: HostRun) -> None:
    run.message(body(b"data: 1\n\n", more=False))
    run.fail(LookupError("in the background"))


def twice_final(run: HostRun) -> None:
    run.message(body(b"data: 1\n\n", more=False))

    async def again(run: HostRun) -> None:
        try:
            await run.send(body(b"more", more=False))
        except RuntimeError as error:
            raise LookupError("refused, as servers do") from error
        raise LookupError("refused, as servers do")

    run.call(again)


def twice_started(run: HostRun) -> None:
    run.emit(b"data: 1\n\n")

    async def again(run: HostRun) -> None:
        with pytest.raises(RuntimeError, match=r"http\.response\.start"):
            await run.send(START)
        raise LookupError("refused, as servers do")

    run.call(again)


@pytest.mark.parametrize("goes", [False, True])
async def test_a_second_start_of_the_response_is_refused(goes: bool) -> None:
    """Whether its client is there or not."""
    async with worker(Host(START), redis_url=MEMORY) as made:
        assert isinstance(made.app, Host)
        exchange, run = made.post(), await made.app.run()
        await exchange.until_started()
        if goes:
            exchange.disconnect()
            await exchange.ended()
        twice_started(run)
        await run.until_ended("LookupError")
        resumed = await made.resume().ended()
        assert (resumed.body, resumed.complete) == (b"data: 1\n\n", False)
        assert [message["type"] for message in exchange.messages].count("http.response.start") == 1


@pytest.mark.parametrize(
    "order",
    [plainly, with_a_memoryview, without_final_body, and_raise, and_raise_after_the_end, twice_final],
)
async def test_a_client_that_stays_sees_what_it_would_without_the_middleware(
    order: Callable[[HostRun], None],
) -> None:
    expected, error = await bare(order, START)
    if order is twice_final:
        expected = expected[:2]
        expected[1].update(body=b"data: 1\n\n", more_body=False)
    got, raised = await recorded(order, START)
    assert got == expected
    assert (type(raised), str(raised)) == (type(error), str(error))


async def test_a_response_without_a_single_body_is_as_without_the_middleware() -> None:
    def leave(run: HostRun) -> None:
        run.leave()

    assert await recorded(leave, START) == await bare(leave, START)


async def test_early_hints_and_debug_messages_reach_the_client() -> None:
    def order(run: HostRun) -> None:
        run.message({"type": "http.response.early_hint", "links": [b"</a.css>"]})
        run.message({"type": "http.response.debug", "info": {"template": "x"}})
        run.message(START)
        run.finish(b"data: 1\n\n")

    expected, _ = await bare(order, {})
    got, _ = await recorded(order, {})
    assert got == expected
    assert [message["type"] for message in got[:2]] == ["http.response.early_hint", "http.response.debug"]


TRAILERS: list[Message] = [
    {"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True},
    {"type": "http.response.trailers", "headers": [(b"b", b"2")], "more_trailers": False},
]


async def test_trailers_follow_the_final_body() -> None:
    """The app does not wait for anything between, and has returned when the client is served."""

    def order(run: HostRun) -> None:
        for message in (body(b"data: 1\n\n", more=False), *TRAILERS):
            run.message(message)
        run.leave()

    start = {**START, "trailers": True}
    expected, _ = await bare(order, start)
    assert expected[-2:] == TRAILERS
    assert (await recorded(order, start))[0] == expected


async def test_trailers_that_come_later_follow_too() -> None:
    async with worker(Host({**START, "trailers": True}), redis_url=MEMORY) as made:
        assert isinstance(made.app, Host)
        exchange, run = made.post(), await made.app.run()
        run.message(body(b"data: 1\n\n", more=False))
        await exchange.changes.until(lambda: exchange.complete, "the final body")
        for message in TRAILERS:
            run.message(message)
        await exchange.changes.until(lambda: exchange.messages[-2:] == TRAILERS, "the trailers")
        run.leave()
        await exchange.ended()


async def test_headers_may_be_given_as_an_iterator() -> None:
    """ASGI calls them an iterable."""
    got, _ = await recorded(plainly, {**START, "headers": iter(START["headers"])})
    assert got[0]["headers"] == START["headers"]


async def test_exceptions_before_the_response_reach_the_server() -> None:
    def order(run: HostRun) -> None:
        run.fail(LookupError("early"))

    got, raised = await recorded(order, {})
    assert (got, str(raised)) == ([], "early")


@pytest.mark.parametrize(
    "start",
    [
        {"status": 404, "headers": [SSE]},
        {"status": 204, "headers": [SSE]},
        {"status": 200, "headers": [(b"content-type", b"application/json")]},
        {"status": 200, "headers": [SSE, (b"content-encoding", b"gzip")]},
        {"status": 200, "headers": []},
        {"status": 200},
    ],
    ids=str,
)
async def test_what_is_no_plain_event_stream_passes_unchanged(start: Message) -> None:
    start = {"type": "http.response.start", **start}
    host = Host(start)
    async with worker(host, redis_url=MEMORY) as made:
        exchange = made.post()
        run = await host.run()
        plainly(run)
        await exchange.ended()
        assert exchange.messages[0] == start
        assert [message["body"] for message in exchange.bodies][:2] == [b"data: 1\n\n", b""]
        assert await made.nothing()


async def test_an_unrecorded_response_has_real_back_pressure_and_real_disconnects() -> None:
    host = Host({"type": "http.response.start", "status": 200, "headers": []})
    async with worker(host, redis_url=MEMORY) as made:
        exchange, run = made.post(), await host.run()
        await exchange.until_started()
        exchange.open.clear()
        run.emit(b"1")
        await settle()
        assert run.sent == 0
        exchange.open.set()
        await run.until_sent(1)
        run.call(HostRun.listen)
        exchange.disconnect()
        await run.changes.until(lambda: run.heard, "the app to hear of the disconnect")
        assert run.heard == ["http.disconnect"]
        run.leave()
        await exchange.ended()


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- the client goes


async def test_a_disconnect_before_the_response_reaches_the_app() -> None:
    host = Host({})
    async with worker(host, redis_url=MEMORY) as made:
        exchange, run = made.post(), await host.run()
        run.call(HostRun.listen)
        await settle()
        assert run.heard == []
        exchange.disconnect()
        await run.changes.until(lambda: run.heard, "the app to hear of the disconnect")
        assert run.heard == ["http.disconnect"]
        run.leave()
        await exchange.ended()


async def test_a_disconnect_after_the_response_started_never_reaches_the_app() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        run.call(HostRun.listen)
        exchange.disconnect()
        await exchange.ended()
        await settle()
        assert run.heard == []
        await made.stop()
        await run.changes.until(lambda: run.heard, "the app to hear of the stop")


async def test_a_disconnect_noticed_by_send_never_reaches_the_app() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        exchange.send_error = OSError("the client is gone")
        run.emit(b"data: 1\n\n")
        await exchange.ended()
        run.finish(b"data: 2\n\n")
        await run.until_ended("returned")
        resumed = await made.resume().ended()
        assert resumed.body == b"data: 1\n\ndata: 2\n\n"
        assert resumed.complete


async def test_receive_after_the_final_body_gives_a_disconnect() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        exchange.disconnect()
        await exchange.ended()
        run.message(body(b"data: 1\n\n", more=False))
        run.call(HostRun.listen)
        run.call(HostRun.listen)
        run.leave()
        await run.until_ended("returned")
        assert run.heard == ["http.disconnect"] * 2


async def test_receive_during_the_final_body_gives_a_disconnect() -> None:
    """Starlette listens in a task of its own while it streams."""
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        listener = asyncio.create_task(run.listen())
        await settle()
        assert run.heard == []
        run.finish()
        await listener
        assert run.heard == ["http.disconnect"]
        await exchange.ended()


async def test_asking_for_a_disconnect_again_and_again_leaves_nothing_behind() -> None:
    """Many apps ask `request.is_disconnected()` before each chunk."""
    grown: list[int] = []

    async def ask(run: HostRun) -> None:
        request = Request(run.scope, run.receive)
        for round in range(2):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(1000):
                assert not await request.is_disconnected()
            gc.collect()
            if round:
                grown.append(tracemalloc.get_traced_memory()[0] - before)

    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        tracemalloc.start()
        try:
            run.call(ask)
            run.finish()
            await exchange.ended()
        finally:
            tracemalloc.stop()
    assert grown[0] < 20_000


async def test_an_exception_after_the_client_went_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        exchange.disconnect()
        await exchange.ended()
        run.fail(LookupError("nobody listens"))
        await run.until_ended("LookupError")
        await wait_until(lambda: "nobody listens" in caplog.text)
        resumed = await made.resume().ended()
        assert not resumed.complete


async def test_an_exception_with_the_client_still_there_is_not_logged_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        run.fail(LookupError("the server logs this"))
        with pytest.raises(LookupError):
            await exchange.ended()
        assert "the server logs this" not in caplog.text
        assert not exchange.complete


async def test_a_server_whose_send_fails_oddly_does_not_hide_the_app_s_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        exchange.send_error = RuntimeError("not an OSError")
        run.emit(b"data: 1\n\n")
        with pytest.raises(RuntimeError):
            await exchange.ended()
        run.fail(LookupError("nobody listens"))
        await run.until_ended("LookupError")
        await settle()
        assert "nobody listens" in caplog.text


async def test_a_server_that_cancels_the_call_does_not_end_the_run() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.ended()
        run.finish(b"data: 1\n\n")
        await run.until_ended("returned")
        assert (await made.resume().ended()).body == b"data: 1\n\n"


async def test_a_server_that_cancels_the_call_before_the_response_cancels_the_app() -> None:
    host = Host({})
    async with worker(host, redis_url=MEMORY) as made:
        exchange, run = made.post(), await host.run()
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.ended()
        await run.until_ended("CancelledError")


async def test_an_upload_that_is_still_going_on_reaches_the_app() -> None:
    """An app may answer before it has read the whole body."""
    parts = [b"x" * 50_000] * 8
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        while True:
            heard.append(await receive())
            if not heard[-1].get("more_body"):
                break
            await send(body(b"data: %d\n\n" % len(heard)))
        await send(body(b"", more=False))

    async with worker(app, lifespan=False, key="header:x-key", redis_url=MEMORY) as made:
        exchange = await made.post(body=parts, headers=[(b"x-key", b"c")]).ended()
        assert b"".join(message["body"] for message in heard) == b"".join(parts)
        assert exchange.complete


async def test_a_client_that_goes_in_the_middle_of_its_upload_is_reported_to_the_app() -> None:
    """The rest of the body is not to be had: the one disconnect that an app is told of."""
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        exchange.disconnect()
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])
        await send(body(b"data: 1\n\n", more=False))

    async with worker(app, lifespan=False, key="header:x-key", redis_url=MEMORY) as made:
        exchange = made.post(body=[b"x" * 70_000] * 3, headers=[(b"x-key", b"c")])
        await exchange.ended()
        assert "http.disconnect" in heard
        assert (await made.resume().ended()).body == b"data: 1\n\n"


# -- stop


async def test_a_stop_is_heard_by_an_app_that_listens() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        listener = asyncio.create_task(run.listen())
        await settle()
        assert await made.stop()
        async with asyncio.timeout(1):
            await listener
        assert run.heard == ["http.disconnect"]
        await exchange.ended()
        assert exchange.complete


async def test_a_stop_makes_send_raise() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        run.emit(b"data: 1\n\n")
        await exchange.until(b"data: 1\n\n")
        assert await made.stop()
        run.emit(b"data: 2\n\n")
        await run.until_ended("OSError")
        await exchange.ended()
        assert exchange.body == b"data: 1\n\n"


async def test_a_stop_cancels_an_app_that_awaits_something_else(caplog: pytest.LogCaptureFixture) -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await made.stop()
        await exchange.ended(0.5)
        assert not run.ended
        await run.until_ended("CancelledError", timeout=3)
        assert 0.8 < loop.time() - begun < 2.5
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_stop_after_the_response_leaves_background_tasks_alone() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        run.message(body(b"data: 1\n\n", more=False))
        await run.until_sent(1)
        assert not await made.stop()
        await settle()
        assert run.ended is None
        run.leave()
        await exchange.ended()
        assert run.ended == "returned"


async def test_a_stop_ends_every_follower_at_once() -> None:
    async with worker(redis_url=MEMORY) as made:
        _, run = await made.begin()
        run.emit(b"data: 1\n\n")
        followers = [await made.resume().until(b"data: 1\n\n") for _ in range(5)]
        assert await made.stop()
        for follower in followers:
            await follower.ended(1)
            assert follower.complete
            assert follower.body == b"data: 1\n\n"


async def test_a_stop_leaves_background_tasks_alone_that_run_after_the_final_body() -> None:
    """The app hears of the stop, ends its response in its own way, and has more to do for a while."""
    after = asyncio.Event()

    async def end(run: HostRun) -> None:
        await run.listen()
        await run.send(body(b"data: bye\n\n", more=False))
        await asyncio.sleep(1.5)  # longer than the grace
        after.set()

    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        run.call(end)
        await settle()
        assert await made.stop()
        await exchange.ended()
        assert exchange.body == b""
        async with asyncio.timeout(5):
            await after.wait()
        run.leave()
        await run.until_ended("returned")


async def test_a_stop_takes_no_bytes_from_an_app_that_listens() -> None:
    async def go_on(run: HostRun) -> None:
        for _ in range(3):
            await run.send(body(b"data: more\n\n"))

    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        listener = asyncio.create_task(run.listen())
        await settle()
        assert await made.stop()
        await listener
        run.call(go_on)
        run.leave()
        await run.until_ended("returned")
        await exchange.ended()
        assert (exchange.body, exchange.complete) == (b"", True)


async def test_an_app_that_hears_of_the_stop_and_goes_on_is_cancelled() -> None:
    async def go_on(run: HostRun) -> None:
        while True:
            await run.send(body(b"data: more\n\n"))

    async with worker(redis_url=MEMORY) as made:
        _, run = await made.begin()
        listener = asyncio.create_task(run.listen())
        await settle()
        begun = asyncio.get_running_loop().time()
        assert await made.stop()
        await listener
        run.call(go_on)
        await run.until_ended("CancelledError", timeout=3)
        assert asyncio.get_running_loop().time() - begun > 0.8


# -- the app's own tasks


who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.mark.parametrize("fails", [False, True])
async def test_context_variables_of_an_unrecorded_answer_reach_outer_middleware(fails: bool) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        who.set("somebody")
        if fails:
            raise LookupError("before the response")
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body"})

    async with worker(app, lifespan=False, redis_url=MEMORY) as made:
        inner = made.middleware

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            who.set("the outer one")
            try:
                await inner(scope, receive, send)
            finally:
                seen.append(who.get())

        exchange = Exchange(outer, "POST", "/api/chat", headers=[JSON], body=b'{"id": "c"}')
        await asyncio.wait([exchange.task], timeout=5)
        assert isinstance(exchange.task.exception(), LookupError) is fails
    assert seen == ["somebody"]


async def test_background_tasks_run_while_the_server_waits() -> None:
    ran = asyncio.Event()
    go = asyncio.Event()

    async def after() -> None:
        await go.wait()
        ran.set()

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(
            iter([b"data: 1\n\n"]), media_type="text/event-stream", background=BackgroundTask(after)
        )

    app = Starlette(routes=[Route("/api/chat", endpoint, methods=["POST"])])
    async with worker(app, redis_url=MEMORY) as made:
        exchange = made.post()
        await exchange.until_started()
        await exchange.changes.until(lambda: exchange.complete, "the final body")
        assert not exchange.task.done()
        go.set()
        await exchange.ended()
        assert ran.is_set()


async def test_background_tasks_run_when_the_client_has_gone() -> None:
    ran = asyncio.Event()
    go = asyncio.Event()

    async def after() -> None:
        ran.set()

    async def events():
        yield b"data: 1\n\n"
        await go.wait()
        yield b"data: 2\n\n"

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream", background=BackgroundTask(after))

    app = Starlette(routes=[Route("/api/chat", endpoint, methods=["POST"])])
    for version in ("2.1", "2.3", "2.4"):
        ran.clear()
        go.clear()
        async with worker(app, redis_url=MEMORY) as made:
            exchange = made.post(asgi={"version": "3.0", "spec_version": version})
            await exchange.until(b"data: 1\n\n")
            exchange.disconnect()
            await exchange.ended()
            go.set()
            async with asyncio.timeout(5):
                await ran.wait()
            assert (await made.resume().ended()).body == b"data: 1\n\ndata: 2\n\n"


async def test_a_generator_that_never_awaits_still_streams() -> None:
    seen: list[int] = []

    async def endpoint(request: Request) -> StreamingResponse:
        async def events():
            for n in range(300):
                seen.append(len(exchange.body))
                yield b"data: %d " % n + b"x" * 1000 + b"\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/api/chat", endpoint, methods=["POST"])])
    async with worker(app, redis_url=MEMORY) as made:
        exchange = made.post()
        await exchange.ended()
    assert len(exchange.body) > 300_000
    assert seen[150] > 0, "the client got nothing before half of it was made"
    assert seen[-1] > 150_000


async def test_a_burst_leaves_as_few_messages() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        exchange.open.clear()
        for n in range(500):
            run.emit(b"data: %d\n\n" % n)
        await run.until_sent(500)
        exchange.open.set()
        run.finish()
        await exchange.ended()
        assert exchange.body == b"".join(b"data: %d\n\n" % n for n in range(500))
        assert len(exchange.bodies) < 10


async def test_a_slow_client_costs_no_memory_beyond_the_log() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        for follower in [made.resume() for _ in range(20)]:
            await follower.until_started()
            follower.open.clear()
        exchange.open.clear()
        await settle()
        tracemalloc.start()
        try:
            run.emit(bytes(1_000_000))
            await run.until_sent(1)
            await settle()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # the chunk itself, the log with its growth, and one message of 128 KiB a follower
        assert peak < 1_000_000 + 2_000_000 + 21 * 128 * 1024 + 500_000


# -- overflow


def events(count: int) -> list[bytes]:
    return [b"data: %04d\n\n" % n for n in range(count)]


async def test_an_overflowing_stream_goes_on_for_those_attached() -> None:
    async with worker(redis_url=MEMORY, max_bytes=200) as made:
        exchange, run = await made.begin()
        run.emit(b"data: first\n\n")
        follower = await made.resume().until(b"data: first\n\n")
        for event in events(200):
            run.emit(event)
        run.finish()
        await exchange.ended()
        await follower.ended()
        expected = b"data: first\n\n" + b"".join(events(200))
        assert exchange.body == follower.body == expected
        assert exchange.complete
        assert follower.complete
        assert (await made.resume().ended()).status == 204


async def test_an_overflowing_stream_keeps_no_more_than_its_limit() -> None:
    async with worker(redis_url=MEMORY, max_bytes=10_000) as made:
        exchange, run = await made.begin()
        exchange.disconnect()
        tracemalloc.start()
        try:
            for _ in range(2000):
                run.emit(b"x" * 1000)
            queued = tracemalloc.get_traced_memory()[0]
            await run.until_sent(2000)
            assert tracemalloc.get_traced_memory()[1] < queued + 200_000
        finally:
            tracemalloc.stop()
        run.finish()
        await run.until_ended("returned")


async def test_the_app_waits_for_the_original_client_of_an_overflowing_stream() -> None:
    async with worker(redis_url=MEMORY, max_bytes=200) as made:
        exchange, run = await made.begin()
        exchange.open.clear()
        for event in events(100):
            run.emit(event)
        run.finish()
        await settle()
        assert run.sent < 50
        exchange.open.set()
        await exchange.ended()
        assert exchange.body == b"".join(events(100))
        assert exchange.complete


async def test_a_stop_frees_an_app_that_waits_for_a_slow_client() -> None:
    async with worker(redis_url=MEMORY, max_bytes=200) as made:
        exchange, run = await made.begin()
        exchange.open.clear()
        for event in events(100):
            run.emit(event)
        await wait_until(made.nothing)
        await made.shutdown()
        await run.until_ended("OSError", timeout=3)


async def test_a_final_body_beyond_the_limit_is_not_resumable() -> None:
    async with worker(redis_url=MEMORY, max_bytes=200) as made:
        exchange, run = await made.begin()
        exchange.disconnect()
        run.finish(b"data: " + b"x" * 1000 + b"\n\n")
        await run.until_ended("returned")
        assert (await made.resume().ended()).status == 204


# -- without and with a lifespan


async def test_without_a_lifespan_the_call_waits_for_the_run() -> None:
    async with worker(redis_url=MEMORY, lifespan=False) as made:
        exchange, run = await made.begin()
        exchange.disconnect()
        await settle()
        assert not exchange.task.done()
        run.finish()
        await exchange.ended()
        assert run.ended == "returned"


async def test_with_a_lifespan_the_call_ends_with_its_client() -> None:
    async with worker(redis_url=MEMORY) as made:
        exchange, run = await made.begin()
        exchange.disconnect()
        await exchange.ended()
        assert run.ended is None


async def test_a_shutdown_lets_runs_finish() -> None:
    async with worker(redis_url=MEMORY, drain_timeout=5) as made:
        exchange, run = await made.begin()
        exchange.disconnect()
        await exchange.ended()
        closing = asyncio.create_task(made.shutdown())
        await settle()
        assert not closing.done()
        run.finish(b"data: 1\n\n")
        await closing
        assert run.ended == "returned"
        resumed = await made.resume().ended()
        assert (resumed.body, resumed.complete) == (b"data: 1\n\n", True)


async def test_a_shutdown_interrupts_runs_that_do_not_finish() -> None:
    async with worker(redis_url=MEMORY, drain_timeout=0.05) as made:
        exchange, run = await made.begin()
        run.emit(b"data: 1\n\n")
        await exchange.until(b"data: 1\n\n")
        follower = await made.resume().until(b"data: 1\n\n")
        await made.shutdown()
        assert run.ended == "CancelledError"
        for client in (exchange, follower):
            await client.ended()
            assert client.body == b"data: 1\n\n"
            assert not client.complete
        assert not (await made.resume().ended()).complete


async def test_a_shutdown_does_not_touch_a_run_whose_answer_is_whole() -> None:
    async with worker(redis_url=MEMORY, drain_timeout=0.05) as made:
        exchange, run = await made.begin()
        run.message(body(b"data: 1\n\n", more=False))
        await run.until_sent(1)
        closing = asyncio.create_task(made.shutdown())
        await settle()
        run.leave()
        await closing
        await exchange.ended()
        assert exchange.complete
        assert run.ended == "returned"


async def test_a_worker_that_shuts_down_twice_is_harmless() -> None:
    async with worker(redis_url=MEMORY) as made:
        await made.shutdown()
        await made.shutdown()
        exchange, run = await made.begin()
        run.finish(b"1")
        await exchange.ended()
        assert exchange.body == b"1"
