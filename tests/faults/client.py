"""The clients: each request and all that came of it, for the checker."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from collections.abc import Callable
from typing import Literal

from testkit import sse
from testkit.client import Connection, Cut, End, Response

from .fleet import Worker
from .ledger import Incarnation

Ending = Literal["clean", "broken", "cut", "never"]
COMMENT = b": keep-alive\n\n"


@dataclasses.dataclass
class Visit:
    """One request for a stream. `position` is what it asked for: an offset, or the id of an app's event."""

    kind: Literal["original", "resume"]
    incarnation: Incarnation
    url: str
    began: float
    position: int | bytes | None = None
    answered: float | None = None
    ended: float | None = None
    status: int | None = None
    error: str = ""
    run: str = ""
    stream_id: str = ""
    body: bytes = b""
    ending: Ending | None = None

    def __str__(self) -> str:
        where = f"{self.kind} {self.url} at {self.incarnation.name}"
        if self.position is not None:
            where += f", position {self.position!r}"
        return f"{where}: {self.status or self.error}, {len(self.body)} bytes, {self.ending}"


@dataclasses.dataclass
class Stop:
    """One request to stop. `stopped` is None when the answer is not known."""

    incarnation: Incarnation
    asked: float
    answered: float | None = None
    status: int | None = None
    stopped: bool | None = None
    wrong_id: bool = False


class Browser:
    """Makes the requests of one conversation and keeps what became of them."""

    def __init__(self, rng: random.Random, key: str, patience: float) -> None:
        self.rng = rng
        self.key = key
        self.visits: list[Visit] = []
        self.stops: list[Stop] = []
        self._patience = patience

    async def post(self, worker: Worker, body: bytes, *, cut_after: int | None) -> Visit:
        visit = self._visit("original", worker, "/api/chat")
        await self._read(visit, worker, "POST", {"content-type": "application/json"}, body, cut_after)
        return visit

    async def resume(
        self, worker: Worker, query: str, headers: dict[str, str], position: int | bytes | None,
        *, cut_after: int | None,
    ) -> Visit:  # fmt: skip
        visit = self._visit("resume", worker, f"/api/chat/{self.key}/stream{query}")
        visit.position = position
        await self._read(visit, worker, "GET", headers, b"", cut_after)
        return visit

    async def stop(self, worker: Worker, stream_id: str | None, *, wrong_id: bool) -> None:
        assert worker.latest is not None
        stop = Stop(worker.latest, time.monotonic(), wrong_id=wrong_id)
        self.stops.append(stop)
        body = b"" if stream_id is None else json.dumps({"activeStreamId": stream_id}).encode()
        method, path = self.rng.choice((("POST", "stop"), ("DELETE", "stream")))
        try:
            connection = await Connection.open(worker.port)
            try:
                url = f"/api/chat/{self.key}/{path}"
                response = await connection.request(method, url, body=body)
                answer = json.loads(await response.rest() or b"{}")
                stop.status = response.status
                stop.stopped = answer.get("stopped") if response.status == 200 else None
            finally:
                await connection.close()
        except (OSError, EOFError, ValueError, AssertionError):
            return
        finally:
            stop.answered = time.monotonic()

    def _visit(self, kind: Literal["original", "resume"], worker: Worker, path: str) -> Visit:
        assert worker.latest is not None
        url = f"http://127.0.0.1:{worker.port}{path}"
        visit = Visit(kind, worker.latest, url, time.monotonic())
        self.visits.append(visit)
        return visit

    async def _read(
        self, visit: Visit, worker: Worker, method: str, headers: dict[str, str], body: bytes,
        cut_after: int | None,
    ) -> None:  # fmt: skip
        try:
            connection = await Connection.open(worker.port)
        except OSError as error:
            visit.error = repr(error)
            visit.ended = time.monotonic()
            return
        try:
            path = visit.url.partition("://")[2].partition("/")[2]
            response = await connection.request(method, "/" + path, headers=headers, body=body)
            visit.answered = time.monotonic()
            visit.status = response.status
            visit.run = response.header("x-run") or ""
            visit.stream_id = response.header("resumable-stream-id") or ""
            await self._read_body(visit, response, cut_after)
        except (OSError, EOFError, ValueError) as error:
            visit.error = repr(error)
        finally:
            visit.ended = time.monotonic()
            await connection.close()

    async def _read_body(self, visit: Visit, response: Response, cut_after: int | None) -> None:
        enough: Callable[[], bool] = lambda: cut_after is not None and len(response.body) >= cut_after  # noqa: E731
        try:
            await response.until(enough, "end", timeout=self._patience)
        except AssertionError:
            visit.ending = "never"
        except (OSError, EOFError, ValueError):  # a chunk that was not complete
            visit.ending = "broken"
        else:
            visit.ending = "broken" if response.end is End.BROKEN else "clean"
            if response.end is None:
                visit.ending = "cut"
                how: Cut = self.rng.choice(("close", "reset", "half"))
                await response.cut(how)
        visit.body = bytes(response.body)


def without_comments(body: bytes) -> bytes:
    """The body less the keep-alives, also one that a cut left incomplete; one inside an event stays."""
    events, rest = sse.split(body)
    kept = b"".join(event for event in events if event != COMMENT)
    return kept if rest and COMMENT.startswith(rest) else kept + rest


async def sleep_until(when: float) -> None:
    await asyncio.sleep(max(0.0, when - time.monotonic()))
