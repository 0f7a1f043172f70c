"""The ASGI send itself: what any follower costs, however its bytes come to the process.

One task makes the events, evenly over time, and hands each to the connections whose turn it is; those
wake and send it. There is no framework, no timer per connection, and no Redis.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from ..events import event
from .source import Spec

_TICK = 0.005
"""Seconds: so long that the ticks themselves cost next to nothing."""

_connections: list[_Connection] = []
_feeders: set[asyncio.Task[None]] = set()


class _Connection:
    """As lean as a follower can be: what is pending, and a wake-up."""

    def __init__(self) -> None:
        self.pending: list[bytes] = []
        self.woken: asyncio.Future[None] | None = None

    def push(self, data: bytes) -> None:
        self.pending.append(data)
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)

    async def follow(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self.pending:
                body, self.pending = b"".join(self.pending), []
                await send({"type": "http.response.body", "body": body, "more_body": True})
            else:
                self.woken = loop.create_future()
                await self.woken


async def _feed(gap: float, shared: bool) -> None:
    """Each connection gets an event every `gap` seconds: one after the other, or all at the same time."""
    last = time.monotonic()
    owed, turn = 0.0, 0
    while True:
        await asyncio.sleep(_TICK)
        now = time.monotonic()
        owed += (now - last) / gap * (1 if shared else len(_connections))
        last = now
        for _ in range(int(owed)):
            if shared:
                data = event()
                for connection in _connections:
                    connection.push(data)
            elif _connections:
                turn = (turn + 1) % len(_connections)
                _connections[turn].push(event())
        owed -= int(owed)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    headers: Any = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/plain":
        await send({"type": "http.response.body"})
        return
    query = dict(parse_qsl(scope["query_string"].decode()))
    if not _feeders:
        _feeders.add(asyncio.create_task(_feed(Spec.from_query(query).gap, query.get("shared") == "1")))
    connection = _Connection()
    connection.push(event())
    _connections.append(connection)
    await connection.follow(send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
