"""What the middleware costs where it has nothing to do."""

from __future__ import annotations

import contextlib

from ..inprocess import pass_through
from ..lab import Column, Lab, Scenario
from ..servers import BARE, MEMORY, REDIS

NO_MIDDLEWARE = "no middleware"
UNCONFIGURED = "an unconfigured route"


def _in_process(lab: Lab) -> None:
    cost, ratios = pass_through(lab.sizes.rounds)
    lab.add("cpu", NO_MIDDLEWARE, cost)
    for row, ratio in ratios.items():
        lab.add("ratio", row, ratio)


def _http(lab: Lab) -> None:
    with lab.redis() as redis, contextlib.ExitStack() as stack:
        servers: dict[str, dict[str, int]] = {}
        for variant in lab.in_turn((BARE, MEMORY, REDIS)):
            server = stack.enter_context(lab.serve(variant, redis))
            servers[variant.label] = {"port": server.port, "pid": server.pid}
        job = {"servers": servers, "path": "/plain", "at_once": 8, "rounds": 20}
        got = lab.load("requests", **job, count=lab.sizes.requests)
        for row in servers:
            lab.add("cpu", row, 1e6 * got["cpu"][row])
            lab.add("p50", row, got["p50"][row] / 1000)


IN_PROCESS = Scenario(
    "in-process",
    "A request that has nothing to do with streams, in process",
    "A Starlette app that answers a small JSON; calls with and without the middleware in turn.",
    (Column("cpu", "CPU, µs per request", 2), Column("ratio", "over no middleware", 4)),
    _in_process,
)

HTTP = Scenario(
    "unconfigured",
    "The same over HTTP",
    "A route that is not configured, on eight connections that are kept open.",
    (Column("cpu", "CPU, µs per request", 1), Column("p50", "p50, ms", 3)),
    _http,
)
