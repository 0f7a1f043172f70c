"""Routes whose streams could not be found again are refused."""

from __future__ import annotations

from typing import Any

import pytest

from resumable_asgi import ResumableRoute, Settings
from resumable_asgi.errors import ConfigurationError


def route(path: str, methods: str = "POST", **options: Any) -> ResumableRoute:
    return ResumableRoute(path, methods=set(methods.split()), **options)


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        # another route's start takes the resume
        ([route("/api/{rest:path}", "GET", key="query:id"), route("/api/chat")], "put this route before"),
        ([route("/api/{a}/{b}/{c}", "GET", key="query:id"), route("/api/chat")], "starts a stream"),
        # another route's resume takes it
        ([route("/api/{x}", "PUT"), route("/api/chat")], "belongs to"),
        ([route("/api/{x}", "PUT", resume="/{a}/{b}/{key}/stream"), route("/api/chat")], "belongs to"),
        ([route("/t/{t}/runs/{run}", "GET", key="path:run"), route("/t/{t}/runs")], "belongs to"),
        # for one value of a parameter, which a template names
        ([route("/api/chat"), route("/api/{x}", "PUT")], "PUT /api/chat would start"),
        # the same templates, another owner
        ([route("/a", owner="cookie:a"), route("/a", "PUT", owner="cookie:b")], "belongs to"),
        # within a route
        ([route("/runs/{x}", "GET", key="path:x", resume="/runs/{x:int}/stream")], "matches no template"),
        ([route("/runs/{x:path}", key="path:x", resume="/runs/{x}/stream")], "matches no template"),
        ([route("/{tenant}/chat", resume="/{tenant:int}/chat/{key}")], "let its parameters take"),
    ],
)
def test_a_start_whose_resume_would_lead_elsewhere_is_refused(
    routes: list[ResumableRoute], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"resume='.*never found again") as caught:
        Settings(routes=routes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "routes",
    [
        [route("/api/chat"), route("/api/{agent}")],
        [route("/api/{agent}"), route("/api/chat")],
        [route("/api/chat"), route("/{rest:path}")],
        [route("/api/chat"), route("/{rest:path}", "GET", key="query:id")],
        [route("/a"), route("/a", "PUT")],
        [route("/f/{p:path}", key="path:p")],
        [route("/f/{p:path}")],
        [route("/f/{p:path}", "GET", key="path:p"), route("/g/{p:path}", "GET", key="path:p")],
        [route("/runs/{x:int}", "GET", key="path:x"), route("/runs/{x:uuid}", "GET", key="path:x")],
        [route("/runs/{x:int}", "GET", key="path:x", resume="/runs/{x}/stream")],
        [route("/c/{x}", key="path:x", resume="/c/{x}"), route("/d/{x}", resume="/d/{x}/{key}")],
        [route("/{a}/{b}/{c}/{d}", resume="/r/{a}/{b}/{c}/{d}/{key}"), route("/x/y", stop=None)],
        [route("/a/{x}", key="header:id", resume="/r/{key}"), route("/b/{x}", resume="/s/{key}")],
    ],
)
def test_routes_that_do_not_get_in_each_other_s_way_are_accepted(routes: list[ResumableRoute]) -> None:
    Settings(routes=routes)
