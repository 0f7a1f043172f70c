"""What a user writes: pyright and mypy check it in strict mode, and nobody runs it."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request

from resumable_asgi import (
    ConfigurationError,
    ResumableRoute,
    ResumableStreamMiddleware,
    Settings,
    __version__,
)


def one_line(app: Starlette) -> None:
    app.add_middleware(ResumableStreamMiddleware)


def with_settings(app: Starlette) -> None:
    settings = Settings(
        redis_url="redis://localhost:6379",
        routes=[
            ResumableRoute("/api/chat"),
            ResumableRoute("/runs/{run_id}/events", methods={"GET"}, key="path:run_id", keepalive=None),
        ],
        lease=10,
    )
    app.add_middleware(ResumableStreamMiddleware, settings=settings)


def wrapped(app: Starlette) -> ResumableStreamMiddleware:
    return ResumableStreamMiddleware(app, settings=Settings.from_toml(Path("settings.toml")))


def from_plain_data() -> list[Settings]:
    return [Settings.from_env(), Settings.from_env({"REDIS_URL": ""}), Settings.from_mapping({"lease": 5})]


async def chat_of(request: Request) -> str | None:
    return request.query_params.get("chat")


def tenant_of(request: Request) -> str | None:
    return request.headers.get("x-tenant")


def with_callables() -> ResumableRoute:
    return ResumableRoute("/api/chat", key=chat_of, owner=tenant_of, stop=None, methods=["POST", "PUT"])


def with_lambdas() -> ResumableRoute:
    return ResumableRoute(key=lambda request: request.headers.get("x-chat"), owner=lambda request: "everyone")


def reading(settings: Settings, route: ResumableRoute) -> tuple[ResumableRoute, str, str | None, float]:
    return settings.routes[0], route.resume, route.stop, route.retention


def remedy(plain: dict[str, object]) -> str:
    try:
        return repr(Settings.from_mapping(plain))
    except ConfigurationError as error:
        return f"{error} (version {__version__})"
