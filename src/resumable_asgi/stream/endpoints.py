"""The resume and stop routes, which the middleware answers itself."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Scope, Send

from ..errors import StoreUnavailableError
from ..formats import sse
from ..outcome import Outcome
from ..request.origin import may_read, may_stop
from ..request.position import Position, PositionError, read_position
from ..request.receiver import BodyTooLargeError, Receiver
from .follower import STREAM_ID_HEADER, Follower, Followers, is_shutdown
from .log import Headers, without_credentials
from .store import Found, Store, StreamKey

logger: logging.Logger = logging.getLogger(__name__)

_IN_FLIGHT = 0.25
"""Seconds that an event may take to another process after its client has received it."""

_NO_STORE = {"Cache-Control": "no-store"}

_PRIVATE = (b"cache-control", b"private, no-store")
"""The header of every resume, so that no cache gives one user's stream to another user."""

_NOT_REPLAYED = frozenset(
    (
        # belong to the first connection and its server: RFC 9110, 7.6.1
        b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length date "
        b"server "
        # are for caches, validation and ranges: RFC 9110, 8.8 and 14; RFC 9111, 5
        b"etag last-modified age expires accept-ranges content-range surrogate-control edge-control "
        b"x-accel-expires "
        # belong to the first request
        b"x-request-id request-id x-correlation-id correlation-id x-trace-id traceparent tracestate "
        b"traceresponse server-timing x-amzn-requestid x-amzn-trace-id x-amz-cf-id x-cloud-trace-context "
        b"x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled b3 cf-ray x-process-time x-runtime"
    ).split()
)

_STREAM_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_STOP = 1024 * 1024
_MOST_VALUES = 16 * 1024
"""Bounds of a stop's body in bytes and, roughly, in values: decoding it takes 5 ms at most."""


