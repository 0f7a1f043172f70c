"""The ASGI app that uvicorn serves; VARIANT says which."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from .source import Spec, stream

SSE = "text/event-stream"
PATH = "/chat/{id}"


async def chat(request: Request) -> Response:
    return StreamingResponse(stream(Spec.from_query(request.query_params)), media_type=SSE)


async def plain(request: Request) -> Response:
    return JSONResponse({"ok": True})


def starlette(start: object, *more: Route) -> Starlette:
    routes = [Route(PATH, start, methods=["POST"]), *more, Route("/plain", plain)]  # type: ignore[arg-type]
    return Starlette(routes=routes)


def ours(app: Starlette, url: str) -> Starlette:
    from resumable_asgi import ResumableRoute, ResumableStreamMiddleware, Settings

    settings = Settings(
        redis_url=url,
        routes=[ResumableRoute(PATH, key="path:id", owner="public")],
    )
    app.add_middleware(ResumableStreamMiddleware, settings=settings)
    return app


def tee(url: str) -> Starlette:
    """What one writes first: every chunk is added to a Redis stream before it is sent."""
    from redis.asyncio import Redis

    # With redis-py's default of 100 connections it fails at 200 streams.
    redis = Redis.from_url(url, max_connections=100_000)  # pyright: ignore[reportUnknownMemberType]

    async def chat(request: Request) -> Response:
        key = f"tee:{request.path_params['id']}"

        async def teed(spec: Spec):
            async for chunk in stream(spec):
                await redis.xadd(key, {"b": chunk})
                yield chunk
            await redis.xadd(key, {"done": "1"})
            await redis.expire(key, 3600)

        return StreamingResponse(teed(Spec.from_query(request.query_params)), media_type=SSE)

    return starlette(chat)


def build(variant: str, url: str) -> ASGIApp:
    if variant == "bare":
        return starlette(chat)
    if variant == "ours-memory":
        return ours(starlette(chat), "memory://")
    if variant == "ours-redis":
        return ours(starlette(chat), url)
    if variant == "tee":
        return tee(url)
    if variant == "push":
        from .push import app

        return app
    from .peers import build as build_peer

    return build_peer(variant, url)


app = build(os.environ["VARIANT"], os.environ.get("BENCH_REDIS", ""))
