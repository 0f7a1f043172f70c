"""A start: runs the app, and follows the log for the client that asked, if there comes to be one."""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context

from starlette.types import ASGIApp, Message, Scope, Send

from ..outcome import Outcome
from ..request.receiver import Receiver
from .app_side import AppSide
from .follower import STREAM_ID_HEADER, Follower, Followers, is_shutdown
from .log import Log
from .recording import adopt_values
from .run import STOP_GRACE, Run
from .run_states import RunState
from .runs import Runs
from .store import Copy, Store, StreamKey

logger: logging.Logger = logging.getLogger(__name__)


class Start:
    """One request to a start route: the original client's side of a run."""

    def __init__(
        self, app: ASGIApp, scope: Scope, client: Receiver, *, store: Store, stream_key: StreamKey, key: str
    ) -> None:
        self._app = app
        self._scope = scope
        self._client = client
        self._store = store
        self._stream_key = stream_key
        self._run = Run(client, store=store, stream_key=stream_key, key=key)

    @property
    def passed(self) -> Message | None:
        """The start of the response if it was not recorded."""
        return self._run.start if self._run.state is RunState.PASSED else None

    async def serve(self, send: Send, *, runs: Runs, followers: Followers, wait_for_run: bool) -> None:
        """Run the app, and follow its log for the client.

        With `wait_for_run` the call does not return before the run is over, whether or not the client is
        there: for servers that end the process as soon as all calls have returned.
        """
        run, context = self._run, copy_context()
        app_side = AppSide(run, send)
        task = asyncio.create_task(app_side.call(self._app, self._scope), context=context)
        run.attach(task)
        runs.add(run, task)
        try:
            await run.decided
            if run.log is None or run.copy is None:
                await task
            elif await self._follow_or_leave(run.log, run.copy, task, send, followers):
                await asyncio.shield(task)  # background tasks and exceptions, as without us
        except asyncio.CancelledError as error:
            if run.log is None:
                task.cancel()
            self._leave(task)
            if run.log is None or not is_shutdown(error):
                raise
            return
        finally:
            self._client.close()
            if run.log is None:
                adopt_values(context)
        if wait_for_run:
            await asyncio.wait([task])
            await self._store.flush(STOP_GRACE)

    async def _follow_or_leave(
        self, log: Log, copy: Copy, task: asyncio.Task[None], send: Send, followers: Followers
    ) -> bool:
        seen = False
        try:
            seen = await self._follow(log, copy, task, send, followers)
        finally:
            if not seen:
                self._leave(task)
        return seen

    async def _follow(
        self, log: Log, copy: Copy, task: asyncio.Task[None], send: Send, followers: Followers
    ) -> bool:
        """Whether the client saw the ending that the app itself gave the response."""
        start = self._run.start
        assert start is not None
        headers = [*start.get("headers", ()), (STREAM_ID_HEADER, log.id.encode())]
        route = self._stream_key.route
        with Follower(
            log,
            0,
            send,
            self._client,
            keepalive=None if log.head.sized else route.keepalive,
            stall_timeout=route.stall_timeout,
            followers=followers,
        ) as follower:
            self._run.follower = follower
            await copy.claimed()
            if not (await follower.send({**start, "headers": headers}) and await follower.follow()):
                return False
            if log.outcome is Outcome.ERROR:
                return True
            if log.outcome is not Outcome.DONE:
                await follower.end()
                return False
            if self._client.attended:
                await copy.delivered()
            await follower.finish()
            if start.get("trailers"):
                await self._send_trailers(follower, task)
            return True

    async def _send_trailers(self, follower: Follower, task: asyncio.Task[None]) -> None:
        run = self._run
        while True:
            while run.trailers:
                message = run.trailers.popleft()
                await follower.send(message)
                if not message.get("more_trailers", False):
                    return
            if task.done():
                return
            await run.changed.wait()

    def _leave(self, task: asyncio.Task[None]) -> None:
        """Nobody awaits the task any more: log its exception."""
        self._run.follower = None
        task.remove_done_callback(self._report)
        task.add_done_callback(self._report)

    def _report(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if self._run.state is RunState.STOPPING:
            level, when = logging.DEBUG, "when it was stopped"
        else:
            level, when = logging.ERROR, "after its client had gone"
        logger.log(level, "stream %s: the app raised %s", self._run.stream_id, when, exc_info=error)
