"""When the faults strike, and whom: all drawn from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from .database import Database
from .fleet import Worker
from .ledger import EVERYBODY, Ledger

Strike = Callable[["Faults"], Awaitable[None]]


class Faults:
    """Does one fault after the other, some of them at the same time, until it is cancelled."""

    def __init__(
        self, rng: random.Random, database: Database, workers: list[Worker], ledger: Ledger, *,
        lease: float, pause: float, kinds: Mapping[str, Strike],
        gentle: bool,
    ) -> None:  # fmt: skip
        self.rng = rng
        self.database = database
        self.workers = workers
        self.ledger = ledger
        self.lease = lease
        self._pause = pause
        self._redis_busy = asyncio.Lock()
        self._gentle = gentle
        self._kinds = kinds
        self._room = asyncio.Semaphore(2)
        self.unclean_exits = 0

    async def strike_until(self, deadline: float) -> None:
        """Every kind once in a random order, and again, until the time is up. At most two at a time."""
        async with asyncio.TaskGroup() as group:
            bag: list[str] = []
            while time.monotonic() < deadline:
                await asyncio.sleep(self.rng.expovariate(1 / self._pause))
                await self._room.acquire()
                if not bag:
                    bag = self.rng.sample(sorted(self._kinds), len(self._kinds))
                group.create_task(self._strike(self._kinds[bag.pop()]))

    async def _strike(self, strike: Strike) -> None:
        try:
            await strike(self)
        finally:
            self._room.release()

    # -- whom to strike

    @contextlib.asynccontextmanager
    async def worker(self, kind: str, detail: str = "") -> AsyncIterator[Worker]:
        """A worker that nothing else is being done to."""
        free = [worker for worker in self.workers if not worker.busy.locked() and worker.ready]
        worker = self.rng.choice(free or self.workers)
        async with worker.busy:
            assert worker.latest is not None
            with self.ledger.fault(kind, worker.index, f"{worker.latest.name} {detail}"):
                yield worker

    @contextlib.asynccontextmanager
    async def redis(self, kind: str, detail: str = "") -> AsyncIterator[Database]:
        async with self._redis_busy:
            with self.ledger.fault(kind, EVERYBODY, detail):
                yield self.database

    def short(self) -> float:
        """Seconds that the lease outlives."""
        return self.rng.uniform(0.05, 0.6) * self.lease

    def long(self) -> float:
        """Seconds after which a silent worker counts as dead."""
        return self.rng.uniform(1.3, 2.5) * self.lease

    def either(self) -> float:
        return self.short() if self._gentle or self.rng.random() < 0.6 else self.long()
