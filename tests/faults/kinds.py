"""The faults themselves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from redis.exceptions import RedisError

from .database import Database
from .ledger import EVERYBODY, Ledger, Span
from .schedule import Faults, Strike


async def kill(faults: Faults) -> None:
    async with faults.worker("SIGKILL") as worker:
        worker.kill()
        await asyncio.sleep(faults.rng.uniform(0, faults.lease))
        await worker.start()


async def terminate(faults: Faults) -> None:
    async with faults.worker("SIGTERM") as worker:
        if not await worker.terminate():
            faults.unclean_exits += 1
        await worker.start()


async def freeze_long(faults: Faults) -> None:
    async with faults.worker("SIGSTOP past the lease") as worker:
        await worker.freeze(faults.long())


async def freeze_short(faults: Faults) -> None:
    async with faults.worker("SIGSTOP within the lease") as worker:
        await worker.freeze(faults.short())


async def restart_keep(faults: Faults) -> None:
    async with faults.redis("Redis restart with data") as database:
        with faults.ledger.away(EVERYBODY):
            await database.restart(keep_data=True, after=faults.either())


async def restart_quick(faults: Faults) -> None:
    async with faults.redis("Redis quick restart with data") as database:
        with faults.ledger.away(EVERYBODY):
            await database.restart(keep_data=True, after=0)


async def restart_empty(faults: Faults) -> None:
    after = faults.rng.choice((0.0, 0.0, faults.either()))
    async with faults.redis("Redis restart without data", f"{after:.1f} s") as database:
        with _emptied(faults.ledger), faults.ledger.away(EVERYBODY):
            await database.restart(keep_data=False, after=after)


async def flush(faults: Faults) -> None:
    async with faults.redis("FLUSHALL") as database:
        with _emptied(faults.ledger):
            await database.command("FLUSHALL")


@contextlib.contextmanager
def _emptied(ledger: Ledger) -> Iterator[None]:
    span = Span(time.monotonic())
    ledger.emptied.append(span)
    yield
    span.end = time.monotonic()


async def freeze_redis(faults: Faults) -> None:
    async with faults.redis("Redis frozen") as database:
        with faults.ledger.away(EVERYBODY):
            database.freeze()
            try:
                await asyncio.sleep(faults.either())
            finally:
                database.thaw()


async def kill_clients(faults: Faults) -> None:
    async with faults.redis("CLIENT KILL TYPE normal") as database:
        await database.command("CLIENT", "KILL", "TYPE", "normal")


async def kill_subscribers(faults: Faults) -> None:
    async with faults.redis("CLIENT KILL TYPE pubsub") as database:
        await database.command("CLIENT", "KILL", "TYPE", "pubsub")


async def pause_clients(faults: Faults) -> None:
    which = faults.rng.choice(("ALL", "WRITE"))
    async with faults.redis("CLIENT PAUSE", which) as database:
        with faults.ledger.away(EVERYBODY):
            seconds = faults.either()
            await database.command("CLIENT", "PAUSE", int(1000 * seconds), which)
            await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def _for_a_while(
    faults: Faults, kind: str, on: tuple[str | int, ...], off: tuple[str | int, ...]
) -> AsyncIterator[Database]:
    """Redis answers, but takes nothing."""
    async with faults.redis(kind) as database:
        with faults.ledger.away(EVERYBODY):
            await database.command(*on)
            try:
                yield database
            finally:
                with contextlib.suppress(RedisError):
                    await database.command(*off)


async def out_of_memory(faults: Faults) -> None:
    on, off = ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)
    async with _for_a_while(faults, "Redis out of memory", on, off):
        await asyncio.sleep(faults.either())


async def too_few_replicas(faults: Faults) -> None:
    name = "min-replicas-to-write"
    async with _for_a_while(faults, "NOREPLICAS", ("CONFIG", "SET", name, 1), ("CONFIG", "SET", name, 0)):
        await asyncio.sleep(faults.either())


async def read_only(faults: Faults) -> None:
    """A replica of nobody: it serves what it has and takes nothing."""
    on, off = ("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE")
    async with _for_a_while(faults, "READONLY", on, off):
        await asyncio.sleep(faults.either())


async def lose_replies(faults: Faults) -> None:
    count = faults.rng.randint(1, 5)
    async with faults.worker("reply lost after the append", str(count)) as worker:
        worker.proxy.lost_replies += count
        await asyncio.sleep(1.0)
        worker.proxy.lost_replies = 0


async def halve_requests(faults: Faults) -> None:
    count = faults.rng.randint(1, 5)
    async with faults.worker("request with an append cut in its middle", str(count)) as worker:
        worker.proxy.half_requests += count
        await asyncio.sleep(1.0)
        worker.proxy.half_requests = 0


async def lose_pushes(faults: Faults) -> None:
    share = faults.rng.choice((0.1, 0.5, 1.0))
    async with faults.worker("pub/sub messages lost", f"{share:.0%}") as worker:
        worker.proxy.push_loss = share
        await asyncio.sleep(faults.rng.uniform(1.0, 6.0))
        worker.proxy.push_loss = 0.0


async def add_latency(faults: Faults) -> None:
    seconds = faults.rng.uniform(0.005, 0.08)
    async with faults.worker("latency", f"{1000 * seconds:.0f} ms each way") as worker:
        worker.proxy.latency = seconds
        await asyncio.sleep(faults.rng.uniform(1.0, 5.0))
        worker.proxy.latency = 0.0


async def half_open(faults: Faults) -> None:
    deliver = faults.rng.random() < 0.5
    async with faults.worker("half-open connections", "delivered late" if deliver else "dropped") as worker:
        with faults.ledger.away(worker.index):
            worker.proxy.hold()
            try:
                await asyncio.sleep(faults.either())
            finally:
                worker.proxy.release(deliver=deliver)


async def refuse(faults: Faults) -> None:
    async with faults.worker("connections to Redis refused") as worker:
        with faults.ledger.away(worker.index):
            worker.proxy.refusing = True
            worker.proxy.cut()
            await asyncio.sleep(faults.either())
            worker.proxy.refusing = False


async def cut(faults: Faults) -> None:
    count = faults.rng.randint(1, 5)
    async with faults.worker("connections to Redis cut", f"{count} times") as worker:
        for _ in range(count):
            worker.proxy.cut()
            await asyncio.sleep(faults.rng.uniform(0.01, 0.3))


KINDS: dict[str, Strike] = {
    "kill": kill,
    "terminate": terminate,
    "freeze-long": freeze_long,
    "freeze-short": freeze_short,
    "restart-keep": restart_keep,
    "restart-quick": restart_quick,
    "restart-empty": restart_empty,
    "flush": flush,
    "freeze-redis": freeze_redis,
    "kill-clients": kill_clients,
    "kill-subscribers": kill_subscribers,
    "pause-clients": pause_clients,
    "out-of-memory": out_of_memory,
    "no-replicas": too_few_replicas,
    "read-only": read_only,
    "lose-replies": lose_replies,
    "half-requests": halve_requests,
    "lose-pushes": lose_pushes,
    "latency": add_latency,
    "half-open": half_open,
    "refuse": refuse,
    "cut": cut,
}
