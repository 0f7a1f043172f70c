"""One run of the fault program, from the first process to the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from redis.exceptions import RedisError
from testkit.wait import wait_until

from .check import Failure, Judge
from .client import Visit
from .database import Database
from .fleet import Worker, WorkerSettings
from .journal import Journal
from .kinds import KINDS
from .ledger import Ledger
from .load import Conversation, generate
from .proxy import Proxy
from .schedule import Faults

_TICK = 0.02
_LATE = 0.2
"""Seconds by which the driver may be late before the machine is to blame for what follows."""
_FILES_GROWN = 4
"""Connections to Redis are opened when they are first needed."""
_TASKS_GROWN = 5
"""One for each connection, and those of the writer and the tailer, which wait for theirs to be lost."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    seed: int = 1
    seconds: float = 60.0
    workers: int = 3
    rate: float = 3.0
    """Streams a second."""
    followers: int = 7
    """Mean number of resumes a stream, not counting those who come back after a cut."""
    longest: float = 6.0
    """Seconds of a stream."""
    pause: float = 3.5
    """Mean seconds between faults."""
    kinds: list[str] | None = None
    gentle: bool = False
    """Whether no outage lasts as long as the lease, so that hardly any loss is justified."""
    worker: WorkerSettings = dataclasses.field(default_factory=WorkerSettings)


@dataclasses.dataclass
class Result:
    options: Options
    ledger: Ledger
    failures: list[Failure]
    figures: dict[str, float | int | str]
    outcomes: Counter[str]
    statuses: Counter[str]
    logs: dict[str, str]


