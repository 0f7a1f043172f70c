"""Commands that are sent together, each with what takes its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .resp import Reply

Take = Callable[[list[Reply]], None]


class Batch:
    """Filled by copies, sent by the writer."""

    __slots__ = ("_takers", "commands")

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self._takers: list[tuple[int, Take]] = []

    def add(self, commands: Sequence[bytes], take: Take) -> None:
        """`take` is called with the replies to these commands, after those to the commands before."""
        self.commands += commands
        self._takers.append((len(commands), take))

    def expect(self, count: int, take: Take) -> None:
        """The same for the last `count` commands, which stand in `commands` already; for none, `take` is
        called once the replies to what was added so far are taken."""
        self._takers.append((count, take))

    def answered(self, replies: list[Reply]) -> None:
        """Hand out the replies, in order. Raises what a taker raises; those after it get nothing then."""
        at = 0
        for count, take in self._takers:
            take(replies[at : at + count])
            at += count
