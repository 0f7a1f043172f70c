"""What Redis refuses to do for us, said in the log: the command and the remedy, once a minute."""

from __future__ import annotations

import logging
import re
import time

from .keys import name_of

logger = logging.getLogger(__name__)

_PAUSE = 60.0

_CHANNELS = "allow its user the channels, since others get the news late: ACL SETUSER <user> &<prefix>:*"
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
    ("MISCONF", "see to its disk, or set stop-writes-on-bgsave-error to no"),
)
"""Parts of errors, by their texts in Redis 6.2 to Valkey 9, a script's among them, and what helps."""

_said: dict[str, float] = {}
"""When something was said last, in this process."""


def note(command: bytes, error: str) -> None:
    """Say that Redis refused a packed command. Errors that are no refusal are passed over."""
    for part, remedy in _REMEDIES:
        if part in error:
            name = name_of(command)
            if name != "INFO":  # asked for a hint only
                _say(name, error, remedy)
            return


def _say(name: str, error: str, remedy: str) -> None:
    if not once(name, every=_PAUSE):
        return
    denied = re.search(r"run the '([^']+)' command", error)
    command = denied[1] if denied else name.partition(" ")[0].lower()
    logger.warning("Redis refuses %s: %s; %s", name, error, remedy.format(command=command))


def once(what: str, *, every: float = float("inf")) -> bool:
    """Whether this was not asked before in this process, or not for so many seconds."""
    now = time.monotonic()
    if now - _said.get(what, float("-inf")) < every:
        return False
    _said[what] = now
    return True


def forget() -> None:
    """Say everything anew."""
    _said.clear()
