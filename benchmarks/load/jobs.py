"""What the load generator can do. Each job takes plain data and answers plain data."""

from __future__ import annotations

import asyncio
import random
import uuid
from array import array
from typing import Any
from urllib.parse import urlencode

import redis

from ..events import SIZE, now_us
from ..usage import Probe, cpu, grown
from .wire import Meter, Requests, Stream

Job = dict[str, Any]
Answer = dict[str, Any]

_SETTLE = 0.2
"""Seconds for what a server does after its last byte, so that it counts too."""
_RAMP = 64
_RAMP_SECONDS = 0.1
"""As many connections are opened in as many seconds: a server that accepts thousands at once would be
measured at something else."""

_COLD = 2
"""Replays that a worker is given before those that count."""


def percentile(values: array[int], fraction: float) -> float:
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))]


def request(method: str, path: str, **query: float) -> bytes:
    target = f"{path}?{urlencode(query)}" if query else path
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    return f"{method} {target} HTTP/1.1\r\nHost: bench\r\n{length}\r\n".encode()


def start(key: str, spec: dict[str, float], *, stagger: float = 0) -> bytes:
    """A request that starts a stream, at a random moment within `stagger` seconds: in step with each other
    the streams would only measure how they queue."""
    return request("POST", f"/chat/{key}", **spec, delay=round(random.random() * stagger, 4))


def resume(key: str) -> bytes:
    return request("GET", f"/chat/{key}/stream")


async def connect(port: int, stream: Stream) -> Stream:
    await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", port)
    return stream


async def open_all(port: int, requests: list[bytes], meter: Meter, *, enough: int = 1 << 62) -> list[Stream]:
    """Open a stream for each request and wait until all have answered with a first byte."""
    opened: list[Stream] = []
    for number, request in enumerate(requests, 1):
        opened.append(await connect(port, Stream(request, meter, enough=enough)))
        if number % _RAMP == 0:
            await asyncio.sleep(_RAMP_SECONDS)
    await asyncio.gather(*(stream.first for stream in opened))
    return opened


def _report(meter: Meter, used: dict[str, float]) -> Answer:
    return {
        "events": meter.bytes / SIZE,
        "failed": meter.failed[:3],
        "failures": len(meter.failed),
        "p50": percentile(meter.latencies, 0.5),
        "p99": percentile(meter.latencies, 0.99),
        **used,
    }


async def streams(job: Job) -> Answer:
    """All streams from their start to their end, `at_once` at the same time; counts everything between."""
    probe = Probe(job["pids"], job.get("redis_port"))
    await _warm_up(job["port"], job["warm_up"])
    meter = Meter(timed=job["timed"])
    total = job["spec"]["n"] * SIZE
    gate = asyncio.Semaphore(job["at_once"])

    async def one() -> None:
        async with gate:
            message = start(uuid.uuid4().hex, job["spec"], stagger=job.get("stagger", 0))
            stream = await connect(job["port"], Stream(message, meter, enough=total))
            await stream.reached
            if stream.body != total:
                meter.failed.append(f"{stream.body} bytes in place of {total}")

    before = probe.snapshot()
    await asyncio.gather(*(one() for _ in range(job["streams"])))
    await asyncio.sleep(_SETTLE)
    return _report(meter, grown(before, probe.snapshot())) | probe.connections()


async def _warm_up(port: int, seconds: float) -> None:
    """Imports, connections, caches and compiled code of the server."""
    meter = Meter(timed=False)
    end = now_us() + 1e6 * seconds
    while now_us() < end:
        requests = [start(uuid.uuid4().hex, {"n": 200, "gap": 0.001, "burst": 10}) for _ in range(10)]
        opened = await open_all(port, requests, meter)
        await asyncio.gather(*(stream.reached for stream in opened))
    await asyncio.sleep(_SETTLE)


async def window(job: Job) -> Answer:
    """Streams that are all running already, and their followers, watched for some seconds.

    `follow`: on which port, and how many followers each stream has there; what they get is what counts.
    Without it the original clients count. `detach`: the original clients leave once their streams run.
    """
    probe = Probe(job["pids"], job.get("redis_port"))
    keys = [uuid.uuid4().hex for _ in range(job["streams"])]
    if job.get("warm_up"):
        await _warm_up(job["port"], job["warm_up"])
    original, followed = Meter(timed="follow" not in job), Meter(timed=True)
    spec = {**job["spec"], **job.get("extra", {})}
    idle = probe.snapshot()
    stagger = job["spec"]["gap"]
    started = await open_all(job["port"], [start(key, spec, stagger=stagger) for key in keys], original)
    if job.get("detach"):
        for stream in started:
            stream.close()
    meter = original
    if "follow" in job:
        meter = followed
        requests = [resume(key) for key in keys for _ in range(job["follow"]["each"])]
        await open_all(job["follow"]["port"], requests, followed)
    await asyncio.sleep(job.get("settle", 3))
    meter.since = now_us()
    meter.bytes = 0
    del meter.latencies[:]
    before = probe.snapshot()
    await asyncio.sleep(job["seconds"])
    after = probe.snapshot()
    report = _report(meter, grown(before, after))
    since_idle = {f"{name}.since-idle": value for name, value in grown(idle, after).items()}
    return report | since_idle | probe.connections()


