"""Fixtures shared by all tests; the machinery is in `testkit/`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from requirements import need_valkey
from testkit.chat import Chat
from testkit.client import End
from testkit.cluster import Cluster
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey

_SUSPICIOUS = re.compile(
    r"never retrieved|was destroyed but it is pending|was never awaited|ResourceWarning|Exception ignored"
)

StartServer = Callable[..., Server]
StartValkey = Callable[..., Valkey]


@pytest.fixture(scope="session")
def valkey_binary() -> str:
    return need_valkey()


@pytest.fixture(scope="session")
def valkey_server(valkey_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server for the whole run; a test that breaks its server starts one with `start_valkey`."""
    server = Valkey(valkey_binary, tmp_path_factory.mktemp("valkey"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def no_key_without_ttl(valkey_server: Valkey) -> Iterator[None]:
    """Whatever a test did, no key may be left that stays for ever."""
    yield
    assert valkey_server.keys_without_ttl() == []


@pytest.fixture
def valkey(valkey_server: Valkey, no_key_without_ttl: None) -> Valkey:
    """The shared server, with nothing in it but leases of live workers."""
    valkey_server.flush()
    return valkey_server


@pytest.fixture
def start_valkey(valkey_binary: str, tmp_path: Path) -> Iterator[StartValkey]:
    """Start servers of the test's own, to be stopped, frozen and restarted."""
    started: list[Valkey] = []

    def start(**options: object) -> Valkey:
        server = Valkey(valkey_binary, tmp_path / f"valkey-{len(started)}", **options)  # type: ignore[arg-type]
        started.append(server)
        server.start()
        return server

    try:
        yield start
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="session")
def cluster_nodes(valkey_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One Cluster for the whole run."""
    cluster = Cluster(valkey_binary, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(cluster_nodes: Cluster) -> Iterator[Cluster]:
    """The shared Cluster, with nothing in it but leases; no key may be left in it that stays for ever."""
    for node in cluster_nodes.nodes:
        node.flush()
    yield cluster_nodes
    assert [key for node in cluster_nodes.nodes for key in node.keys_without_ttl()] == []


@pytest.fixture
def start_cluster(valkey_binary: str, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a Cluster of the test's own, to be broken."""
    started: list[Cluster] = []

    def start(**options: int) -> Cluster:
        cluster = Cluster(valkey_binary, tmp_path / f"cluster-{len(started)}", **options)
        started.append(cluster)
        cluster.start()
        return cluster

    try:
        yield start
    finally:
        for cluster in started:
            cluster.stop()


@dataclasses.dataclass
class Fleet:
    """Every app server that is running, so that a failing test can show what each of them wrote."""

    directory: Path
    servers: list[Server]

    def start(self, *, wait: bool = True, **options: object) -> Server:
        server = Server(self.directory, **options)  # type: ignore[arg-type]
        self.servers.append(server)
        return server.wait_ready() if wait else server

    def kill(self, servers: list[Server]) -> None:
        for server in servers:
            server.kill()
            self.servers.remove(server)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("servers"), [])
    try:
        yield fleet
    finally:
        fleet.kill(list(fleet.servers))


@pytest.fixture
def start_server(fleet: Fleet) -> Iterator[StartServer]:
    """Start app servers of the test's own."""
    before = list(fleet.servers)
    try:
        yield fleet.start
    finally:
        fleet.kill([server for server in fleet.servers if server not in before])


@pytest.fixture(autouse=True)
def quiet_servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """No server may have lost a task or a coroutine meanwhile; on failure, show what they wrote."""
    if not {"fleet", "start_server"} & set(request.fixturenames):
        yield
        return
    fleet: Fleet = request.getfixturevalue("fleet")
    for server in fleet.servers:
        server.mark()
    yield
    for server in fleet.servers:
        if written := server.written():
            print(f"--- {server.kind} on {server.port} wrote:\n{written[-4000:]}")
    noisy = [server.kind for server in fleet.servers if _SUSPICIOUS.search(server.written())]
    assert noisy == [], "a server wrote of lost work (see its output)"


@pytest.fixture
async def chats(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Chat]]:
    """Make chats that clean up after themselves."""
    made: list[Chat] = []
    checked = "no_key_without_ttl" in request.fixturenames
    valkey: Valkey | None = request.getfixturevalue("valkey_server") if checked else None

    def make(*args: str, **options: str) -> Chat:
        made.append(Chat(*args, **options))
        return made[-1]

    yield make
    without_ttl = valkey.keys_without_ttl() if valkey else []  # some streams are still live at this moment
    for chat in made:
        await chat.close()
    assert without_ttl == []


@pytest.fixture
async def chat(chats: Callable[..., Chat]) -> Chat:
    """One chat with an id that no other test uses."""
    return chats()


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two processes that share nothing but Valkey; each parses HTTP its own way."""

    a: Server
    b: Server


@pytest.fixture(scope="session")
def pair(fleet: Fleet, valkey_server: Valkey) -> Pair:
    env = {"REDIS_URL": valkey_server.url}
    a = fleet.start(env=env, wait=False)
    b = fleet.start(env=env, wait=False, http_implementation="h11")
    return Pair(a.wait_ready(), b.wait_ready())


@pytest.fixture(scope="session")
def bare(fleet: Fleet) -> Server:
    """The same app without the middleware."""
    return fleet.start(env={"HARNESS_BARE": "1"})


@pytest.fixture(scope="session")
def bare_bodies() -> dict[Script, bytes]:
    return {}


@pytest.fixture
async def bare_body(bare: Server, bare_bodies: dict[Script, bytes]) -> Callable[[Script], Awaitable[bytes]]:
    """What the app without the middleware answers to a script: the measure of everything else."""

    async def ask(script: Script) -> bytes:
        script = dataclasses.replace(script, pace=0)
        if script not in bare_bodies:
            chat = Chat()
            response = await chat.start(bare, script)
            bare_bodies[script] = await response.rest()
            assert response.end is End.CLEAN
            await chat.close()
        return bare_bodies[script]

    return ask


@pytest.fixture(params=["same", "other"])
def elsewhere(request: pytest.FixtureRequest, pair: Pair) -> Server:
    """The worker that is asked to resume or stop what runs on `pair.a`: the same one, and the other."""
    return pair.a if request.param == "same" else pair.b


@pytest.fixture(scope="session")
def in_memory(fleet: Fleet) -> Server:
    """One process that keeps its logs to itself."""
    return fleet.start(env={"REDIS_URL": "memory://"})


@pytest.fixture(params=["redis", "memory"])
def solo(request: pytest.FixtureRequest, fleet: Fleet) -> Server:
    """One process, over each store."""
    if request.param == "memory":
        return request.getfixturevalue("in_memory")
    request.getfixturevalue("no_key_without_ttl")
    return request.getfixturevalue("pair").a
