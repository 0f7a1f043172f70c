"""One line of ASGI middleware that makes event streams resumable.

app.add_middleware(ResumableStreamMiddleware)
"""

from __future__ import annotations

from .middleware import ResumableStreamMiddleware
from .settings import ResumableRoute, Settings

__all__ = ["ResumableRoute", "ResumableStreamMiddleware", "Settings"]
