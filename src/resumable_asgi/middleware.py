"""The ASGI shell: tells starts, resumes and stops from other requests, and handles startup and shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import StoreUnavailableError
from .request.key import read_key
from .request.owner import Owners, stream_key_name
from .request.receiver import BodyTooLargeError, Receiver
from .request.routing import Match, Router
from .request.unrecorded import Reason, Unrecorded
from .settings import ResumableRoute, Settings
from .setup_checks import SetupChecks
from .sse_starlette import let_sse_starlette_wait
from .store.open import open_store
from .stream import endpoints as resume
from .stream.follower import Followers
from .stream.runs import Runs
from .stream.start import Start
from .stream.store import Store, StreamKey
from .templates import Action

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

logger: logging.Logger = logging.getLogger(__name__)

_UNRECORDED_BODIES = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
"""ASGI extensions with which an app sends a body that the middleware does not see."""


class _Runtime:
    """The state of one event loop."""

    def __init__(self, store: Store, followers: Followers) -> None:
        self.loop = asyncio.get_running_loop()
        self.store = store
        self.followers = followers
        self.runs = Runs()
        self.scan_turns = asyncio.Lock()


class ResumableStreamMiddleware:
    """Makes the event streams of configured routes resumable; `Settings` lists the options.

    `settings` defaults to `Settings.from_env()`. If a `redis` client is given, its connection settings are
    used in place of `settings.redis_url`; the client is never closed. With neither, nothing is recorded.

    Raises:
        ConfigurationError: a setting has a wrong value.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings | None = None,
        redis: Redis | RedisCluster | None = None,
    ) -> None:
        self.app = app
        self._settings = settings = Settings.from_env() if settings is None else settings
        self._open = open_store(settings, redis)
        self._router = Router(settings.routes)
        self._prefixes = self._router.prefixes
        self._owners = Owners()
        self._unrecorded = Unrecorded()
        self._checks = SetupChecks(app, settings)
        self._runtime: _Runtime | None = None
        self._has_lifespan = False
        if self._open is None:
            logger.warning("streams are not resumable: set REDIS_URL, or Settings(redis_url=...)")
        else:
            self._checks.at_construction(in_memory=redis is None and settings.redis_url == "memory://")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # Most requests belong to no route: this test is cheaper than the router's.
            near = scope["path"].startswith(self._prefixes) or scope.get("root_path")
            if near and (match := self._router.match(scope)) is not None:
                await self._serve(match, scope, receive, send)
            else:
                await self.app(scope, receive, send)
        elif scope["type"] == "lifespan" and self._open is not None:
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, match: Match, scope: Scope, receive: Receive, send: Send) -> None:
        if self._open is None:
            await self._serve_nothing(match, scope, receive, send)
            return
        runtime = self._current_runtime()
        self._checks.at_start(scope, self)
        self._checks.at_request(scope, start=match.action is Action.START)
        client = Receiver(receive, self._settings.max_body_bytes)
        try:
            identity = await self._identify(runtime, match, scope, client)
            if match.start is not None and not await _is_running(runtime.store, identity):
                match = match.start
                identity = await self._identify(runtime, match, scope, client)
        except HTTPException as error:
            await _refusal(error)(scope, client.receive, send)
            return
        if match.action is Action.START:
            await self._start(runtime, match, identity, scope, client, send)
            return
        stream_key = identity[0] if isinstance(identity, tuple) else None
        if match.action is Action.STOP:
            answer = await resume.stop(
                scope, client, store=runtime.store, stream_key=stream_key, origins=match.route.origins
            )
            await answer(scope, client.receive, send)
            return
        request = resume.Resume(
            scope,
            client,
            store=runtime.store,
            stream_key=stream_key,
            unavailable_status=self._settings.unavailable_status,
        )
        await request.serve(send, runtime.followers)

    async def _serve_nothing(self, match: Match, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer without a store: nothing is recorded, and front ends that resume continue to work."""
        if match.action is Action.START or match.start is not None:
            await self.app(scope, receive, send)
        elif match.action is Action.STOP:
            answer = JSONResponse({"success": True, "stopped": False}, headers={"Cache-Control": "no-store"})
            await answer(scope, receive, send)
        else:
            await resume.nothing()(scope, receive, send)

    async def _start(
        self,
        runtime: _Runtime,
        match: Match,
        identity: tuple[StreamKey, str] | Reason | None,
        scope: Scope,
        client: Receiver,
        send: Send,
    ) -> None:
        if not isinstance(identity, tuple):
            if identity is not None:
                self._unrecorded.warn(match.route, identity, max_body_bytes=self._settings.max_body_bytes)
            await self.app(scope, client.receive, send)
            return
        stream_key, key = identity
        _keep_bodies_recordable(scope)
        request = Start(self.app, scope, client, store=runtime.store, stream_key=stream_key, key=key)
        await request.serve(
            send, runs=runtime.runs, followers=runtime.followers, wait_for_run=not self._has_lifespan
        )
        passed = request.passed
        if passed is not None and 200 <= passed["status"] < 300:
            self._unrecorded.warn(match.route, Reason.MEDIA_TYPE, content_type=_content_type(passed))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._current_runtime()
        self._checks.at_start(scope, self)
        heard = False

        async def receive_and_drain() -> Message:
            nonlocal heard
            heard = True
            message = await receive()
            if message["type"] == "lifespan.startup":
                await runtime.store.start()
            elif message["type"] == "lifespan.shutdown":
                await runtime.runs.drain(self._settings.drain_timeout)
                await runtime.store.flush(2 * self._settings.redis_timeout)
            return message

        async def send_and_note(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._has_lifespan = True
            await send(message)

        try:
            try:
                await self.app(scope, receive_and_drain, send_and_note)
            except Exception as error:
                if heard:
                    raise
                logger.info("the app does not support lifespan (%s); the middleware answers for it", error)
            if not heard:
                await _live(receive_and_drain, send_and_note)
        finally:
            self._has_lifespan = False
            await runtime.store.aclose()

    async def _identify(
        self, runtime: _Runtime, match: Match, scope: Scope, client: Receiver
    ) -> tuple[StreamKey, str] | Reason | None:
        """The stream key of the request and its key, or why it is not recorded; None if the client left.

        The owner is asked for first, because it seldom needs the body.
        """
        request = Request({**scope, "path_params": match.params}, client.peek)
        try:
            owner = await self._owners.owner_of(match.route, request)
            if owner is None:
                return Reason.NO_OWNER
            key = await read_key(match, request, client.body(), runtime.scan_turns)
        except ClientDisconnect:
            return None
        except BodyTooLargeError:
            return Reason.BODY_TOO_LARGE
        if isinstance(key, Reason):
            return None if client.disconnected else key
        mount: str = scope.get("root_path") or ""
        return StreamKey(stream_key_name(match.route, mount, match.params, owner, key), match.route), key

    def _current_runtime(self) -> _Runtime:
        """The runtime of the running loop. Starlette's `TestClient` makes a new loop for each request."""
        runtime = self._runtime
        if runtime is None or runtime.loop is not asyncio.get_running_loop():
            assert self._open is not None
            followers = Followers(_shortest_wait(self._settings.routes) / 4)
            self._runtime = runtime = _Runtime(self._open(), followers)
            let_sse_starlette_wait()
        return runtime


async def _live(receive: Receive, send: Send) -> None:
    """Answer lifespan messages for an app that does not, such as Django, so that its runs are drained too."""
    for _ in ("startup", "shutdown"):
        message = await receive()
        await send({"type": message["type"] + ".complete"})


def _shortest_wait(routes: Sequence[ResumableRoute]) -> float:
    """The shortest `keepalive` or `stall_timeout` in seconds, at most 4."""
    waits = [wait for route in routes for wait in (route.keepalive, route.stall_timeout) if wait is not None]
    return min([4.0, *waits])


def _keep_bodies_recordable(scope: Scope) -> None:
    """Have the app send an uncompressed body in plain messages, and listen for the disconnect that stops it.

    From ASGI HTTP version 2.4 on, Starlette does not listen but waits for an error of `send`. The scope is
    changed in place, because outer middleware reads what the app's router adds to it.
    """
    asgi = scope.get("asgi", {})
    if asgi.get("spec_version", "2.0") not in ("2.0", "2.1", "2.2", "2.3"):
        scope["asgi"] = {**asgi, "spec_version": "2.3"}
    scope["headers"] = [header for header in scope["headers"] if header[0].lower() != b"accept-encoding"]
    extensions = scope.get("extensions")
    if extensions:
        scope["extensions"] = {
            name: value for name, value in extensions.items() if name not in _UNRECORDED_BODIES
        }


async def _is_running(store: Store, identity: tuple[StreamKey, str] | Reason | None) -> bool:
    """Whether there is something to stop."""
    if not isinstance(identity, tuple):
        return False
    try:
        found = await store.find(identity[0])
    except StoreUnavailableError:
        return False
    return found is not None and found.outcome is None


def _refusal(error: HTTPException) -> Response:
    """Starlette's answer to an exception of an endpoint; FastAPI's if the detail is not a text."""
    detail: Any = error.detail
    if error.status_code in (204, 304):
        return Response(status_code=error.status_code, headers=error.headers)
    if isinstance(detail, str):
        return PlainTextResponse(detail, status_code=error.status_code, headers=error.headers)
    return JSONResponse({"detail": detail}, status_code=error.status_code, headers=error.headers)


def _content_type(start: Message) -> str:
    values = [value for name, value in start.get("headers", ()) if name.lower() == b"content-type"]
    return repr(values[0].decode("latin-1")) if values else "(none)"
