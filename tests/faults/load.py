"""The load: conversations, each of one stream (at times two of one key), those who follow it, and stops."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable

from testkit import sse

from .client import Browser, Visit, sleep_until, without_comments
from .fleet import Worker
from .plan import Plan

PATIENCE = 30.0
"""Seconds over a stream's own duration after which a client that is still open hangs."""


class Conversation:
    """One key, from the first request to the last answer."""

    def __init__(self, seed: str, workers: list[Worker], *, longest: float, followers: int) -> None:
        self.rng = rng = random.Random(seed)
        self.key = f"k{seed}"
        self.plans = {f"r{seed}": Plan.draw(rng, f"r{seed}", self.key, longest=longest)}
        if rng.random() < 0.1:
            self.plans[f"r{seed}b"] = Plan.draw(rng, f"r{seed}b", self.key, longest=longest)
        self.first = next(iter(self.plans.values()))
        self.browser = Browser(rng, self.key, self.first.duration + PATIENCE)
        self._workers = workers
        self._followers = followers
        self._known: dict[str, bytes] = {}
        """The longest part of each log, by stream id, that a client holds from the first byte on."""

    async def run(self) -> None:
        rng, duration, now = self.rng, self.first.duration, time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, plan in enumerate(self.plans.values()):
                group.create_task(self._start(plan, now + number * rng.uniform(0, duration)))
            for _ in range(rng.randint(self._followers // 2, self._followers + self._followers // 2)):
                group.create_task(self._follow(now + rng.uniform(0.0, duration * 1.1 + 0.5)))
            if rng.random() < 0.12:
                group.create_task(self._stop(now + rng.uniform(0.1, duration * 1.1)))

    def _any_worker(self) -> Worker:
        ready = [worker for worker in self._workers if worker.ready]
        return self.rng.choice(ready if ready and self.rng.random() < 0.95 else self._workers)

    async def _start(self, plan: Plan, when: float) -> None:
        await sleep_until(when)
        body = json.dumps({**plan.to_mapping(), "id": self.key}).encode()
        size = sum(len(chunk) for _, chunk in plan.steps())
        cut_after = self.rng.randrange(size) if self.rng.random() < 0.5 else None
        visit = await self.browser.post(self._any_worker(), body, cut_after=cut_after)
        self._learn(visit, 0)

    async def _follow(self, when: float) -> None:
        """Follow; when cut, come back to where it was, up to three times."""
        await sleep_until(when)
        again: tuple[str, int] | None = None
        for _ in range(3):
            position, query, headers = self._draw_position() if again is None else self._back_at(*again)
            cut_after = self.rng.randrange(1, 4000) if self.rng.random() < 0.35 else None
            visit = await self.browser.resume(
                self._any_worker(), query, headers, position, cut_after=cut_after
            )
            if isinstance(position, bytes) or visit.status != 200:
                return
            start = self._learn(visit, position or 0)
            if visit.ending not in ("cut", "broken"):
                return
            again = (visit.stream_id, start + len(without_comments(visit.body)))
            await asyncio.sleep(self.rng.uniform(0.0, 0.3))

    def _back_at(self, stream_id: str, offset: int) -> tuple[int, str, dict[str, str]]:
        if self.rng.random() < 0.5:
            return offset, f"?offset={offset}", {}
        return offset, "", {"Last-Event-ID": f"{stream_id}.{offset}"}

    def _draw_position(self) -> tuple[int | bytes | None, str, dict[str, str]]:
        rng = self.rng
        stream_id, known = max(self._known.items(), key=lambda item: len(item[1]), default=("", b""))
        choices: list[Callable[[], tuple[int | bytes | None, str, dict[str, str]]]] = [
            lambda: (None, "", {}),
            lambda: (None, rng.choice(("", "?offset=", "?offset=-1")), {}),
        ]
        if known:
            starts = [0]
            for event in sse.split(known)[0]:
                starts.append(starts[-1] + len(event))
            anywhere, ahead = rng.randrange(len(known)), len(known) + rng.randrange(400)
            choices += [
                lambda: self._back_at(stream_id, anywhere),
                lambda: self._back_at(stream_id, rng.choice(starts)),
                lambda: self._back_at(stream_id, ahead),
            ]
            if self.first.dialect == "plain" and len(self.plans) == 1:
                choices.append(lambda: self._app_id(known))
        return rng.choice(choices)()

    def _app_id(self, known: bytes) -> tuple[int | bytes | None, str, dict[str, str]]:
        ids = sse.ids(sse.split(known)[0][-1]) if sse.split(known)[0] else []
        if not ids:
            return None, "", {}
        return ids[0].encode(), "", {"Last-Event-ID": ids[0]}

    async def _stop(self, when: float) -> None:
        await sleep_until(when)
        ids = [visit.stream_id for visit in self.browser.visits if visit.stream_id]
        wrong = self.rng.random() < 0.15
        stream_id = "0" * 32 if wrong else (ids[-1] if ids and self.rng.random() < 0.5 else None)
        await self.browser.stop(self._any_worker(), stream_id, wrong_id=wrong)

    def _learn(self, visit: Visit, position: int) -> int:
        """Keep what the visitor holds; returns the offset at which its body began."""
        body = without_comments(visit.body)
        known = self._known.get(visit.stream_id, b"")
        start = 0
        if position:
            boundaries = [0]
            for event in sse.split(known)[0]:
                boundaries.append(boundaries[-1] + len(event))
            start = max(boundary for boundary in boundaries if boundary <= position)
            if len(known) < position:
                return position  # it was ahead of all others: where its body began is not known here
        if visit.stream_id and start + len(body) > len(known) and start <= len(known):
            self._known[visit.stream_id] = known[:start] + body
        return start


async def generate(
    make: Callable[[int], Conversation],
    finished: Callable[[Conversation], None],
    *,
    rate: float,
    until: float,
    rng: random.Random,
    most: int,
) -> None:
    """Start conversations until the time is up, `rate` a second, and wait for all of them to end."""
    running: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    def ended(conversation: Conversation, task: asyncio.Task[None]) -> None:
        running.discard(task)
        if task.exception() is not None:
            failures.append(task.exception() or RuntimeError())
        else:
            finished(conversation)

    number = 0
    while time.monotonic() < until and not failures:
        await asyncio.sleep(rng.expovariate(rate))
        if len(running) >= most:
            continue
        number += 1
        conversation = make(number)
        task = asyncio.create_task(conversation.run())
        running.add(task)
        task.add_done_callback(lambda task, conversation=conversation: ended(conversation, task))
    if running:
        await asyncio.wait(running, timeout=PATIENCE + 30)
    if failures:
        raise failures[0]
    if running:
        raise TimeoutError(f"{len(running)} conversations did not end")
