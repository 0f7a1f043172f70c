"""The ASGI shell: which requests start, resume or stop a stream; the start and the end of the process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import resume
from .client import BodyTooLargeError, Client
from .follower import Followers
from .ownership import Owners
from .ownership import slot as slot_name
from .routing import Action, Match, Router, read_key
from .run import Run
from .runs import Runs
from .settings import ResumableRoute, Settings
from .sse_starlette import let_sse_starlette_wait
from .store import Slot, Store
from .store.factory import open_store

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

logger = logging.getLogger(__name__)

_OUTER = (AuthenticationMiddleware, CORSMiddleware)
_UNRECORDED_BODIES = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
"""Extensions by which a body would go past us."""


class _Runtime:
    """What lives in one event loop."""

    def __init__(self, store: Store, followers: Followers) -> None:
        self.loop = asyncio.get_running_loop()
        self.store = store
        self.followers = followers
        self.runs = Runs()


class ResumableStreamMiddleware:
    """Makes the event streams of configured routes resumable; see `Settings` for what can be set.

    `settings` defaults to `Settings.from_env()`. A `redis` client is used for its connections in place of
    `settings.redis_url`, and never closed. With neither, every request passes through untouched.

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
        self._runtime: _Runtime | None = None
        self._has_lifespan = False
        if self._open is None:
            logger.warning("streams are not resumable: set REDIS_URL, or Settings(redis_url=...)")
        else:
            _warn_of_inner(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._open is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            # The router looks closer, but nearly all that is not its affair goes by here for less.
            near = scope["path"].startswith(self._prefixes) or scope.get("root_path")
            if near and (match := self._router.match(scope)) is not None:
                await self._serve(match, scope, receive, send)
            else:
                await self.app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, match: Match, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._current_runtime()
        client = Client(receive, self._settings.max_body_bytes)
        if match.action is Action.START:
            await self._start(runtime, match, scope, client, send)
            return
        identity = await self._identify(match, scope, client)
        slot = None if identity is None else identity[0]
        if match.action is Action.STOP:
            answer = await resume.stop(scope, client, store=runtime.store, slot=slot)
            await answer(scope, client.receive, send)
            return
        request = resume.Resume(
            scope,
            client,
            store=runtime.store,
            slot=slot,
            unavailable_status=self._settings.unavailable_status,
        )
        await request.serve(send, runtime.followers)

    async def _start(self, runtime: _Runtime, match: Match, scope: Scope, client: Client, send: Send) -> None:
        try:
            identity = await self._identify(match, scope, client)
        except ClientDisconnect:
            identity = None
        except BodyTooLargeError:
            identity = None
            logger.warning(
                "a request to %s passes through unrecorded: its body is larger than max_body_bytes=%d",
                match.route.path,
                self._settings.max_body_bytes,
            )
        if identity is None:
            await self.app(scope, client.receive, send)
            return
        slot, key = identity
        _keep_bodies_recordable(scope)
        run = Run(self.app, scope, client, store=runtime.store, slot=slot, key=key)
        await run.serve(send, runs=runtime.runs, among=runtime.followers, linger=not self._has_lifespan)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._current_runtime()
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
                logger.info("the app has no lifespan (%s); its streams have one", error)
            if not heard:
                await _live(receive_and_drain, send_and_note)
        finally:
            self._has_lifespan = False
            await runtime.store.aclose()

    async def _identify(self, match: Match, scope: Scope, client: Client) -> tuple[Slot, str] | None:
        """Where the stream of a request belongs, and its key; None without a key or an owner.

        Raises `ClientDisconnect` and `BodyTooLargeError` if the body was needed and is not to be had.
        """
        request = Request({**scope, "path_params": match.params}, client.peek)
        key = await read_key(match, request)
        owner = None if key is None else await self._owners.owner_of(match.route, request)
        if key is None or owner is None:
            return None
        return Slot(slot_name(match.route, match.params, owner, key), match.route), key

    def _current_runtime(self) -> _Runtime:
        """That of the running event loop: Starlette's `TestClient` makes a new loop for each request."""
        runtime = self._runtime
        if runtime is None or runtime.loop is not asyncio.get_running_loop():
            assert self._open is not None
            followers = Followers(_shortest_wait(self._settings.routes) / 4)
            self._runtime = runtime = _Runtime(self._open(), followers)
            let_sse_starlette_wait()
        return runtime


async def _live(receive: Receive, send: Send) -> None:
    """The lifespan of an app that has none, as Django's: runs are to be drained all the same."""
    for _ in ("startup", "shutdown"):
        message = await receive()
        await send({"type": message["type"] + ".complete"})


def _shortest_wait(routes: Sequence[ResumableRoute]) -> float:
    """The least of what followers have to keep to, and at most 4 seconds."""
    waits = [wait for route in routes for wait in (route.keepalive, route.stall_timeout) if wait is not None]
    return min([4.0, *waits])


def _keep_bodies_recordable(scope: Scope) -> None:
    """Have the app send its body to us, in no content coding, and listen for a disconnect, by which it is
    stopped: from version 2.4 on Starlette waits for an error of `send` instead. Changes the scope in place:
    outer middleware finds in it what the app's router puts there."""
    asgi = scope.get("asgi", {})
    if asgi.get("spec_version", "2.0") not in ("2.0", "2.1", "2.2", "2.3"):
        scope["asgi"] = {**asgi, "spec_version": "2.3"}
    scope["headers"] = [header for header in scope["headers"] if header[0].lower() != b"accept-encoding"]
    extensions = scope.get("extensions")
    if extensions:
        scope["extensions"] = {
            name: value for name, value in extensions.items() if name not in _UNRECORDED_BODIES
        }


def _warn_of_inner(app: ASGIApp) -> None:
    """Resume answers pass only the middleware outside of this one."""
    inner: object = app
    while inner is not None:
        if isinstance(inner, _OUTER):
            logger.warning(
                "%s is inside of ResumableStreamMiddleware, so that resume answers pass it by: "
                "add it after ResumableStreamMiddleware, since what is added last is outermost",
                type(inner).__name__,
            )
        inner = getattr(inner, "app", None)
