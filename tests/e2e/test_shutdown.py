"""A process that is told to end loses nothing that the app had sent, and ends nobody's stream falsely."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Fleet, Pair
from starlette.types import Message, Receive, Scope, Send
from testkit import sse
from testkit.client import Connection, End, Response
from testkit.inprocess import worker
from testkit.servers import Server
from testkit.shutdown_daphne import Daphne
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi import ResumableStreamMiddleware, Settings
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.memory import MemoryCopy

HELD = 3
EVENTS = 15

StartServer = Callable[..., Server]


def event(chat: str, index: int) -> bytes:
    return b'data: {"type":"data-n","data":"%b %d"}\n\n' % (chat.encode(), index)


def whole(chat: str, events: int = EVENTS) -> bytes:
    return b"".join(event(chat, index) for index in range(events))


class Shutdown:
    """A server with the journalling app, and the conversations held with it."""

    def __init__(self, server: Server, journal: Path) -> None:
        self.server = server
        self.journal = journal
        self.connections: list[Connection] = []

    async def start(self, path: str = "/api/chat", **asked: Any) -> tuple[str, Response]:
        """Start a run that is held after its third event, and read those."""
        chat = f"shutdown-{uuid.uuid4().hex[:12]}"
        body = json.dumps({"id": chat, **asked}).encode()
        response = await self.request(self.server, "POST", path, body)
        await response.events(HELD)
        return chat, response

    async def resume(self, server: Server, chat: str) -> Response:
        return await self.request(server, "GET", f"/api/chat/{chat}/stream")

    async def request(self, server: Server, method: str, path: str, body: bytes = b"") -> Response:
        connection = await Connection.open(server.port)
        self.connections.append(connection)
        headers = {"content-type": "application/json"} if body else {}
        return await connection.request(method, path, headers=headers, body=body)

    def sent(self, chat: str) -> tuple[int, str]:
        """How many events the app got rid of, and how its run was left if it did not return."""
        lines = (self.journal / chat).read_text().splitlines()
        numbers = [int(line) for line in lines if line.isdigit()]
        assert numbers == list(range(len(numbers)))
        return len(numbers), "".join(line for line in lines if not line.isdigit())

    def release(self) -> None:
        (self.journal / "release").touch()

    def terminate(self) -> None:
        self.server.process.signal(signal.SIGTERM)

    async def ended(self, timeout: float = 12) -> None:
        await wait_until(
            lambda: not self.server.process.running, timeout=timeout, what=f"{self.server.kind} to end"
        )

    def unfinished_at_shutdown(self) -> list[str]:
        """The runs that were not over when the app's own shutdown ran, in any worker."""
        files = list(self.journal.glob("app-shutdown-*"))
        assert len(files) == self.server.workers
        return [chat for file in files for chat in json.loads(file.read_text())]


@pytest.fixture
async def shutdown(start_server: StartServer, valkey_server: Valkey, tmp_path: Path):
    made: list[Shutdown] = []

    def make(**options: Any) -> Shutdown:
        env = {"REDIS_URL": valkey_server.url, "HARNESS_JOURNAL": str(tmp_path), **options.pop("env", {})}
        made.append(Shutdown(start_server(app="testkit.shutdown_app:app", env=env, **options), tmp_path))
        return made[-1]

    yield make
    for one in made:
        for connection in one.connections:
            await connection.close()


async def check_done(shutdown: Shutdown, other: Server, chat: str) -> None:
    response = await shutdown.resume(other, chat)
    assert response.status == 200, chat
    assert (await response.rest(), response.end) == (whole(chat), End.CLEAN)


async def check_interrupted(shutdown: Shutdown, other: Server, chat: str) -> None:
    response = await shutdown.resume(other, chat)
    assert response.status == 200, chat
    body = await response.rest()
    assert response.end is End.BROKEN
    events = body.count(b"\n\n")
    assert body == whole(chat, events)
    count, _ = shutdown.sent(chat)
    assert count <= events <= count + 1, "an event was lost that the app had sent"


SERVERS = {
    "uvicorn": {},
    "uvicorn with two workers": {"workers": 2},
    "hypercorn": {"kind": "hypercorn"},
    "granian": {"kind": "granian"},
}


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS.keys())
async def test_a_termination_amid_fifty_runs_loses_no_byte_that_was_sent(
    shutdown: Callable[..., Shutdown], pair: Pair, options: dict[str, Any]
) -> None:
    """Those that can finish in time are whole elsewhere; the others are exact and visibly interrupted."""
    one = shutdown(env={"HARNESS_DRAIN": "1.5"}, **options)
    started = await asyncio.gather(*(one.start(events=EVENTS if n % 2 else 0) for n in range(50)))
    for _, response in started:
        await response.cut()
    one.terminate()
    one.release()
    await one.ended()
    for n, (chat, _) in enumerate(started):
        check = check_done if n % 2 else check_interrupted
        await check(one, pair.b, chat)
    assert one.unfinished_at_shutdown() == []


