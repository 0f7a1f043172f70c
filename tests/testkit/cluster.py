"""A real Redis Cluster on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from .process import free_port
from .valkey import Valkey
from .wait import wait_until_sync

_SLOTS = 16384


class Cluster:
    """`nodes` are the primaries, each with a share of the hash slots, then replicas of the first ones."""

    def __init__(
        self, binary: str, directory: Path, *, primaries: int = 3, replicas: int = 0, node_timeout: int = 1000
    ) -> None:
        """`node_timeout`, in milliseconds: a node that is silent for longer counts as down."""
        self._bus_ports = [free_port() for _ in range(primaries + replicas)]
        self._primaries = primaries
        self.nodes = [
            Valkey(binary, directory / f"node-{number}", arguments=_arguments(bus_port, node_timeout))
            for number, bus_port in enumerate(self._bus_ports)
        ]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start the nodes, make a Cluster of them, and wait until all of them know of it."""
        for node in self.nodes:
            node.start()
        bounds = [_SLOTS * number // self._primaries for number in range(self._primaries + 1)]
        for number, node in enumerate(self.nodes[: self._primaries]):
            ask(node, "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for epoch, node in enumerate(self.nodes, 1):
            ask(node, "SET-CONFIG-EPOCH", epoch)
        for node, bus_port in zip(self.nodes[1:], self._bus_ports[1:], strict=True):
            ask(self.nodes[0], "MEET", "127.0.0.1", node.port, bus_port)
        wait_until_sync(self._whole, what="the nodes to know each other", timeout=30)
        for replica, primary in zip(self.nodes[self._primaries :], self.nodes, strict=False):
            ask(replica, "REPLICATE", ask(primary, "MYID"))
        for replica in self.nodes[self._primaries :]:
            wait_until_sync(
                lambda node=replica: _replicates(node), what="a replica to be in step", timeout=30
            )
        wait_until_sync(self._whole, what="the Cluster to be whole", timeout=30)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def primary_of(self, key: str | bytes) -> Valkey:
        """The node that serves a key."""
        slot = _hash_slot(key)
        for first, last, (_, port, *_), *_ in ask(self.nodes[0], "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(key)

    def move(self, key: str | bytes, to: Valkey) -> None:
        """Move the hash slot of a key, and all keys in it, to another primary."""
        source = self.primary_of(key)
        self.carry_keys(key, to)
        for node in (to, source):
            self.set_primary(key, to, at=node)

    def carry_keys(self, key: str | bytes, to: Valkey) -> None:
        """The first part of a move: from now on the old primary answers ASK."""
        slot, source = _hash_slot(key), self.primary_of(key)
        ask(to, "SETSLOT", slot, "IMPORTING", ask(source, "MYID"))
        ask(source, "SETSLOT", slot, "MIGRATING", ask(to, "MYID"))
        keys = ask(source, "GETKEYSINSLOT", slot, 1000)
        if keys:
            with source.client() as client:
                client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)

    def set_primary(self, key: str | bytes, to: Valkey, *, at: Valkey) -> None:
        """The second part: tell the node `at` who serves the hash slot; it tells the others."""
        ask(at, "SETSLOT", _hash_slot(key), "NODE", ask(to, "MYID"))

    def _whole(self) -> bool:
        return all(
            ask(node, "INFO").get("cluster_state") == "ok"
            and len(ask(node, "NODES")) == len(self.nodes)
            and sum(last - first + 1 for first, last, *_ in ask(node, "SLOTS")) == _SLOTS
            for node in self.nodes
        )


def ask(node: Valkey, *command: Any) -> Any:
    """The answer of one node to a CLUSTER command."""
    with redis.Redis(port=node.port, decode_responses=True, socket_timeout=5) as client:
        if command[0] == "SLOTS":  # redis-py would make a dictionary of it
            client.response_callbacks.pop("CLUSTER SLOTS", None)
            return client.execute_command("CLUSTER SLOTS")
        return client.execute_command(f"CLUSTER {command[0]}", *command[1:])


def _hash_slot(key: str | bytes) -> int:
    return key_slot(key if isinstance(key, bytes) else key.encode())


def _arguments(bus_port: int, node_timeout: int) -> list[str]:
    options = {
        "enabled": "yes",
        "config-file": "nodes.conf",
        "node-timeout": str(node_timeout),
        "port": str(bus_port),
    }
    arguments = [word for name, value in options.items() for word in (f"--cluster-{name}", value)]
    return [*arguments, "--repl-diskless-sync-delay", "0"]


def _replicates(node: Valkey) -> bool:
    with node.client() as client:
        return client.info("replication").get("master_link_status") == "up"
