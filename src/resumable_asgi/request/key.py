"""The stream's key of a request: from its path, query, headers or JSON body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import Request

from ..settings import ask
from ..templates import Action
from .key_scan import KeyScan, KeyState
from .routing import Match
from .unrecorded import Reason

LONGEST_KEY = 512
"""Characters. A request with a longer key is not recorded."""

_SLICE = 8 * 1024
_TURN = 0.001
"""A scan reads the clock after each slice of so many bytes, which takes 1 ms at most, and yields to the event
loop after so many seconds."""


async def read_key(
    match: Match, request: Request, body: AsyncIterator[bytes], turns: asyncio.Lock
) -> str | Reason:
    """The stream's key, or why there is none: 1 to 512 characters that UTF-8 can encode.

    `body` is read only as far as necessary. All scans of one event loop share `turns`, so that one of them at
    most runs in each turn of the loop.

    Raises:
        ConfigurationError: a user's callable returned something other than a string or None.
        starlette.exceptions.HTTPException: a user's callable raised it. It is the answer to the request.
        starlette.requests.ClientDisconnect: the client left before its body was complete.
    """
    route = match.route
    if match.action is not Action.START:
        return _usable(match.params.get(route.key_param, match.params.get("key")))
    if not isinstance(route.key, str):
        return _usable(await ask("key", route.key, request))
    form, _, name = route.key.partition(":")
    if form == "path":
        return _usable(match.params.get(name))
    if form == "query":
        return _usable(request.query_params.get(name))
    if form == "header":
        return _usable(request.headers.get(name))
    if not _is_json(request):
        return Reason.NO_KEY
    scan = KeyScan(name)
    await _scan(scan, body, turns)
    return Reason.BODY_TOO_ODD if scan.state is KeyState.TOO_ODD else _usable(scan.key)


async def _scan(scan: KeyScan, body: AsyncIterator[bytes], turns: asyncio.Lock) -> None:
    async for part in body:
        position = 0
        while position < len(part) or scan.state is KeyState.BUSY:
            async with turns:
                until = time.perf_counter() + _TURN
                while position < len(part) or scan.state is KeyState.BUSY:
                    if scan.state is KeyState.BUSY:
                        scan.feed(b"")
                    else:
                        scan.feed(part[position : position + _SLICE])
                        position += _SLICE
                    if scan.decided:
                        return
                    if time.perf_counter() > until:
                        await asyncio.sleep(0)
                        break


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _usable(key: str | None) -> str | Reason:
    if not key or len(key) > LONGEST_KEY:
        return Reason.NO_KEY
    try:
        key.encode()
    except UnicodeEncodeError:
        return Reason.NO_KEY
    return key