async def first_byte(job: Job) -> Answer:
    """Single requests, to each of the servers in turn: microseconds from the request to the first byte.

    A small write to Redis takes its turn too: its round trip then meets processes as sleepy as theirs.
    """
    for port in job["ports"].values():
        await _warm_up(port, job["warm_up"])
    reader, writer = await asyncio.open_connection("127.0.0.1", job["redis_port"])
    times: dict[str, array[int]] = {name: array("q") for name in job["ports"]}
    trips = array("q")
    meter = Meter(timed=False)
    for _ in range(job["count"]):
        for name, port in job["ports"].items():
            stream = await connect(port, Stream(start(uuid.uuid4().hex, {"n": 1}), meter))
            times[name].append(await stream.first - stream.sent_at)
            await stream.reached
            stream.close()
        began = now_us()
        writer.write(b"SET round-trip x PX 60000\r\n")
        await reader.readline()
        trips.append(now_us() - began)
    writer.close()
    medians = {name: percentile(values, 0.5) for name, values in times.items()}
    return {"failures": len(meter.failed), "medians": medians, "round_trip": percentile(trips, 0.5)}


async def replay(job: Job) -> Answer:
    """Live logs, each replayed once on another worker: microseconds to the first byte and to the last.

    `followed`: a port where each log has a follower while it is written, since then it is written in
    smaller entries.
    """
    meter = Meter(timed=False)
    total = job["spec"]["n"] * SIZE
    keys = [uuid.uuid4().hex for _ in range(_COLD + job["logs"])]
    requests = [start(key, {**job["spec"], "hold": 600}) for key in keys]
    started = await open_all(job["port"], requests, meter, enough=total)
    others: list[Stream] = []
    if "followed" in job:
        others = await open_all(job["followed"], [resume(key) for key in keys], meter, enough=total)
    await asyncio.gather(*(stream.reached for stream in started + others))
    await asyncio.sleep(1)
    first, whole = array("q"), array("q")
    for key in keys:
        stream = await connect(job["replay_port"], Stream(resume(key), meter, enough=total))
        first.append(await stream.first - stream.sent_at)
        whole.append(await stream.reached - stream.sent_at)
        stream.close()
        await asyncio.sleep(0.02)
    entries, stored = _stored(job["redis_port"])
    return {
        "failures": len(meter.failed),
        "failed": meter.failed[:3],
        "first": percentile(first[_COLD:], 0.5),
        "whole": percentile(whole[_COLD:], 0.5),
        "entries": entries / len(keys),
        "stored": stored / len(keys),
    }


def _stored(port: int) -> tuple[float, float]:
    """Entries of all of our logs in Redis, and the bytes of memory that they take."""
    client: Any = redis.Redis(port=port)  # redis-py types its answers as both sync and async
    keys: list[bytes] = list(client.scan_iter("*:log:*", count=1000))
    entries = sum(int(client.xlen(key)) for key in keys)
    return entries, sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)


async def requests(job: Job) -> Answer:
    """A plain request again and again, on some connections at once, to each of the servers in turn."""
    loop = asyncio.get_running_loop()
    servers: dict[str, Job] = job["servers"]
    times = {name: array("q") for name in servers}
    used = dict.fromkeys(servers, 0.0)

    async def run(port: int, count: int) -> list[Requests]:
        made = [Requests(request("GET", job["path"]), count) for _ in range(job["at_once"])]
        for each in made:
            await loop.create_connection(lambda each=each: each, "127.0.0.1", port)
        await asyncio.gather(*(each.done for each in made))
        return made

    for server in servers.values():
        await run(server["port"], job["count"])
    for _ in range(job["rounds"]):
        for name, server in servers.items():
            before = cpu(server["pid"])
            for each in await run(server["port"], job["count"]):
                times[name].extend(each.times)
            used[name] += cpu(server["pid"]) - before
    return {
        "cpu": {name: used[name] / len(times[name]) for name in servers},
        "p50": {name: percentile(times[name], 0.5) for name in servers},
    }


JOBS = {job.__name__: job for job in (streams, window, first_byte, replay, requests)}
