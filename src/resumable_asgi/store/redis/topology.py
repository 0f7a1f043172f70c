"""Which primary of a Redis Cluster serves which hash slot
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

Address = tuple[str, int]
"""Host and port."""
ConnectTo = Callable[[Address, float], Awaitable[AbstractConnection]]
"""Opens a connection to a node, within a number of seconds."""

_FRESH = 0.02
"""Seconds for which an answer is used again."""
_MOST_ASKED = 4
"""The most nodes that one refresh asks. They are chosen at random."""


class Topology:
    """The map of a Cluster. Nodes are asked in random order until one answers, because each may be down.

    `timeout` bounds a refresh, and the opening of a connection, in seconds. `remap` turns the address of a
    node into one that can be reached from here.
    """

    def __init__(
        self,
        seeds: Iterable[Address],
        connect: ConnectTo,
        timeout: float,
        remap: Callable[[Address], Address] | None = None,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called when a hash slot has another primary than before."""
        self._nodes = list(dict.fromkeys(seeds))
        self._connect = connect
        self._remap: Callable[[Address], Address] = remap or _as_it_is
        self._timeout = timeout
        self._starts: list[int] = []
        self._ranges: list[tuple[int, Address]] = []
        """The last hash slot of each range, and its primary."""
        self._asking: asyncio.Task[None] | None = None
        self._asked = -_FRESH

    @property
    def known(self) -> bool:
        return bool(self._ranges)

    @property
    def primaries(self) -> set[Address]:
        return {address for _, address in self._ranges}

    def primary(self, hash_slot: int) -> Address | None:
        """The primary of a hash slot, or None if it is not known."""
        at = bisect_right(self._starts, hash_slot) - 1
        if at < 0 or self._ranges[at][0] < hash_slot:
            return None
        return self._ranges[at][1]

    async def connect(self, hash_slot: int) -> AbstractConnection:
        """Refresh the map, and connect to the primary of a hash slot. Raises `RedisError`, `OSError`."""
        await self.refresh()
        address = self.primary(hash_slot)
        if address is None:
            raise ConnectionError(f"no node of the Cluster serves hash slot {hash_slot}")
        return await self._connect(address, self._timeout)

    async def refresh(self) -> None:
        """Ask which node serves which hash slot. Raises `RedisError`, `OSError`."""
        if self._asking is None:
            if asyncio.get_running_loop().time() - self._asked < _FRESH:
                return
            self._asking = asyncio.create_task(self._refresh())
            self._asking.add_done_callback(self._refreshed)
        await asyncio.shield(self._asking)

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled() and task.exception() is None:
            self._asked = asyncio.get_running_loop().time()

    async def _refresh(self) -> None:
        nodes = random.sample(self._nodes, min(len(self._nodes), _MOST_ASKED))
        errors: list[str] = []
        for node in nodes:
            try:
                async with asyncio.timeout(self._timeout / (len(nodes) + 1)):
                    answer = await self._ask(node)
                self._take(node, answer)
            except (RedisError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
                errors.append(f"{node[0]}:{node[1]}: {error or type(error).__name__}")
            else:
                return
        raise ConnectionError(f"no node says which node serves which hash slot ({'; '.join(errors)})")

    async def _ask(self, node: Address) -> Any:
        connection: Any = await self._connect(node, self._timeout)
        try:
            await connection.send_command("CLUSTER", "SLOTS")
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)

    def _take(self, asked: Address, answer: Any) -> None:
        """Take the answer to `CLUSTER SLOTS`: `[first, last, primary, replica…]` for each range.

        A node is `[host, port, …]`; the host of the node that was asked is empty.
        """
        ranges = sorted(
            (int(first), int(last), [self._remap(_address(node, asked)) for node in nodes])
            for first, last, *nodes in answer
        )
        if not ranges:
            raise ValueError("no node serves a hash slot")
        served = [(last, nodes[0]) for _, last, nodes in ranges]
        starts = [first for first, _, _ in ranges]
        self._nodes = list(dict.fromkeys([*(node for _, _, nodes in ranges for node in nodes), *self._nodes]))
        if (starts, served) != (self._starts, self._ranges):
            self._starts, self._ranges = starts, served
            self.changed()


def _address(node: Any, asked: Address) -> Address:
    host = cast("bytes", node[0] or b"").decode()
    return (asked[0] if host in ("", "?") else host, int(node[1]))


def _as_it_is(address: Address) -> Address:
    return address
