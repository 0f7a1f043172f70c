"""How much later the first byte comes."""

from __future__ import annotations

import contextlib

from ..lab import Column, Lab, Scenario
from ..servers import ASSISTANT, BARE, FASTAPI, MEMORY, NODE, NPM, REDIS, TEE

ROUND_TRIP = "a Redis round trip (SET)"


def _first_byte(lab: Lab) -> None:
    with lab.redis() as redis, contextlib.ExitStack() as stack:
        ports: dict[str, int] = {}
        for variant in lab.in_turn((BARE, MEMORY, REDIS, TEE, FASTAPI, ASSISTANT, NODE, NPM)):
            with lab.noting(variant):
                ports[variant.label] = stack.enter_context(lab.serve(variant, redis)).port
        job = {"ports": ports, "redis_port": redis.port, "warm_up": lab.sizes.warm_up}
        got = lab.load("first_byte", **job, count=lab.sizes.first_bytes)
        for row, value in got["medians"].items():
            lab.add("p50", row, value / 1000)
        lab.add("p50", ROUND_TRIP, got["round_trip"] / 1000)


FIRST_BYTE = Scenario(
    "first-byte",
    "First byte",
    "Single requests on idle servers, to each variant in turn: from the request to the first byte.",
    (Column("p50", "p50, ms", 3),),
    _first_byte,
)
