"""Logs written into Redis by hand: what other workers, newer versions and strangers might put there."""

from __future__ import annotations

import dataclasses
from typing import Any

import redis
from testkit.valkey import Valkey

from resumable_asgi.store.redis.keys import SEAL_ID, SEAL_MESSAGE, Keys
from resumable_asgi.stream.log import Head, new_stream_id

SEAL = SEAL_ID.decode()


@dataclasses.dataclass
class RawLog:
    """One log in one slot, by default of a worker that lives."""

    client: redis.Redis
    slot: str
    worker: str = dataclasses.field(default_factory=new_stream_id)
    id: str = dataclasses.field(default_factory=new_stream_id)

    def __post_init__(self) -> None:
        keys = Keys("resumable")
        self.key = keys.log(self.slot, self.id).decode()
        self.pointer = keys.pointer(self.slot).decode()
        self.lease = keys.worker(self.worker).decode()

    def head(self, **fields: Any) -> bytes:
        values: dict[str, Any] = {
            "worker": self.worker,
            "created": 1,
            "status": 200,
            "headers": ((b"content-type", b"text/event-stream"),),
            "key": "c",
        }
        return Head(**{**values, **fields}).to_json()

    def begin(self, head: bytes | None = None, *, alive: bool = True) -> RawLog:
        self.client.xadd(self.key, {"head": self.head() if head is None else head}, id="0-1")
        self.client.pexpire(self.key, 60_000)
        self.client.set(self.pointer, self.id, px=60_000)
        if alive:
            self.client.set(self.lease, "", px=60_000)
        return self

    def add(self, end: int, data: bytes) -> RawLog:
        """One entry, of which nobody is told."""
        self.client.xadd(self.key, {"b": data}, id=f"{end}-0")
        return self

    def publish(self, end: int, data: bytes) -> RawLog:
        self.client.publish(self.key, b"%d:%b" % (end, data))
        return self

    def seal(self, outcome: str = "done", *, told: bool = True) -> RawLog:
        self.client.xadd(self.key, {"outcome": outcome, "detail": ""}, id=SEAL)
        if told:
            self.client.publish(self.key, SEAL_MESSAGE)
        return self

    def followed(self) -> bool:
        """Whether some worker is subscribed."""
        counts: Any = self.client.pubsub_numsub(self.key)
        return counts[0][1] > 0


def raw_client(valkey: Valkey) -> redis.Redis:
    return redis.Redis(port=valkey.port, socket_timeout=5)


def stored(client: redis.Redis, key: bytes) -> tuple[bytes, str | None]:
    """The bytes of a log in Redis, each entry held against its offset, and its outcome."""
    data, outcome = b"", None
    entries: Any = client.xrange(key)
    for entry_id, fields in entries[1:]:
        if entry_id == SEAL_ID:
            outcome = fields[b"outcome"].decode()
        else:
            data += fields[b"b"]
            assert int(entry_id.partition(b"-")[0]) == len(data), "the entries overlap or leave a gap"
    return data, outcome
