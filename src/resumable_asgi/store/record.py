"""What the writer knows of one live log: how far its copy in Redis is, and what is still to be done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..log import Log
from ..outcome import Outcome
from . import Slot
from .keys import CLAIM, CLEAR, SEAL, Keys
from .resp import pack

CLAIM_SENT, APPEND_SENT, SEAL_SENT, CLEAR_SENT, BURIAL_SENT = 1, 2, 4, 8, 16


class Record:
    """One log and how far its copy is. As a reader of the log it keeps the bytes not yet copied."""

    __slots__ = (
        "abandoned",
        "claimed",
        "clear_ms",
        "ended_at",
        "fresh",
        "in_step",
        "keys",
        "log",
        "log_key",
        "offset",
        "overflowing",
        "queued",
        "renew_at",
        "seal",
        "sealed",
        "sent",
        "sent_end",
        "settled",
        "slot",
        "timer",
        "watch",
        "watched",
    )

    def __init__(self, slot: Slot, log: Log, keys: Keys) -> None:
        loop = asyncio.get_running_loop()
        self.slot = slot
        self.log = log
        self.keys = [keys.pointer(slot.name), keys.log(slot.name, log.id)]
        self.log_key = self.keys[1]
        self.offset = 0
        """Bytes of the log that Redis is known to hold."""
        self.fresh = True
        """Whether the first claim has not been sent yet."""
        self.in_step = False
        self.watched = False
        """Whether somebody follows from another process."""
        self.queued = False
        self.sent = 0
        """What of it is on the trip under way: `CLAIM_SENT` and so on."""
        self.sent_end = 0
        self.overflowing = False
        self.abandoned = False
        """Whether the copy can no longer be completed, and is only to be sealed."""
        self.seal: tuple[Outcome, str] | None = None
        """The seal that the run asks for."""
        self.sealed = False
        """Whether the copy is sealed, by whomever."""
        self.ended_at = 0.0
        self.clear_ms: int | None = None
        """How long a delivered log may still be found; None while it is not delivered."""
        self.renew_at = 0.0
        self.claimed: asyncio.Future[None] = loop.create_future()
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when there is nothing more to do for the copy."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends the log here, should Redis not answer the seal in time."""
        self.watch: Callable[[], None] | None = None

    @property
    def live_ms(self) -> int:
        """The TTL of a live log: long enough to be kept for `retention` after its worker's death."""
        return int(2000 * self.slot.route.retention)

    def claim_command(self) -> bytes:
        fresh, self.fresh = self.fresh, False
        return CLAIM.pack(
            self.keys,
            self.log.id.encode(),
            self.log.head.to_json(),
            b"%d" % self.live_ms,
            b"1" if fresh else b"0",
            b"0" if self.overflowing else b"1",
        )

    def append_commands(self, data: bytes) -> tuple[bytes, bytes]:
        """One entry, and its publication: an entry's id is the offset after it, and while nobody is known to
        follow, that alone is published."""
        key, end = self.log_key, b"%d" % self.sent_end
        if self.overflowing:
            least = b"%d" % max(0, self.sent_end - self.slot.route.max_bytes)
            append = pack(b"XADD", key, b"NOMKSTREAM", b"MINID", b"~", least, end + b"-0", b"b", data)
        else:
            append = (
                b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n$%d\r\n%b-0\r\n$1\r\nb\r\n$%d\r\n%b\r\n"
                % (len(key), key, len(end) + 2, end, len(data), data)
            )
        news = data if self.watched else b""
        publish = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b:%b\r\n" % (
            len(key),
            key,
            len(end) + 1 + len(news),
            end,
            news,
        )
        return append, publish

    def seal_command(self, outcome: Outcome, detail: str, *, anywhere: bool) -> bytes:
        return SEAL.pack(
            self.keys,
            self.log.id.encode(),
            outcome.encode(),
            detail.encode(),
            b"%d" % int(1000 * self.slot.route.retention),
            self.log_key,
            b"PUBLISH",
            b"" if anywhere else b"%d" % self.log.end,
        )

    def clear_command(self) -> bytes:
        hide = b"1" if self.overflowing else b"0"
        return CLEAR.pack(self.keys, self.log.id.encode(), b"%d" % (self.clear_ms or 0), hide)


def resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
