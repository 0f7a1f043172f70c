"""The receiver of one request: the only caller of the server's `receive`.

Servers differ in what a `receive` after the disconnect does, and of two concurrent calls one may lose the
disconnect. So all code that needs a message or the disconnect uses the receiver.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive

logger: logging.Logger = logging.getLogger(__name__)

_READ_AHEAD = 64 * 1024
_SMALL = 4096
"""A shorter held message is joined with the next one, because each message takes some 300 bytes."""


class BodyTooLargeError(Exception):
    """The request body is larger than the part that may be read ahead of the app."""


class Receiver:
    """Holds messages that the app has not taken yet, and knows whether the client has disconnected."""

    __slots__ = (
        "_held",
        "_held_bytes",
        "_max_body_bytes",
        "_pump",
        "_read",
        "_receive",
        "_room",
        "_watchers",
        "body_complete",
        "disconnected",
    )

    def __init__(self, receive: Receive, max_body_bytes: int) -> None:
        self.disconnected: bool = False
        self.body_complete: bool = False
        self._receive = receive
        self._max_body_bytes = max_body_bytes
        self._read = 0
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._watchers: list[Callable[[], None]] = []
        self._pump: asyncio.Task[None] | None = None

    async def peek(self) -> Message:
        """The next message; the app will receive it too. Raises `BodyTooLargeError` past `max_body_bytes`."""
        message = await self._next()
        self._hold(message)
        self._read += len(message.get("body", b""))
        if self._read > self._max_body_bytes:
            raise BodyTooLargeError
        return message

    def body(self) -> BodyParts:
        """The parts of the request body, from the first byte. The app will receive them too."""
        held = [message.get("body", b"") for message in self._held]
        return BodyParts(held, self._read_ahead, self._max_body_bytes)

    async def receive(self) -> Message:
        """A `receive` for an app that is not detached: held messages first, then the server's."""
        return self.take() or await self._next()

    def take(self) -> Message | None:
        """A held message, or None."""
        if not self._held:
            return None
        message = self._held.popleft()
        self._held_bytes -= len(message.get("body", b""))
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return message

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after each message and after the disconnect. Reading starts now."""
        self._watchers.append(changed)
        if self._pump is None and not self.disconnected:
            self._pump = asyncio.create_task(self._read_on())

    def close(self) -> None:
        """Stop reading, because the server's call is about to return."""
        self.disconnected = True
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
        self._notify()
        self._watchers.clear()

    @property
    def attended(self) -> bool:
        """Whether a disconnect would be noticed. It is not while an unread upload is queued before it."""
        return not self.disconnected and self._room is None

    async def _read_on(self) -> None:
        while not self.disconnected:
            try:
                self._hold(await self._next())
            except Exception:
                logger.exception("the server's receive() failed; the client counts as disconnected")
                self.disconnected = True
            self._notify()
            if self._held_bytes > _READ_AHEAD and not self.body_complete:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
                self._room = None

    async def _next(self) -> Message:
        if self.disconnected:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.disconnected = True
        elif not message.get("more_body", False):
            self.body_complete = True
        return message

    async def _read_ahead(self) -> bytes | None:
        """The next part of the body, held for the app. None at its end or after a disconnect."""
        if self.body_complete or self.disconnected:
            return None
        message = await self._next()
        self._hold(message)
        return message.get("body", b"")

    def _notify(self) -> None:
        for changed in self._watchers:
            changed()

    def _hold(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            return
        body = message.get("body", b"")
        self._held_bytes += len(body)
        if self._held and len(before := self._held[-1].get("body", b"")) < _SMALL:
            message = {**message, "body": before + body}
            self._held.pop()
        self._held.append(message)


class BodyParts:
    """Iterates over a request body ahead of the app, as far as its caller asks.

    Not a generator, which the event loop would have to close. Raises `BodyTooLargeError` after `most` bytes.
    """

    __slots__ = ("_held", "_left", "_read_on")

    def __init__(self, held: list[bytes], read_on: Callable[[], Awaitable[bytes | None]], most: int) -> None:
        self._held = held
        self._read_on = read_on
        self._left = most

    def __aiter__(self) -> BodyParts:
        return self

    async def __anext__(self) -> bytes:
        if self._left < 0:
            raise BodyTooLargeError
        part = self._held.pop(0) if self._held else await self._read_on()
        if part is None:
            raise StopAsyncIteration
        fitting = part[: self._left]
        self._left -= len(part)
        if part and not fitting:
            raise BodyTooLargeError
        return fitting
