"""The resume and stop routes, which the middleware serves itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Scope, Send

from . import sse
from .client import BodyTooLargeError, Client
from .errors import StoreUnavailableError
from .follower import STREAM_ID_HEADER, Follower, Followers, is_shutdown
from .log import Headers
from .outcome import Outcome
from .position import Position, PositionError, read_position
from .store import Found, Slot, Store

_UNDER_WAY = 0.25
"""Seconds that an event which its client has seen may take to reach another process."""

_NO_STORE = {"Cache-Control": "no-store"}

_NOT_REPLAYED = frozenset(
    (
        # of the first connection, its authentication and its server: RFC 9110, 7.6.1
        b"connection keep-alive proxy-authenticate proxy-authentication-info proxy-connection te trailer "
        b"transfer-encoding upgrade content-length date server set-cookie set-cookie2 www-authenticate "
        b"authentication-info "
        # of the first request
        b"x-request-id request-id x-correlation-id correlation-id x-trace-id traceparent tracestate "
        b"traceresponse server-timing x-amzn-requestid x-amzn-trace-id x-amz-cf-id x-cloud-trace-context "
        b"x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled b3 cf-ray x-process-time x-runtime"
    ).split()
)


def replayed_headers(headers: Headers, stream_id: str) -> list[tuple[bytes, bytes]]:
    """What a resume answers of the first response's headers."""
    kept = [(name, value) for name, value in headers if name.lower() not in _NOT_REPLAYED]
    return [*kept, (STREAM_ID_HEADER, stream_id.encode())]


class Resume:
    """One request to a resume route. `slot` is None for a request that has no owner or no key."""

    def __init__(
        self, scope: Scope, client: Client, *, store: Store, slot: Slot | None, unavailable_status: int
    ) -> None:
        self._scope = scope
        self._client = client
        self._store = store
        self._slot = slot
        self._unavailable_status = unavailable_status

    async def serve(self, send: Send, among: Followers) -> None:
        answer = await self._find()
        if isinstance(answer, Response):
            await answer(self._scope, self._client.receive, send)
            return
        found, position, slot = answer
        start: Message = {
            "type": "http.response.start",
            "status": found.log.head.status,
            "headers": replayed_headers(found.log.head.headers, found.log.id),
        }
        if self._scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body"})
            return
        try:
            await self._follow(found, position, slot, start, send, among)
        except asyncio.CancelledError as error:
            if not is_shutdown(error):
                raise
        finally:
            self._client.close()

    async def _find(self) -> tuple[Found, Position, Slot] | Response:
        try:
            position = read_position(Request(self._scope))
            if self._slot is None:
                return nothing()
            found = await self._store.find(self._slot, position.stream_id)
        except PositionError as error:
            return JSONResponse({"error": str(error)}, status_code=400, headers=_NO_STORE)
        except StoreUnavailableError:
            return unavailable(self._unavailable_status)
        if found is None:
            return nothing()
        if found.outcome is not None and position.offset > found.end:
            message = f"offset {position.offset} is beyond the end of the stream, which is at {found.end}"
            return JSONResponse({"error": message}, status_code=400, headers=_NO_STORE)
        if found.outcome is Outcome.DONE and position.offset == found.end:
            return nothing()
        return found, position, self._slot

    async def _follow(
        self, found: Found, position: Position, slot: Slot, start: Message, send: Send, among: Followers
    ) -> None:
        log = found.log
        route = slot.route
        with Follower(
            log,
            0,
            send,
            self._client,
            keepalive=route.keepalive,
            stall_timeout=route.stall_timeout,
            among=among,
        ) as follower:
            if not await follower.send(start):
                return
            if position.event_id is not None:
                follower.offset = await _after_event(follower, found, position.event_id)
            else:
                await follower.wait_for(position.offset)
                # A log that ended short of what its client has seen has nothing more for it.
                follower.offset = min(position.offset, log.end)
                if 0 < follower.offset == position.offset:
                    follower.offset = sse.event_start(log.span(0, log.end), position.offset)
            if log.start:
                return  # it has outgrown its limit meanwhile, and is no longer whole
            if not await follower.follow():
                return
            if log.outcome is not Outcome.DONE:
                await follower.end()
                return
            if self._client.attended:
                await self._store.delivered(slot, log)
            await follower.finish()


async def _after_event(follower: Follower, found: Found, event_id: bytes) -> int:
    """Where to go on after the event with an id of the app's own; 0 if the log does not come to have it."""
    log = found.log
    await follower.wait_for(found.end)
    offset = sse.after_event_id(log.span(0, log.end), event_id)
    if offset is None and log.outcome is None:
        await asyncio.sleep(_UNDER_WAY)
        offset = sse.after_event_id(log.span(0, log.end), event_id)
    return offset or 0


async def stop(scope: Scope, client: Client, *, store: Store, slot: Slot | None) -> Response:
    """Answer a stop request: `{"success": true, "stopped": …}`.

    The body is that of the AI SDK's "chatbot resume streams" documentation: an `activeStreamId` in it
    that is not the running stream's stops nothing.
    """
    try:
        body = await Request(scope, client.peek).body()
        stopped = slot is not None and await store.stop(slot, _active_stream_id(body))
    except (BodyTooLargeError, ClientDisconnect):
        return JSONResponse(
            {"success": False, "error": "the request body is too large or incomplete"}, status_code=413
        )
    except StoreUnavailableError:
        return unavailable(503)
    return JSONResponse({"success": True, "stopped": stopped}, headers=_NO_STORE)


def _active_stream_id(body: bytes) -> str | None:
    try:
        fields: Any = json.loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    value: object = cast("dict[str, object]", fields).get("activeStreamId")
    return value if isinstance(value, str) else None


def nothing() -> Response:
    """There is nothing to resume."""
    return Response(status_code=204, headers=_NO_STORE)


def unavailable(status: int) -> Response:
    """It cannot be known whether there is something to resume."""
    if status == 204:
        return nothing()
    message = "it cannot be told at the moment whether there is a stream to resume; try again"
    return JSONResponse({"error": message}, status_code=status, headers={**_NO_STORE, "Retry-After": "1"})
