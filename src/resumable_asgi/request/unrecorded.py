"""Warns of responses that are not recorded although their request matched a route."""

from __future__ import annotations

import logging
from enum import Enum

from ..settings import ResumableRoute

logger: logging.Logger = logging.getLogger(__name__)


class Reason(Enum):
    """Why a response is not recorded. The value is the warning, with named arguments."""

    NO_KEY = (
        "the request has no key (key=%(key)s) of 1 to 512 characters; a key in the body needs a JSON content"
        " type. Send one, or set key to where it is"
    )
    NO_OWNER = (
        "the request has no owner (owner=%(owner)s). Let clients send what names the owner, or set owner to"
        " something that they send"
    )
    BODY_TOO_LARGE = (
        "the key is not within the first max_body_bytes=%(max_body_bytes)d of the request body. Put it at the"
        " beginning of the body, or raise max_body_bytes"
    )
    BODY_TOO_ODD = (
        "the request body has too many values before the key to look for it. Put the key at the beginning of"
        " the body"
    )
    MEDIA_TYPE = (
        "the response has the content type %(content_type)s; only text/event-stream without a"
        " Content-Encoding is recorded. Set that content type"
    )


class Unrecorded:
    """Warns once for each route and reason."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said: set[tuple[ResumableRoute, Reason]] = set()

    def warn(self, route: ResumableRoute, reason: Reason, **details: object) -> None:
        """Log at WARNING the first time, and at DEBUG afterwards."""
        if (route, reason) in self._said:
            logger.debug("a response of %s is not recorded: %s", route.path, reason.name.lower())
            return
        self._said.add((route, reason))
        details |= {"key": _shown(route.key), "owner": _shown(route.owner)}
        logger.warning("a response of %s is not recorded: %s.", route.path, reason.value % details)


def _shown(setting: object) -> str:
    return repr(setting) if isinstance(setting, str) else getattr(setting, "__qualname__", "a callable")