def replayed_headers(headers: Headers, stream_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of a resume, made of the first response's."""
    kept = [
        (name, value)
        for name, value in without_credentials(headers)
        # Also `CDN-Cache-Control` (RFC 9213), which takes precedence over `Cache-Control`.
        if name.lower() not in _NOT_REPLAYED and not name.lower().endswith(b"cache-control")
    ]
    return [*kept, _PRIVATE, (STREAM_ID_HEADER, stream_id.encode())]


class Resume:
    """One request to a resume route. `stream_key` is None for a request that has no owner or no key."""

    def __init__(
        self,
        scope: Scope,
        client: Receiver,
        *,
        store: Store,
        stream_key: StreamKey | None,
        unavailable_status: int,
    ) -> None:
        self._scope = scope
        self._client = client
        self._store = store
        self._stream_key = stream_key
        self._unavailable_status = unavailable_status

    async def serve(self, send: Send, followers: Followers) -> None:
        answer = await self._find()
        if isinstance(answer, Response):
            await answer(self._scope, self._client.receive, send)
            return
        found, position, stream_key = answer
        start: Message = {
            "type": "http.response.start",
            "status": found.head.status,
            "headers": replayed_headers(found.head.headers, found.id),
        }
        if self._scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body"})
            return
        try:
            await self._follow(found, position, stream_key, start, send, followers)
        except asyncio.CancelledError as error:
            if not is_shutdown(error):
                raise
        finally:
            self._client.close()

    async def _find(self) -> tuple[Found, Position, StreamKey] | Response:
        try:
            position = read_position(Request(self._scope))
            if self._stream_key is None:
                return nothing()
            found = await self._store.find(self._stream_key, position.stream_id)
        except PositionError as error:
            return _refused(400, str(error))
        except StoreUnavailableError:
            return unavailable(self._unavailable_status)
        if found is None:
            logger.debug("nothing to resume at %r", self._scope["path"])
            return nothing()
        if found.outcome is None or position.offset < found.end:
            return found, position, self._stream_key
        if position.offset > found.end and found.outcome is not Outcome.LOST:  # its client may have seen more
            message = f"offset {position.offset} is beyond the end of the stream, which is at {found.end}"
            return _refused(400, message)
        if position.offset > 0 or found.outcome is Outcome.DONE:
            logger.debug("stream %s: nothing left to resume: %s", found.id, found.outcome)
            return nothing(found.outcome)
        return found, position, self._stream_key

    async def _follow(
        self,
        found: Found,
        position: Position,
        stream_key: StreamKey,
        start: Message,
        send: Send,
        followers: Followers,
    ) -> None:
        log = found.log
        route = stream_key.route
        with Follower(
            log,
            0,
            send,
            self._client,
            keepalive=route.keepalive,
            stall_timeout=route.stall_timeout,
            followers=followers,
        ) as follower:
            if not await follower.send(start):
                return
            offset = await _first_offset(follower, found, position)
            if offset is None:
                return  # without a final body, so that the connection breaks
            logger.debug("stream %s: a resume follows it from offset %d", log.id, offset)
            follower.offset = offset
            if not await follower.follow():
                return
            if log.outcome is not Outcome.DONE:
                await follower.end()
                return
            if self._client.attended and may_read(Request(self._scope).headers, stream_key.route.origins):
                await found.delivered()
            await follower.finish()


async def _first_offset(follower: Follower, found: Found, position: Position) -> int | None:
    """The offset to begin at: never between the CR and the LF of one line end.

    None if the log ended before the client's position, or has lost its beginning.
    """
    log = found.log
    if position.event_id is not None:
        offset = await _after_event(follower, found, position.event_id)
    else:
        await follower.wait_for(position.offset)
        offset = position.offset
    if log.start or offset > log.end:
        return None
    if offset == log.end and not sse.is_settled(log.span(max(0, offset - 1), offset)):
        await follower.wait_for(offset + 1)  # nothing can be sent before that anyway
        if log.start:
            return None
    if position.event_id is not None:
        return offset + 1 if log.span(max(0, offset - 1), offset + 1) == b"\r\n" else offset
    return sse.event_start(log.span(0, log.end), offset) if offset else 0


async def _after_event(follower: Follower, found: Found, event_id: bytes) -> int:
    """The offset after the event with that id of the app; 0 if the log does not have it."""
    log = found.log
    await follower.wait_for(found.end)
    offset = sse.after_event_id(log.span(log.start, log.end), event_id)
    if offset is None and log.outcome is None:
        await asyncio.sleep(_IN_FLIGHT)
        offset = sse.after_event_id(log.span(log.start, log.end), event_id)
    return offset or 0


class _StopBodyError(ValueError):
    """The body of a stop is malformed. The message says what is expected."""


async def stop(
    scope: Scope, client: Receiver, *, store: Store, stream_key: StreamKey | None, origins: Collection[str]
) -> Response:
    """Answer a stop request: `{"success": true, "stopped": …}`.

    The body is that of the AI SDK's documentation of "chatbot resume streams". If it has an `activeStreamId`,
    only that stream is stopped.
    """
    if not may_stop(Request(scope).headers, origins):
        return _refused(
            403,
            "a page of another site sent this stop, with its visitor's cookies: send it from a page of this"
            " host, or add that page's origin to `origins` of the ResumableRoute",
            success=False,
        )
    if stream_key is None:
        return _stopped(False)
    try:
        stream_id = _active_stream_id(await Request(scope, client.peek).body())
        if stream_id is not None and not _STREAM_ID.fullmatch(stream_id):
            return _stopped(False)  # the id of no stream
        stopped = await store.stop(stream_key, stream_id)
    except (BodyTooLargeError, ClientDisconnect):
        return _refused(413, "the request body is too large or incomplete", success=False)
    except _StopBodyError as error:
        return _refused(400, str(error), success=False)
    except StoreUnavailableError:
        message = "Redis cannot be reached at the moment, so the stream may still run; try again"
        return _refused(503, message, {"Retry-After": "1"}, success=False)
    logger.debug("a stop at %r stopped %s", scope["path"], "a stream" if stopped else "nothing")
    return _stopped(stopped)


def _stopped(stopped: bool) -> Response:
    return JSONResponse({"success": True, "stopped": stopped}, headers=_NO_STORE)


def _active_stream_id(body: bytes) -> str | None:
    """The `activeStreamId` of a stop's body, None if it names none. Raises `_StopBodyError`."""
    expected = 'send a JSON object such as {"activeStreamId": "<resumable-stream-id>"}, {} or nothing'
    if not body.strip():
        return None
    if len(body) > _LONGEST_STOP or sum(map(body.count, (b"[", b"{", b",", b":"))) > _MOST_VALUES:
        raise _StopBodyError(f"the body holds too much; {expected}")
    try:
        # Numbers are not converted, because that takes long for long ones.
        fields: Any = json.loads(body, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        raise _StopBodyError(f"the body is not valid JSON; {expected}") from None
    if not isinstance(fields, dict):
        raise _StopBodyError(f"the body is not a JSON object; {expected}")
    value = cast("dict[str, object]", fields).get("activeStreamId")
    if value is not None and not isinstance(value, str):
        raise _StopBodyError(f"activeStreamId is not a string; {expected}")
    return value


def nothing(outcome: Outcome | None = None) -> Response:
    """The answer if there is nothing to resume. `outcome` is that of the log, if there is one."""
    known = {} if outcome is None else {"Resumable-Outcome": outcome}
    return Response(status_code=204, headers={**_NO_STORE, **known})


def unavailable(status: int) -> Response:
    """The answer if Redis cannot be reached. `useChat` shows the text to users."""
    if status == 204:
        return nothing()
    message = "Could not check for a running answer. Please try again."
    return PlainTextResponse(message, status_code=status, headers={**_NO_STORE, "Retry-After": "1"})


def _refused(
    status: int,
    message: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    **fields: bool,
) -> Response:
    return JSONResponse({**fields, "error": message}, status_code=status, headers={**_NO_STORE, **headers})
