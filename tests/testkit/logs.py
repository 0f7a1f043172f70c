"""Logs and their readers without an app, for tests of stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from resumable_asgi import ResumableRoute, Settings
from resumable_asgi.outcome import Outcome
from resumable_asgi.store.open import open_store
from resumable_asgi.stream.log import Head, Log, new_stream_id
from resumable_asgi.stream.store import Copy, Found, Store, StreamKey

TIMEOUT = 5.0


def settings_of(redis_url: str, route: ResumableRoute | None = None, **options: Any) -> Settings:
    return Settings(redis_url=redis_url, routes=[route or ResumableRoute()], **options)


def open_store_at(redis_url: str, route: ResumableRoute | None = None, **options: Any) -> Store:
    """A store of this event loop, as a worker of its own would have it."""
    opened = open_store(settings_of(redis_url, route, **options), None)
    assert opened is not None
    return opened()


def key_named(name: str, **route: Any) -> StreamKey:
    return StreamKey(name, ResumableRoute(**route))


class ClaimedLog(Log):
    """A log with its copy, as a run has both."""

    copy: Copy


def new_log(store: Store, key: str = "c", **head: Any) -> ClaimedLog:
    fields: dict[str, Any] = {
        "worker": store.worker(key_named("")),
        "created": 1_700_000_000_000,
        "status": 200,
        "headers": ((b"content-type", b"text/event-stream"), (b"x-latin", b"caf\xe9")),
        "key": key,
    }
    return ClaimedLog(new_stream_id(), Head(**{**fields, **head}))


async def begin(store: Store, key: StreamKey, data: bytes = b"", **head: Any) -> ClaimedLog:
    """A claimed log with that much in it."""
    log = new_log(store, **{"worker": store.worker(key), **head})
    log.copy = store.claim(key, log)
    if data:
        log.append(data)
    await log.copy.claimed()
    return log


async def deliver(store: Store, key: StreamKey, log: Log) -> None:
    """Note what a follower at that store notes when it was handed all of the log."""
    found = await store.find(key, log.id)
    if found is not None:
        await found.delivered()


@dataclass(eq=False)
class Mark:
    """Somebody who reads a log, and never gets on unless told."""

    offset: int = 0


@contextmanager
def reading(log: Log, offset: int = 0) -> Iterator[Mark]:
    mark = Mark(offset)
    log.readers.add(mark)
    try:
        yield mark
    finally:
        log.readers.discard(mark)


async def until(log: Log, condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> None:
    """Wait for something that can only come true when the log changes."""
    changed = asyncio.Event()
    log.watch(changed.set)
    try:
        async with asyncio.timeout(timeout):
            while not condition():
                changed.clear()
                await changed.wait()
    except TimeoutError:
        held = log.span(log.start, log.end)
        raise AssertionError(f"not within {timeout} s: {what}; {held!r} {log.outcome}") from None
    finally:
        log.unwatch(changed.set)


async def holds(log: Log, data: bytes, timeout: float = TIMEOUT) -> None:
    """Wait until the log is that long, and see that it is that."""
    with reading(log):
        await until(log, lambda: log.end >= len(data), f"{data!r}", timeout)
        assert log.span(0, len(data) + 1) == data


async def sealed(log: Log, timeout: float = TIMEOUT) -> Outcome:
    with reading(log):
        await until(log, lambda: log.outcome is not None, "the seal", timeout)
    assert log.outcome is not None
    return log.outcome


async def whole(found: Found | None, timeout: float = TIMEOUT) -> tuple[bytes, Outcome]:
    """All bytes of a log that ends, and how it ended."""
    assert found is not None
    with reading(found.log):
        await until(found.log, lambda: found.log.outcome is not None, "the seal", timeout)
        assert found.log.outcome is not None
        return found.log.span(0, found.log.end), found.log.outcome
