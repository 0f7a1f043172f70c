"""Run a command that dies with the process that started it, even if that one is killed.

`python leash.py <pid of the parent> <command>...`; only Linux has the means, elsewhere it just runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit("the parent is gone already")
    os.execvp(command[0], command)


def leashed(command: list[str]) -> list[str]:
    """The command line that runs `command` on a leash held by this process."""
    return [sys.executable, "-S", "-E", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    main()
