"""One line of ASGI middleware that makes event streams resumable.

app.add_middleware(ResumableStreamMiddleware)
"""

from __future__ import annotations

from .errors import ConfigurationError
from .middleware import ResumableStreamMiddleware
from .settings import ResumableRoute, Settings

__version__ = "0.1.0"

__all__ = ["ConfigurationError", "ResumableRoute", "ResumableStreamMiddleware", "Settings", "__version__"]
