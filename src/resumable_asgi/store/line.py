"""The connection that is written over: a new one when there is trouble with it, as long as it is needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from .record import RedisRefusedError
from .resp import Reply
from .wire import Link, Wire, WireLostError

logger = logging.getLogger(__name__)

_LOST = "the connection to Redis was lost"
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Line:
    """Calls `opened` at each new connection, and `failed` after each trouble while it is `needed`."""

    def __init__(
        self,
        link: Link,
        *,
        opened: Callable[[], None],
        failed: Callable[[], None],
        needed: Callable[[], bool],
    ) -> None:
        self.down = False
        """Whether Redis could not be written to at the last attempt."""
        self.refused_at = float("-inf")
        """When Redis last answered, but refused what it was given."""
        self._link = link
        self._opened = opened
        self._failed = failed
        self._needed = needed
        self._wire: Wire | None = None
        """The connection in use: `opened` was called for it, and there was no trouble since."""
        self._keeper: asyncio.Task[None] | None = None
        self._trouble: asyncio.Future[Exception] | None = None
        self._pause = _FIRST_PAUSE

    @property
    def open(self) -> bool:
        return self._wire is not None

    def need(self) -> None:
        """Have a connection, and keep it."""
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())

    def call(self, commands: list[bytes], handle: Callable[[list[Reply]], None]) -> None:
        """Send commands, and have the replies handled unless the connection is lost before they come.

        A line that is not open sends nothing. What `handle` raises counts as trouble.
        """
        if self._wire is not None:
            self._wire.call(commands, partial(self._answered, handle))

    async def aclose(self) -> None:
        self._wire = None
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._link.close()

    def _answered(self, handle: Callable[[list[Reply]], None], replies: list[Reply] | None) -> None:
        if replies is None:
            self._fall(WireLostError(_LOST))
            return
        try:
            handle(replies)
        except RedisRefusedError as error:
            self.refused_at = asyncio.get_running_loop().time()
            self._fall(error)
        except Exception as error:  # writing must go on, whatever Redis answers
            logger.exception("an answer of Redis could not be understood")
            self._fall(error)
        else:
            if self.down:
                logger.info("Redis is back; live streams are recorded again")
            self.down = False
            self._pause = _FIRST_PAUSE

    def _fall(self, error: Exception) -> None:
        """The connection in use is of no use any more."""
        if self._trouble is not None and not self._trouble.done():
            self._trouble.set_result(error)

    async def _keep(self) -> None:
        while True:
            try:
                wire = await self._link.open()
            except WireLostError as lost:
                error: Exception = lost
            else:
                error = await self._use(wire)
            if not self._needed():
                return
            if not self.down:
                logger.warning("streams go on unrecorded until Redis is back: %s", error)
            self.down = True
            self._failed()
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _use(self, wire: Wire) -> Exception:
        """Write over this connection until there is trouble with it, which is returned."""
        self._trouble = trouble = asyncio.get_running_loop().create_future()
        wire.lost.add_done_callback(lambda _: trouble.done() or trouble.set_result(WireLostError(_LOST)))
        self._wire = wire
        self._opened()
        try:
            return await trouble
        finally:
            self._wire = self._trouble = None
            wire.abort()  # it may be one to a primary that has become a replica
