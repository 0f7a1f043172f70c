"""Every command that is sent to Redis, packed."""

from __future__ import annotations

from typing import NamedTuple

from ...outcome import Outcome
from .keys import CLAIM, CLEAR, FIND, POST, SEAL, Keys
from .resp import pack

_MULTI, _EXEC = pack(b"MULTI"), pack(b"EXEC")


class LogKeys(NamedTuple):
    """The names of one log. Its channel has the name of its key."""

    pointer: bytes
    log: bytes
    id: bytes


class Commands:
    """Names keys and packs commands. Times are in seconds. `sharded`: publications stay on the node of their
    log, as is right in a Cluster."""

    def __init__(self, prefix: str, *, sharded: bool = False) -> None:
        self._keys = Keys(prefix)
        s = b"S" if sharded else b""
        self._publish, self._subscribe, self._unsubscribe = (
            s + b"PUBLISH",
            s + b"SUBSCRIBE",
            s + b"UNSUBSCRIBE",
        )
        self._publish_head = b"*3\r\n$%d\r\n%b" % (len(self._publish), self._publish)

    def log_keys(self, name: str, stream_id: str) -> LogKeys:
        """`name` is that of a `StreamKey`."""
        return LogKeys(self._keys.pointer(name), self._keys.log(name, stream_id), stream_id.encode())

    # -- logs

    def first_claim(self, keys: LogKeys, head: bytes, ttl: float) -> tuple[bytes, ...]:
        """Make a log that nobody knows, and take the pointer: a transaction of five commands."""
        ms = _ms(ttl)
        return (
            _MULTI,
            pack(b"XADD", keys.log, b"0-1", b"head", head),
            pack(b"PEXPIRE", keys.log, ms),
            pack(b"SET", keys.pointer, keys.id, b"PX", ms),
            _EXEC,
        )

    def claim(self, keys: LogKeys, head: bytes, ttl: float, *, findable: bool, latest: bool) -> bytes:
        """Make a log if it is not there, or read back how far it is. `latest`: of its key, that we know."""
        pointer = b"0" if not findable else b"2" if latest else b"1"
        return CLAIM.pack([keys.pointer, keys.log], keys.id, head, _ms(ttl), pointer)

    def append(self, keys: LogKeys, end: int, data: bytes) -> bytes:
        """Add an entry that ends at `end`, which is its id."""
        key, at = keys.log, b"%d-0" % end
        return (
            b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n$%d\r\n%b\r\n$1\r\nb\r\n$%d\r\n%b\r\n"
            % (len(key), key, len(at), at, len(data), data)
        )

    def append_to_window(self, keys: LogKeys, end: int, data: bytes, width: int, worker: str) -> bytes:
        """The same, to a log of which only the last `width` bytes are kept. It has no head any more, so that
        each entry names the worker, for a stop."""
        least, name = b"%d" % max(0, end - width), worker.encode()
        return pack(
            b"XADD", keys.log, b"NOMKSTREAM", b"MINID", b"~", least, b"%d-0" % end, b"b", data, b"w", name
        )

    def publish(self, keys: LogKeys, end: int, data: bytes) -> bytes:
        """Tell those who follow: `<end offset>:<bytes>`."""
        key, news = keys.log, b"%d:%b" % (end, data)
        return b"%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._publish_head, len(key), key, len(news), news)

    def seal(
        self,
        keys: LogKeys,
        outcome: Outcome,
        detail: str = "",
        *,
        retention: float,
        at: int | None = None,
        delivered: float | None = None,
    ) -> bytes:
        """End a log, if it ends at the offset `at` where that is given. `delivered`: for how long a log of
        which a client was handed all may still be found."""
        return SEAL.pack(
            [keys.pointer, keys.log],
            keys.id,
            outcome.encode(),
            detail.encode(),
            _ms(retention),
            keys.log,
            self._publish,
            b"" if at is None else b"%d" % at,
            b"" if delivered is None else _ms(delivered),
        )

    def clear(self, keys: LogKeys, after: float, *, retention: float, hide: bool = False) -> bytes:
        """Let the log be found for `after` more seconds; `hide`: nor by its id."""
        flag = b"1" if hide else b"0"
        return CLEAR.pack([keys.pointer, keys.log], keys.id, _ms(after), flag, _ms(retention))

    def find(self, name: str, stream_id: str) -> bytes:
        """Look up the resumable log of a stream key, or the one of that id there unless it is empty."""
        return FIND.pack([self._keys.pointer(name)], self._keys.log(name, ""), stream_id.encode())

    def read(self, key: bytes, after: int, until: int) -> bytes:
        """The entries that end after one offset and up to another."""
        # The head is 0-1: what is behind `<end>-1` is new.
        return pack(b"XRANGE", key, b"(%d-1" % after, b"%d-1" % until)

    def read_open(self, key: bytes, after: int, count: int) -> bytes:
        """The next `count` entries that end after an offset, the seal among them."""
        return pack(b"XRANGE", key, b"(%d-1" % after, b"+", b"COUNT", b"%d" % count)

    def exists(self, key: bytes) -> bytes:
        return pack(b"EXISTS", key)

    # -- workers

    def worker_key(self, worker: str) -> bytes:
        """The name of a worker's lease."""
        return self._keys.worker(worker)

    def renew(self, worker: str, lease: float) -> bytes:
        """Renew a worker's lease; the answer is its mailbox."""
        return pack(b"SET", self._keys.worker(worker), b"", b"PX", _ms(lease), b"GET")

    def has_lease(self, worker: str) -> bytes:
        return pack(b"EXISTS", self._keys.worker(worker))

    def memory(self) -> bytes:
        """Ask for the server's limit, and for what it does when that is reached."""
        return pack(b"INFO", b"memory")

    def post_stop(self, worker: str, stream_id: bytes) -> bytes:
        """Tell a worker that a stream of its is to end, or was ended."""
        return POST.pack([self._keys.worker(worker)], stream_id)

    # -- subscriptions

    def subscribe(self, *channels: bytes) -> bytes:
        # One each: a Cluster takes no channels of different hash slots together.
        return b"".join(pack(self._subscribe, channel) for channel in channels)

    def unsubscribe(self, channel: bytes) -> bytes:
        return pack(self._unsubscribe, channel)


def _ms(seconds: float) -> bytes:
    return b"%d" % int(1000 * seconds)
