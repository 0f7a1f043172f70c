"""Streams in a Redis Cluster whose hash slots move all the time, joined at the worst moments, by hand:

python -m tests.store.moving_slots --minutes 3 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from requirements import find_valkey
from testkit.cluster import Cluster
from testkit.logs import begin, key_named, open_store_at, reading
from testkit.valkey import Valkey
from testkit.wait import wait_until, wait_until_sync

from resumable_asgi.errors import StoreUnavailableError
from resumable_asgi.outcome import Outcome
from resumable_asgi.stream.log import Log
from resumable_asgi.stream.store import Store, StreamKey

KEYS = 6
WAVE = 4
"""Joins a worker at each step of a move."""
PATIENCE = 20.0
"""Seconds within which a join is answered, and a reader ends after its stream."""


@dataclass(eq=False)
class Stream:
    """What was written so far, and who reads it: their logs, by the number of their worker."""

    slot: StreamKey
    log: Log
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    readers: dict[int, list[Log]] = field(default_factory=dict[int, list[Log]])


class Chaos:
    """Worker 0 writes, all of them join. `counts` says what became of it.

    After a run that went well there are as many "exact" as "readers", none is "apart" (read another log than
    the rest of its worker), and none was "missed" (told that there is none, after another process had found
    it).
    """

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.counts: Counter[str] = Counter(streams=0, moves=0, readers=0)
        self._cluster = cluster
        self._random = random.Random(seed)
        self._workers = [open_store_at(cluster.url, redis_timeout=1, lease=10) for _ in range(3)]
        self._live: dict[str, Stream] = {}
        self._reading: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        over = asyncio.get_running_loop().time() + seconds
        slots = [key_named(f"{number:032x}") for number in range(KEYS)]
        await asyncio.gather(self._move(over), *[self._write(slot, over) for slot in slots])
        if self._reading:
            await asyncio.gather(*self._reading)
        for worker in self._workers:
            await worker.aclose()

    async def _write(self, slot: StreamKey, over: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < over:
            log = await begin(self._workers[0], slot, b"data: 0\n\n")
            stream = self._live[slot.name] = Stream(slot, log)
            self.counts["streams"] += 1
            self._join(stream)
            for _ in range(self._random.randint(40, 200)):
                await asyncio.sleep(0.03)
                log.append(b"data: %s\n\n" % self._random.randbytes(20).hex().encode())
            log.copy.finish(Outcome.DONE)
            stream.ended.set()

    async def _move(self, over: float) -> None:
        """Mostly there and straight back, or on, with joins at each step."""
        loop = asyncio.get_running_loop()
        await wait_until(lambda: self._live)
        while loop.time() < over:
            await asyncio.sleep(self._random.choice((0.02, 0.2, 1)))
            name = self._random.choice(list(self._live))
            key = f"resumable:{{{name}}}:active"
            for _ in range(self._random.randint(1, 4)):
                source = await asyncio.to_thread(self._cluster.primary_of, key)
                target = self._random.choice([node for node in self._cluster.nodes if node is not source])
                await self._step(name, partial(self._cluster.carry_keys, key, target))
                for node in (target, source):
                    await self._step(name, partial(self._cluster.set_primary, key, target, at=node))
                self.counts["moves"] += 1
                await asyncio.to_thread(self._settle, key, target)

    async def _step(self, name: str, step: Callable[[], None]) -> None:
        self._join(self._live[name])
        await asyncio.sleep(self._random.choice((0, 0, 0.002, 0.02)))
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(step)

    def _settle(self, key: str, target: Valkey) -> None:
        """Wait until the first node, which is asked for who serves what, has heard of the move."""
        wait_until_sync(lambda: self._cluster.primary_of(key) is target, what="the move to be known")

    def _join(self, stream: Stream) -> None:
        for number in range(len(self._workers)):
            for _ in range(WAVE):
                task = asyncio.create_task(self._read(stream, number))
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)

    async def _read(self, stream: Stream, number: int) -> None:
        self.counts["readers"] += 1
        log = await self._found(stream, self._workers[number])
        if log is None:
            self.counts["never found"] += 1
            return
        with reading(log):
            others = stream.readers.setdefault(number, [])
            if log.outcome is None and any(other is not log and other.outcome is None for other in others):
                self.counts["apart"] += 1
            others.append(log)
            await _until_sealed(log)
            if log.outcome is None:
                await stream.ended.wait()
                await _until_sealed(log)
            if log.outcome is None:
                self.counts["hung"] += 1
            elif log.outcome is not Outcome.DONE:
                self.counts[f"ended {log.outcome} {log.detail}"] += 1
            elif log.span(0, log.end) != stream.log.span(0, stream.log.end):
                self.counts["wrong bytes"] += 1
            else:
                self.counts["exact"] += 1

    async def _found(self, stream: Stream, worker: Store) -> Log | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while loop.time() < until:
            try:
                found = await worker.find(stream.slot, stream.log.id)
            except StoreUnavailableError:
                self.counts["asked again"] += 1
            else:
                if found is not None:
                    return found.log
                self.counts["missed" if stream.readers.keys() - {0} else "not recorded yet"] += 1
            await asyncio.sleep(0.01)
        return None


async def _until_sealed(log: Log) -> None:
    """Or for so long."""
    changed = asyncio.Event()
    log.watch(changed.set)
    try:
        async with asyncio.timeout(PATIENCE):
            while log.outcome is None:
                changed.clear()
                await changed.wait()
    except TimeoutError:
        pass
    finally:
        log.unwatch(changed.set)


def went_well(counts: Counter[str]) -> bool:
    return counts["exact"] == counts["readers"] > 0 and not counts["apart"] and not counts["missed"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    binary = find_valkey()
    if binary is None:
        parser.error("a Valkey or Redis server is needed; REDIS_SERVER=/path/to/redis-server names one")

    async def run(cluster: Cluster) -> Counter[str]:
        chaos = Chaos(cluster, arguments.seed)
        await chaos.run(60 * arguments.minutes)
        return chaos.counts

    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(binary, Path(directory))
        try:
            cluster.start()
            counts = asyncio.run(run(cluster))
        finally:
            cluster.stop()
    for what, count in counts.items():
        print(f"{count:8} {what}")
    return 0 if went_well(counts) else 1


if __name__ == "__main__":
    sys.exit(main())