class Session:
    """Owns all processes, proxies and records of one run."""

    def __init__(self, options: Options, binary: str, directory: Path) -> None:
        self.options = options
        self.directory = directory
        for name in ("journals", "stalls", "logs", "redis"):
            (directory / name).mkdir()
        self.ledger = Ledger(directory, options.worker.lease)
        self.database = Database(binary, directory / "redis")
        self.judge = Judge(
            self.ledger, lease=options.worker.lease, redis_timeout=options.worker.redis_timeout
        )
        self.workers: list[Worker] = []
        self.outcomes: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.streams = 0
        self._proxies: list[Proxy] = []
        self._judging: set[asyncio.Task[None]] = set()
        self._slowest_tick = 0.0

    async def run(self) -> Result:
        options = self.options
        async with self._everything():
            until = time.monotonic() + options.seconds
            faults = Faults(
                random.Random(f"faults-{options.seed}"),
                self.database,
                self.workers,
                self.ledger,
                lease=options.worker.lease,
                pause=options.pause,
                gentle=options.gentle,
                kinds={kind: KINDS[kind] for kind in options.kinds or KINDS},
            )
            striking = asyncio.create_task(faults.strike_until(until))
            try:
                await self._load(until)
                await striking
            finally:
                striking.cancel()
            if self._judging:
                await asyncio.wait(self._judging, timeout=60)
            for _ in range(faults.unclean_exits):
                self.judge.fail("unclean exit", "", "a worker did not end in time on SIGTERM", 0, 0)
            await self._look_at_what_is_left()
            return self._result()

    @contextlib.asynccontextmanager
    async def _everything(self) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch_the_loop())
        try:
            await self.database.start()
            for index in range(self.options.workers):
                proxy = Proxy(self.database.port, random.Random(f"proxy-{self.options.seed}-{index}"))
                await proxy.start()
                self._proxies.append(proxy)
                self.workers.append(Worker(index, self.directory, self.options.worker, proxy, self.ledger))
            async with asyncio.TaskGroup() as group:
                for worker in self.workers:
                    group.create_task(worker.start())
            yield
        finally:
            watcher.cancel()
            for worker in self.workers:
                worker.close()
            for proxy in self._proxies:
                await proxy.stop()
            await self.database.aclose()

    async def _load(self, until: float) -> None:
        options = self.options

        def make(number: int) -> Conversation:
            seed = f"{options.seed}-{number}"
            return Conversation(seed, self.workers, longest=options.longest, followers=options.followers)

        await generate(
            make, self._finished, rate=options.rate, until=until, most=80,
            rng=random.Random(f"load-{options.seed}"),
        )  # fmt: skip

    def _finished(self, conversation: Conversation) -> None:
        task = asyncio.create_task(self._judge(conversation))
        self._judging.add(task)
        task.add_done_callback(self._judged)

    def _judged(self, task: asyncio.Task[None]) -> None:
        self._judging.discard(task)
        if (error := task.exception()) is not None:
            self.judge.fail("checker", "", repr(error), 0, 0)

    async def _judge(self, conversation: Conversation) -> None:
        """Judge the runs of one key once they are over, with or without an audience."""
        browser = conversation.browser
        for visit in browser.visits:
            self.statuses[f"{visit.kind} {visit.status or 'no answer'}"] += 1
        running: list[tuple[Journal, list[Visit]]] = []
        for run, plan in conversation.plans.items():
            self.streams += 1
            journal = await self._whole_journal(run, plan.duration)
            if journal is None:
                continue
            visits = [visit for visit in browser.visits if visit.run == run]
            refused = [v for v in browser.visits if v.status == 400 and len(conversation.plans) == 1]
            running.append((journal, visits))
            shared = len(conversation.plans) > 1
            for verdict in self.judge.judge(plan, journal, visits + refused, browser.stops, shared=shared):
                self.outcomes[f"{verdict.visit.kind} {verdict.outcome}"] += 1
        for visit in browser.visits:
            if visit.status == 204 and visit.position is None and not browser.stops:
                self.judge.judge_empty_answer(visit, running)
            elif visit.status is not None and visit.status not in (200, 204, 400, 503):
                self.judge.fail("wrong answer", visit.run, str(visit), visit.began, visit.ended or 0)

    async def _whole_journal(self, run: str, duration: float) -> Journal | None:
        """The journal once the run is over; as it is if its process is gone, or if it never ends."""
        deadline = time.monotonic() + duration + 30
        while True:
            journal = Journal.read(self.directory / "journals", run)
            if journal is None or journal.ending is not None:
                return journal
            producer = self.ledger.incarnations[journal.incarnation]
            if producer.died < time.monotonic():
                return Journal.read(self.directory / "journals", run)
            if time.monotonic() > deadline:
                self.judge.fail("stuck run", run, f"at {producer.name}", journal.started, deadline)
                return journal
            await asyncio.sleep(0.1)

    async def _watch_the_loop(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self._slowest_tick = max(self._slowest_tick, now - before)
            if now - before > _LATE:
                self.ledger.stalled(before, now)
            before = now

    async def _look_at_what_is_left(self) -> None:
        """After the storm: no key without TTL, and no more files and tasks than before it."""
        for worker in self.workers:
            assert worker.latest is not None
            try:
                await wait_until(lambda worker=worker: self._is_quiet(worker), timeout=15, what="quiet")
            except (AssertionError, OSError, EOFError) as error:
                what = f"at first {worker.open_at_start}, in the end {worker.open_now} ({error})"
                self.judge.fail("left behind", "", f"{worker.latest.name}: {what}", 0, 0)
        try:
            for key in await self.database.keys_without_ttl():
                self.judge.fail("key without TTL", "", key, 0, 0)
        except RedisError as error:
            self.judge.fail("checker", "", repr(error), 0, 0)

    async def _is_quiet(self, worker: Worker) -> bool:
        now = await worker.health()
        tasks_grown = len(now["tasks"]) - len(worker.open_at_start["tasks"])
        files_grown = now["files"] - worker.open_at_start["files"]
        quiet = tasks_grown <= _TASKS_GROWN and files_grown <= _FILES_GROWN and worker.proxy.connections <= 3
        if not quiet:
            worker.open_now = f"{now}, {worker.proxy.connections} connections to Redis"
        return quiet

    def _result(self) -> Result:
        kills = sorted(self.judge.kill_to_end)
        figures: dict[str, float | int | str] = {
            "streams": self.streams,
            "resumes": sum(count for name, count in self.statuses.items() if name.startswith("resume")),
            "faults": self.ledger.faults.total(),
            "slowest start of a stream, s": round(self.judge.slowest_start, 3),
            "kill -9 to the end at a follower, s, median": round(kills[len(kills) // 2][0], 2)
            if kills
            else "-",
            "kill -9 to the end at a follower, s, longest": round(kills[-1][0], 2) if kills else "-",
            "followers that saw a kill -9": len(kills),
            "slowest turn of the driver's loop, s": round(self._slowest_tick, 3),
        }
        logs = {path.name: path.read_text(errors="replace") for path in (self.directory / "logs").iterdir()}
        return Result(
            self.options, self.ledger, self.judge.failures, figures, self.outcomes, self.statuses, logs
        )
