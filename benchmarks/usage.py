"""What processes and Redis use: CPU, memory, connections, commands. Linux only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import redis

_TCP = Path("/proc/net/tcp")


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def cpu(pid: int) -> float:
    """Seconds, user and system, of all threads of a process and of its descendants."""
    # The clock of another process's CPU time, as clock_getcpuclockid(3) computes it: it counts in
    # nanoseconds, where /proc/<pid>/stat counts in hundredths of a second.
    return sum(time.clock_gettime((~each << 3) | 2) for each in tree(pid))


def rss(pid: int) -> int:
    """Bytes of memory that a process and its descendants have resident."""
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in tree(pid))
    return pages * 4096


def connections(pid: int, port: int) -> int:
    """Open TCP connections of a process and its descendants to a port of this machine."""
    inodes = {
        fields[9]
        for line in _TCP.read_text().splitlines()[1:]
        if (fields := line.split())[2].endswith(f":{port:04X}") and fields[3] == "01"
    }
    count = 0
    for each in tree(pid):
        for link in Path(f"/proc/{each}/fd").iterdir():
            try:
                target = str(link.readlink())
            except OSError:  # closed since
                continue
            count += target.removeprefix("socket:[").rstrip("]") in inodes
    return count


class Probe:
    """Takes snapshots of some processes, by name, and of a Redis."""

    def __init__(self, pids: dict[str, int], redis_port: int | None) -> None:
        self._pids = pids
        self._port = redis_port
        self._client = None if redis_port is None else redis.Redis(port=redis_port)

    def snapshot(self) -> dict[str, float]:
        """Everything that grows: seconds of CPU, bytes, commands."""
        taken: dict[str, float] = {f"{name}.cpu": cpu(pid) for name, pid in self._pids.items()}
        taken.update({f"{name}.rss": rss(pid) for name, pid in self._pids.items()})
        if self._client is not None:
            info: dict[str, Any] = self._client.info("everything")  # type: ignore[assignment]
            taken["redis.cpu"] = info["used_cpu_user"] + info["used_cpu_sys"]
            taken["redis.commands"] = info["total_commands_processed"]
            taken["redis.in"] = info["total_net_input_bytes"]
            taken["redis.out"] = info["total_net_output_bytes"]
            taken["redis.memory"] = info["used_memory"]
        taken["wall"] = time.monotonic()
        taken["load.cpu"] = time.process_time()
        return taken

    def connections(self) -> dict[str, float]:
        """Connections to Redis, by process."""
        if self._port is None:
            return {}
        return {f"{name}.connections": connections(pid, self._port) for name, pid in self._pids.items()}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}