async def test_nothing_that_an_interrupted_app_sends_is_accepted_and_then_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the seal is on its way to the store, `send` has already stopped taking anything."""
    async with worker(redis_url="memory://", drain_timeout=0) as made:
        exchange, run = await made.begin()
        run.emit(b"data: 1\n\n")
        await exchange.until(b"data: 1\n\n")
        seals: list[tuple[MemoryCopy, Outcome]] = []
        asked = asyncio.Event()

        def finish(copy: MemoryCopy, outcome: Outcome, detail: str = "") -> None:
            copy.log.close()
            seals.append((copy, outcome))
            asked.set()

        with monkeypatch.context() as patch:
            patch.setattr(MemoryCopy, "finish", finish)
            closing = asyncio.create_task(made.shutdown())
            async with asyncio.timeout(5):
                await asked.wait()
            run.emit(b"data: 2\n\n")
            await run.until_ended("OSError")
        copy, outcome = seals[0]
        assert outcome is Outcome.INTERRUPTED
        copy.finish(outcome)
        async with asyncio.timeout(5):
            await closing
        assert (await made.resume().ended()).body == b"data: 1\n\n"


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "granian"])
async def test_the_runs_of_an_app_without_a_lifespan_are_drained_all_the_same(
    shutdown: Callable[..., Shutdown], pair: Pair, kind: str
) -> None:
    one = shutdown(kind=kind, env={"HARNESS_NO_LIFESPAN": "1", "HARNESS_DRAIN": "1"})
    started = [await one.start(events=events) for events in (EVENTS, 0)]
    for _, response in started:
        await response.cut()
    one.terminate()
    one.release()
    await one.ended()
    await check_done(one, pair.b, started[0][0])
    await check_interrupted(one, pair.b, started[1][0])


async def test_an_error_in_the_lifespan_of_an_app_is_still_the_server_s_to_know() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise LookupError("no database")

    middleware = ResumableStreamMiddleware(app, settings=Settings(redis_url="memory://"))
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    inbox.put_nowait({"type": "lifespan.startup"})
    answers: list[Message] = []

    async def send(message: Message) -> None:
        answers.append(message)

    with pytest.raises(LookupError):
        await middleware({"type": "lifespan", "asgi": {"version": "3.0"}}, inbox.get, send)
    assert answers == []


async def test_a_call_that_waits_for_its_run_waits_for_the_seal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without a lifespan may end the process as soon as the last call has returned."""
    async with worker(redis_url="memory://", lifespan=False) as made:
        flushing, written = asyncio.Event(), asyncio.Event()

        async def flush(timeout: float) -> None:
            flushing.set()
            await written.wait()

        exchange, run = await made.begin()
        monkeypatch.setattr(made.store, "flush", flush)
        exchange.disconnect()
        run.finish()
        async with asyncio.timeout(5):
            await flushing.wait()
        assert run.ended == "returned"
        assert not exchange.task.done()
        written.set()
        await exchange.ended()


async def test_the_shutdown_of_sse_starlette_cuts_no_run_and_still_ends_what_is_not_recorded(
    shutdown: Callable[..., Shutdown], pair: Pair
) -> None:
    """Under uvicorn it cuts its own streams half a second after the signal; a run gets its drain_timeout."""
    one = shutdown(env={"HARNESS_DRAIN": "6"})
    events = 60
    chat, response = await one.start(events=events, sse_starlette=True)
    _, unrecorded = await one.start("/free", sse_starlette=True)
    await response.cut()
    one.terminate()
    one.release()
    await unrecorded.rest(timeout=3)
    await one.ended()
    resumed = await one.resume(pair.b, chat)
    assert (await resumed.rest(), resumed.end) == (whole(chat, events), End.CLEAN)


async def test_a_recorded_response_of_sse_starlette_is_interrupted_when_its_time_is_over(
    shutdown: Callable[..., Shutdown], pair: Pair
) -> None:
    one = shutdown(env={"HARNESS_DRAIN": "0.5"})
    chat, response = await one.start(sse_starlette=True)
    await response.cut()
    one.terminate()
    one.release()
    await one.ended()
    await check_interrupted(one, pair.b, chat)


