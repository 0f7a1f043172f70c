"""The peers from PyPI, each as its documentation has it. Run in an environment of their own."""

# The packages are not installed where the type checker runs.
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import AsyncIterator

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .source import Spec, stream, stream_text
from .web import SSE, starlette

_ENOUGH = 100_000
"""Both take a connection per reader, more than redis-py's pool allows by default; then they fail."""


def build(variant: str, url: str) -> Starlette:
    redis = Redis.from_url(url, max_connections=_ENOUGH)
    if variant == "fastapi-resumable-stream":
        return _fastapi_resumable_stream(redis)
    if variant == "assistant-stream":
        return _assistant_stream(redis)
    raise ValueError(f"VARIANT={variant}: no such app")


def _fastapi_resumable_stream(redis: Redis) -> Starlette:
    from fastapi_resumable_stream import (
        ActiveStreamRegistry,
        ResumableStream,
        StopController,
        resume_conversation_stream,
        start_conversation_stream,
        streaming_response,
    )

    streams, registry, stop = ResumableStream(redis), ActiveStreamRegistry(redis), StopController(redis)

    async def start(request: Request) -> Response:
        spec = Spec.from_query(request.query_params)
        key = request.path_params["id"]
        return await start_conversation_stream(
            streams, registry, stop, key, f"{key}:1", producer=lambda: stream_text(spec)
        )

    async def resume(request: Request) -> Response:
        found = await resume_conversation_stream(streams, registry, request.path_params["id"])
        return Response(status_code=204) if found is None else streaming_response(found)

    return starlette(start, Route("/chat/{id}/stream", resume))


def _assistant_stream(redis: Redis) -> Starlette:
    """Its resumable part alone, on our events: its message encoder would send other bytes."""
    from assistant_stream.resumable import (
        create_redis_resumable_stream_store,
        create_resumable_stream_context,
    )

    context = create_resumable_stream_context(store=create_redis_resumable_stream_store(redis))

    def respond(body: AsyncIterator[bytes]) -> Response:
        return StreamingResponse(body, media_type=SSE)

    async def start(request: Request) -> Response:
        spec = Spec.from_query(request.query_params)
        return respond(await context.run(request.path_params["id"], lambda: stream(spec)))

    async def resume(request: Request) -> Response:
        found = await context.resume(request.path_params["id"])
        return Response(status_code=204) if found is None else respond(found)

    return starlette(start, Route("/chat/{id}/stream", resume))
