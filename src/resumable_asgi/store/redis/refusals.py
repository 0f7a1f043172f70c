"""Logs which command Redis refuses, with a remedy, once a minute."""

from __future__ import annotations

import logging
import re
import time

from .keys import name_of

logger: logging.Logger = logging.getLogger(__name__)

_PAUSE = 60.0

_CHANNELS = "allow its user the channels, so that chunks are not late: ACL SETUSER <user> &<prefix>:*"
_REMEDIES = (
    ("a channel", _CHANNELS),
    ("of the channels", _CHANNELS),
    ("can't publish", _CHANNELS),
    ("access a key", "allow its user the keys: ACL SETUSER <user> ~<prefix>:*"),
    ("of the keys", "allow its user the keys: ACL SETUSER <user> ~<prefix>:*"),
    ("NOPERM", "allow its user the command: ACL SETUSER <user> +{command}"),
    ("ACL failure", "allow its user the command: ACL SETUSER <user> +{command}"),
    ("can't run this command", "allow its user what the script calls: ACL SETUSER <user> +<command>"),
    ("OOM", "give it more memory (maxmemory), or store less (retention, max_bytes)"),
    ("READONLY", "connect to the primary"),
    ("MISCONF", "check its disk, or set stop-writes-on-bgsave-error to no"),
)
"""Parts of error texts of Redis 6.2 to Valkey 9, also from scripts, and the remedy for each."""

_said: dict[str, float] = {}
"""When each warning was logged last, in this process."""


def note(command: bytes, error: str) -> None:
    """Log that Redis refused a packed command. Other errors are ignored."""
    for part, remedy in _REMEDIES:
        if part in error:
            name = name_of(command)
            if name != "INFO":  # needed for a warning only
                _say(name, error, remedy)
            return


def _say(name: str, error: str, remedy: str) -> None:
    if not once(name, every=_PAUSE):
        return
    denied = re.search(r"run the '([^']+)' command", error)
    command = denied[1] if denied else name.partition(" ")[0].lower()
    logger.warning("Redis refuses %s: %s; %s", name, error, remedy.format(command=command))


def once(what: str, *, every: float = float("inf")) -> bool:
    """Whether this is the first call for `what` in this process, or in the last `every` seconds."""
    now = time.monotonic()
    if now - _said.get(what, float("-inf")) < every:
        return False
    _said[what] = now
    return True


def forget() -> None:
    """Log every warning again."""
    _said.clear()
