"""Random histories of a few streams, held against a model that is one list of them."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from heapq import heappush
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from testkit.inprocess import Exchange, HostRun, Worker
from testkit.valkey import Valkey
from testkit.wait import wait_until

from resumable_asgi import ResumableRoute, Settings
from resumable_asgi.store.memory import MemoryStore
from resumable_asgi.store.redis import tailer
from resumable_asgi.store.redis.copy_state import CopyState
from resumable_asgi.store.redis.store import RedisStore

KEYS = ("k0", "k1")
Keys = st.sampled_from(KEYS)
Chunks = st.sampled_from(
    [b"data: 1\n\n", b"data: \xe6\x97\xa5\r\n\r\n", b"id: 7\ndata: 2\n\n", b"x", b"\n\n"]
)


@dataclass(eq=False)
class Stream:
    """What must be true of one stream."""

    key: str
    worker: int
    exchange: Exchange
    run: HostRun
    data: bytes = b""
    outcome: str | None = None
    gone: bool = False
    """Whether its log has expired, or was lost with Redis's data."""
    followers: list[Exchange] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.exchange.stream_id or ""

    @property
    def live(self) -> bool:
        return self.outcome is None


class Machine(RuleBasedStateMachine):
    """Each rule does one thing to the real thing and to the model, and waits until it has come about."""

    streams = Bundle("streams")

    def __init__(self, url: str, workers: int) -> None:
        super().__init__()
        self.url = url
        self.runner = asyncio.Runner()
        self.prefix = f"model-{uuid.uuid4().hex[:8]}"
        self.history: list[Stream] = []
        self.active: dict[str, Stream | None] = dict.fromkeys(KEYS)
        self.workers: list[Worker] = []
        for number in range(workers):
            self.workers.append(self.do(self.open()))
            assert len(self.workers) == number + 1

    def do(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    async def open(self) -> Worker:
        options = Settings(
            redis_url=self.url,
            routes=[ResumableRoute()],
            lease=0.6,
            redis_timeout=3,
            drain_timeout=0,
            prefix=self.prefix,
        )
        return await Worker(settings=options).startup()

    def worker(self, number: int) -> Worker:
        return self.workers[number % len(self.workers)]

    # -- what a client and an app do

    @rule(target=streams, key=Keys, number=st.integers(0, 1))
    def start(self, key: str, number: int) -> Stream:
        number %= len(self.workers)
        exchange, run = self.do(self.worker(number).begin(key))
        stream = Stream(key, number, exchange, run)
        self.history.append(stream)
        self.active[key] = stream
        return stream

    @rule(stream=streams, chunk=Chunks)
    def append(self, stream: Stream, chunk: bytes) -> None:
        if not stream.live:
            return
        stream.data += chunk
        stream.run.emit(chunk)
        for client in (stream.exchange, *stream.followers):
            if not client.gone:
                self.do(client.until(stream.data))

    @rule(stream=streams)
    def cut(self, stream: Stream) -> None:
        stream.exchange.disconnect()
        if stream.live:
            self.do(stream.exchange.ended())

    @rule(stream=consumes(streams), how=st.sampled_from(["done", "error"]))
    def finish(self, stream: Stream, how: str) -> None:
        if not stream.live:
            return
        stream.outcome = how
        if how == "done":
            stream.run.finish()
        else:
            stream.run.fail(LookupError("the model says so"))
        self.do(self.settle(stream))
        clients = [client for client in (stream.exchange, *stream.followers) if not client.gone]
        if how == "done" and clients and self.active[stream.key] is stream:
            self.active[stream.key] = None

    @rule(key=Keys, number=st.integers(0, 1))
    def stop(self, key: str, number: int) -> None:
        stream = self.active[key]
        stopped = self.do(self.worker(number).stop(key))
        assert stopped == (stream is not None and stream.live)
        if stream is not None and stream.live:
            stream.outcome = "stopped"
            self.active[key] = None
            self.do(self.settle(stream))

    @rule(key=Keys, number=st.integers(0, 1))
    def resume(self, key: str, number: int) -> None:
        stream = self.active[key]
        exchange: Exchange = self.worker(number).resume(key)
        if stream is None:
            assert self.do(exchange.ended()).status == 204
            return
        if not stream.live and stream.data == b"" and stream.outcome == "done":
            assert self.do(exchange.ended()).status == 204
            return
        self.do(exchange.until_started())
        assert exchange.stream_id == stream.id
        if stream.live:
            stream.followers.append(exchange)
            self.do(exchange.until(stream.data))
            return
        self.do(exchange.ended())
        self.check_end(stream, exchange)
        if stream.outcome == "done":
            self.active[key] = None

    @rule(stream=streams, number=st.integers(0, 1))
    def resume_by_id(self, stream: Stream, number: int) -> None:
        """From the end of what there is, as a reconnecting EventSource would."""
        if stream.gone or not stream.live:
            return
        position = f"{stream.id}.0".encode()
        exchange = self.worker(number).resume(stream.key, headers=[(b"last-event-id", position)])
        self.do(exchange.until_started())
        assert exchange.status == 200
        stream.followers.append(exchange)
        self.do(exchange.until(stream.data))

    # -- what befalls them

    @rule(key=Keys)
    def expire(self, key: str) -> None:
        stream = self.active[key]
        if stream is None or stream.live:
            return
        if any(each.live and each.key == key for each in self.history):
            return  # its worker has long seen the newer one's pointer when that expires
        stream.gone = True
        self.active[key] = None
        store = self.workers[0].store
        if isinstance(store, MemoryStore):
            store._logs[stream.id].expires = 0.0
            heappush(store._expiries, (0.0, stream.id))
            return
        with self.redis() as client:
            doomed = list(client.scan_iter(f"{self.prefix}:*:log:{stream.id}"))
            pointers = [each.partition(":log:")[0] + ":active" for each in doomed]
            assert client.delete(*doomed, *pointers)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(number=st.integers(0, 1))
    def die(self, number: int) -> None:
        """Nobody closes anything; another process takes its place."""
        dead = self.workers[number]
        self.do(self.flushed(dead))
        store = dead.store
        assert isinstance(store, RedisStore)
        self.do(self.kill(dead))
        with self.redis() as client:
            client.delete(f"{self.prefix}:worker:{store._worker}")
        lost = [stream for stream in self.history if stream.worker == number and stream.live]
        self.workers[number] = self.do(self.open())
        for stream in lost:
            stream.outcome = "lost"
            position = f"{stream.id}.0".encode()
            exchange = self.worker(number + 1).resume(stream.key, headers=[(b"last-event-id", position)])
            self.do(exchange.ended())
            self.check_end(stream, exchange)
            for follower in stream.followers:
                if not follower.gone:
                    self.do(follower.ended())
                    self.check_end(stream, follower)
            stream.worker = -1

    @precondition(lambda self: len(self.workers) > 1)
    @rule()
    def empty(self) -> None:
        """Redis restarts without its data: what runs comes back, and only that."""
        with self.redis() as client:
            doomed = list(client.scan_iter(f"{self.prefix}:*"))
            if doomed:
                client.delete(*doomed)
        for stream in self.history:
            stream.gone = stream.gone or not stream.live
        for key in KEYS:
            running = [stream for stream in self.history if stream.key == key and stream.live]
            self.active[key] = max(running, key=lambda stream: stream.id, default=None)
        self.do(self.back())

    # -- helpers

    def redis(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5)

    async def kill(self, dead: Worker) -> None:
        """As much of it as one process can have: every task of it is gone, every connection cut."""
        store = dead.store
        assert isinstance(store, RedisStore)
        runs = dead.middleware._current_runtime().runs
        tasks = [exchange.task for exchange in dead.exchanges]
        for exchange in dead.exchanges:
            exchange.disconnect()
        for link in (store.reader, store.writer.link, store.tailer.subscription):
            link.close()
        store.writer.finish = lambda *_: None  # type: ignore[method-assign]
        await store.aclose()
        tasks += list(runs._tasks)
        for task in tasks:
            task.cancel()
        if dead._lifespan is not None:
            dead._lifespan.cancel()
            tasks.append(dead._lifespan)
        await asyncio.wait(tasks, timeout=5)
        await store.aclose()

    async def flushed(self, worker: Worker) -> None:
        store = worker.store
        assert isinstance(store, RedisStore)
        await wait_until(
            lambda: all(
                record.state is CopyState.SYNCED and record.offset == record.log.end
                for record in store.writer.copies.values()
            )
        )

    async def back(self) -> None:
        for worker in self.workers:
            store = worker.store
            assert isinstance(store, RedisStore)
            ids = list(store.writer.copies)
            for stream_id in ids:
                store.writer.check(stream_id)
            await self.flushed(worker)

    async def settle(self, stream: Stream) -> None:
        store = self.workers[stream.worker].store
        if isinstance(store, RedisStore):
            await wait_until(lambda: stream.id not in store.writer.copies, what="the seal")
        if stream.outcome == "stopped":
            stream.run.emit(b"refused")  # so that the app need not be cancelled, after a second
        await wait_until(lambda: stream.run.ended is not None, what="the app to end")
        for client in (stream.exchange, *stream.followers):
            if client.gone:
                continue
            try:
                await client.ended()
            except LookupError:
                assert stream.outcome == "error"
            self.check_end(stream, client)

    def check_end(self, stream: Stream, client: Exchange) -> None:
        assert client.body == stream.data
        assert client.complete == (stream.outcome in ("done", "stopped"))

    @invariant()
    def all_agree_on_what_can_be_resumed(self) -> None:
        for key in KEYS:
            for worker in self.workers:
                self.do(self.agreed(worker, key))

    async def agreed(self, worker: Worker, key: str) -> None:
        """At once as a rule; after a loss in Redis, when the next lease was found missing."""
        stream = self.active[key]
        if stream is not None and stream.outcome == "done" and not stream.data:
            stream = None
        expected = (204, None) if stream is None else (200, stream.id)

        async def agrees() -> bool:
            exchange = await worker.request("HEAD", f"/api/chat/{key}/stream").ended()
            worker.exchanges.remove(exchange)
            return (exchange.status, exchange.stream_id) == expected

        await wait_until(agrees, timeout=2, what=f"{key} to be {expected}")

    def teardown(self) -> None:
        for worker in self.workers:
            self.do(worker.close())
        self.runner.close()


def check(url: str, workers: int, examples: int) -> None:
    run_state_machine_as_test(
        lambda: Machine(url, workers),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a history of real time does not shrink
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_history_in_memory_agrees_with_the_model() -> None:
    check("memory://", 1, 80)


def test_any_history_of_two_workers_agrees_with_the_model(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer, "_PERIOD", 0.05)
    check(valkey.url, 2, 40)