async def test_a_shutdown_writes_a_line_for_each_stream_and_no_traceback(
    shutdown: Callable[..., Shutdown],
) -> None:
    """Of clients that are still attached when the server loses its patience, too."""
    one = shutdown(env={"HARNESS_DRAIN": "0.5"}, extra=["--timeout-graceful-shutdown", "1"])
    started = [await one.start(), await one.start(sse_starlette=True)]
    for chat, _ in started:
        follower = await one.resume(one.server, chat)
        await follower.events(HELD)
    one.terminate()
    one.release()
    await one.ended()
    written = one.server.written()
    assert "Traceback" not in written
    for chat, response in started:
        lines = [line for line in written.splitlines() if repr(chat) in line]
        assert [line for line in lines if "ended interrupted: shutdown" in line] == lines
        assert len(lines) == 1
        assert response.header("resumable-stream-id") in lines[0]


PATIENCE = {
    "uvicorn": {"extra": ["--timeout-graceful-shutdown", "1"]},
    "hypercorn": {"kind": "hypercorn", "extra": ["--graceful-timeout", "1"]},
}


@pytest.mark.parametrize("options", PATIENCE.values(), ids=PATIENCE.keys())
async def test_followers_of_a_run_that_is_interrupted_all_end_and_none_as_if_it_were_whole(
    shutdown: Callable[..., Shutdown], pair: Pair, options: dict[str, Any]
) -> None:
    """Those attached to the server that ends are cut first; others get all that is sent in the drain."""
    one = shutdown(env={"HARNESS_DRAIN": "1"}, **options)
    runs = {dialect: await one.start(dialect=dialect) for dialect in ("plain", "ai")}
    cut = [response for _, response in runs.values()]
    cut += [await one.resume(one.server, chat) for chat, _ in runs.values()]
    followers = {dialect: await one.resume(pair.b, chat) for dialect, (chat, _) in runs.items()}
    for follower in (*cut, *followers.values()):
        await follower.events(HELD)
    one.terminate()
    one.release()
    await one.ended()
    for response in cut:
        await response.rest()
        assert response.end is End.BROKEN
    for dialect, follower in followers.items():
        chat, _ = runs[dialect]
        body = await follower.rest(timeout=2)
        count, _ = one.sent(chat)
        assert body.startswith(whole(chat, count))
        if dialect == "plain":
            assert follower.end is End.BROKEN
        else:
            error, done = sse.payloads(body)[-2:]
            assert (error["type"], done, follower.end) == ("error", "[DONE]", End.CLEAN)
    assert one.unfinished_at_shutdown() == []


@pytest.mark.parametrize("kind", ["uvicorn", "granian"])
async def test_a_server_that_waits_for_its_connections_ends_with_the_last_stream(
    shutdown: Callable[..., Shutdown], kind: str
) -> None:
    """However short the drain_timeout: it begins when they have closed."""
    one = shutdown(kind=kind, env={"HARNESS_DRAIN": "0"})
    chat, response = await one.start(events=EVENTS)
    one.terminate()
    one.release()
    assert (await response.rest(), response.end) == (whole(chat), End.CLEAN)
    await one.ended()


async def test_a_termination_that_hypercorn_cuts_short_loses_its_runs_and_visibly_so(
    shutdown: Callable[..., Shutdown], pair: Pair
) -> None:
    """With several workers it kills the others as soon as one has ended."""
    await check_lost(shutdown(kind="hypercorn", workers=2, env={"HARNESS_LEASE": "1"}), pair.b)


async def test_on_daphne_a_termination_loses_its_runs_and_visibly_so(
    fleet: Fleet, valkey_server: Valkey, tmp_path: Path, pair: Pair
) -> None:
    env = {"REDIS_URL": valkey_server.url, "HARNESS_LEASE": "1", "HARNESS_JOURNAL": str(tmp_path)}
    daphne = Daphne(tmp_path, app="testkit.shutdown_app:app", env=env)
    fleet.servers.append(daphne)
    await check_lost(Shutdown(daphne.wait_ready(), tmp_path), pair.b)


async def check_lost(one: Shutdown, other: Server) -> None:
    """What was sent in the last moment may be missing; what there is is exact, and ends with the lease."""
    (chat, attached), (cut, response) = [await one.start() for _ in range(2)]
    await response.cut()
    followers = {id: await one.resume(other, id) for id in (chat, cut)}
    for follower in followers.values():
        await follower.events(HELD)
    one.terminate()
    one.release()
    await one.ended()
    await attached.rest()
    assert attached.end is End.BROKEN
    for id, follower in followers.items():
        body = await follower.rest(timeout=6)
        assert (body, follower.end) == (whole(id, body.count(b"\n\n")), End.BROKEN)
    for connection in one.connections:
        await connection.close()
