from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.authentication import BaseUser, SimpleUser, UnauthenticatedUser
from starlette.datastructures import State
from starlette.requests import Request

from resumable_asgi.errors import ConfigurationError
from resumable_asgi.request.owner import Owners, stream_key_name
from resumable_asgi.settings import ResumableRoute

Form = str | Callable[[Request], Awaitable[str | None] | str | None]


class Account(BaseUser):
    def __init__(self, identity: str, name: str = "", authenticated: bool = True) -> None:
        self._identity, self._name, self._authenticated = identity, name, authenticated

    @property
    def is_authenticated(self) -> bool:
        return self._authenticated

    @property
    def display_name(self) -> str:
        return self._name

    @property
    def identity(self) -> str:
        return self._identity


class MethodUser:
    username = "ann"

    def is_authenticated(self) -> bool:
        return False


def request_of(headers: dict[str, str] | None = None, **extra: Any) -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request(
        {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": pairs} | extra
    )


async def owner(form: Form, request: Request, owners: Owners | None = None) -> str | None:
    return await (owners or Owners()).owner_of(ResumableRoute(owner=form), request)


class Nameless:
    """A user as an app may have it: authenticated, and all else is as the test says."""

    is_authenticated = True

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class Default:
    pass


class Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class Lazy:
    """As Django's `SimpleLazyObject` of an object without a text of its own."""

    def __init__(self, wrapped: object) -> None:
        self.wrapped = wrapped

    def __str__(self) -> str:
        return str(self.wrapped)


class Role(Enum):
    ADMIN = 1


class Broken:
    def __str__(self) -> str:
        raise LookupError


async def test_a_user_is_known_by_identity_then_username() -> None:
    ann = await owner("user", request_of(user=Account("ann")))
    assert ann is not None
    assert ann == await owner("user", request_of(user=Account("ann", "another display name")))
    assert ann == await owner("user", request_of(user=Nameless(identity="ann", username="bob")))
    assert ann != await owner("user", request_of(user=Account("bob", "ann")))
    by_name = await owner("user", request_of(user=Nameless(username="ann")))
    assert by_name is not None
    assert by_name == await owner("user", request_of(user=Nameless(identity=None, username="ann")))
    assert await owner("user", request_of(user=SimpleUser("ann"))) in (ann, by_name)
    assert ann != by_name, "a chosen username is no other user's identity"


@pytest.mark.parametrize("form", ["user", "auto"])
@pytest.mark.parametrize(
    "identity",
    [None, "", b"", True, False, Default(), object(), Lazy(Default()), str(Default()), Broken(), print,
     [], ["a"], {"id": 1}, {1}, frozenset({"a"}), (), (Default(),), Lazy(Broken())],
)  # fmt: skip
async def test_a_user_without_a_stable_name_owns_nothing_whatever_it_displays(
    form: Form, identity: object, caplog: pytest.LogCaptureFixture
) -> None:
    owners = Owners()
    user = Nameless(identity=identity, username=None, display_name="ann")
    for _ in range(2):
        assert await owner(form, request_of({"authorization": "Bearer t"}, user=user), owners) is None
    assert len(caplog.records) == 1
    assert "Nameless" in caplog.text
    assert "owner" in caplog.text


async def test_a_user_whose_properties_fail_owns_nothing() -> None:
    class Unloaded:
        @property
        def is_authenticated(self) -> bool:
            raise ValueError("not ready")

    assert await owner("auto", request_of(user=Unloaded())) is None
    assert await owner("user", request_of(user=Unloaded())) is None


@pytest.mark.parametrize(
    "identity",
    [0, 7, "7a", UUID(int=7), Decimal("7.5"), 1.5, Role.ADMIN, Text("ann"), b"\x00\xff", ("t", 7), Lazy(7)],
    ids=repr,
)
async def test_an_identity_of_any_type_with_a_stable_text_owns(identity: object) -> None:
    mine = await owner("user", request_of(user=Nameless(identity=identity, username="x", display_name="x")))
    again = await owner("user", request_of(user=Nameless(identity=identity, display_name="y")))
    assert mine is not None
    assert mine == again
    others = [await owner("user", request_of(user=Nameless(identity=other))) for other in ("x", "y", 8)]
    assert mine not in others


async def test_a_number_and_its_digits_are_the_same_user() -> None:
    by_number = await owner("user", request_of(user=Nameless(identity=7)))
    assert by_number == await owner("user", request_of(user=Nameless(identity="7")))


@pytest.mark.parametrize(
    "user",
    [UnauthenticatedUser(), Account("ann", authenticated=False), Account(""), MethodUser(), None, object()],
)
async def test_whoever_is_not_an_authenticated_user_with_a_name_owns_nothing(user: object) -> None:
    assert await owner("user", request_of(user=user)) is None


async def test_without_authentication_middleware_no_user_owns_anything() -> None:
    assert await owner("user", request_of()) is None


async def test_auto_prefers_the_user_to_the_authorization_header() -> None:
    headers = {"authorization": "Bearer secret"}
    by_user = await owner("user", request_of(user=SimpleUser("ann")))
    by_header = await owner("header:authorization", request_of(headers))
    assert await owner("auto", request_of(headers, user=SimpleUser("ann"))) == by_user
    assert await owner("auto", request_of(headers, user=UnauthenticatedUser())) == by_header
    assert await owner("auto", request_of(headers)) == by_header


async def test_auto_falls_back_to_public_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    owners = Owners()
    for _ in range(3):
        assert await owner("auto", request_of(), owners) == await owner("public", request_of()) == "public"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "owner='auto'" in caplog.text


async def test_auto_never_makes_a_user_without_a_name_or_an_empty_token_public() -> None:
    assert await owner("auto", request_of(user=Account(""))) is None
    assert await owner("auto", request_of({"authorization": ""})) is None


async def test_a_session_owns_by_one_of_its_values(caplog: pytest.LogCaptureFixture) -> None:
    first = await owner("session:uid", request_of(session={"uid": 1}))
    assert first is not None
    assert first == await owner("session:uid", request_of(session={"uid": "1"}))
    assert first != await owner("session:uid", request_of(session={"uid": 2}))
    for session in ({}, {"uid": None}, {"uid": ""}, {"uid": True}, {"uid": ["1"]}):
        assert await owner("session:uid", request_of(session=session)) is None
    assert not caplog.records


async def test_a_missing_session_middleware_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    owners = Owners()
    for _ in range(2):
        assert await owner("session:uid", request_of(), owners) is None
    assert len(caplog.records) == 1
    assert "SessionMiddleware" in caplog.text


async def test_headers_and_cookies_own_by_their_value() -> None:
    request = request_of({"x-user": "ann", "cookie": "sid=ann; other=1"})
    assert await owner("header:X-User", request) == await owner("header:x-user", request)
    assert await owner("header:x-user", request) != await owner("cookie:sid", request)
    assert await owner("header:x-none", request) is None
    assert await owner("cookie:none", request) is None


@pytest.mark.parametrize("make", [dict, State])
async def test_state_owns_by_one_of_its_attributes(make: Callable[[dict[str, Any]], Any]) -> None:
    uid = UUID(int=7)
    by_uuid = await owner("state:uid", request_of(state=make({"uid": uid})))
    assert by_uuid is not None
    assert by_uuid == await owner("state:uid", request_of(state=make({"uid": str(uid)})))
    assert await owner("state:uid", request_of(state=make({}))) is None


async def test_without_state_nobody_owns_anything() -> None:
    assert await owner("state:uid", request_of()) is None


async def test_state_that_outer_middleware_sets_through_a_request_is_seen() -> None:
    request = request_of()
    request.state.uid = "ann"
    assert await owner("state:uid", Request(request.scope)) is not None


async def test_a_callable_tells_the_owner_sync_or_async() -> None:
    async def tenant(request: Request) -> str | None:
        return request.headers.get("x-tenant")

    request = request_of({"x-tenant": "t"})
    by_callable = await owner(tenant, request)
    assert by_callable is not None
    assert by_callable == await owner(lambda request: request.headers["x-tenant"], request)
    assert await owner(tenant, request_of()) is None
    assert await owner(lambda request: "", request_of()) is None


async def test_a_callable_that_returns_something_else_is_a_configuration_error() -> None:
    def returns_an_object(request: Request) -> Any:
        return object()

    with pytest.raises(ConfigurationError, match=r"owner=.*returned a object"):
        await owner(returns_an_object, request_of())


async def test_no_owner_holds_the_secret_or_equals_that_of_another_form() -> None:
    secret = "secret-token"
    request = request_of(
        {"authorization": secret, "x-token": secret, "cookie": f"token={secret}"},
        user=SimpleUser(secret),
        session={"token": secret},
        state={"token": secret},
    )
    forms = ["user", "header:authorization", "header:x-token", "cookie:token", "session:token", "state:token"]
    owners = [await owner(form, request) for form in forms]
    owners += [await owner(lambda request: secret, request), await owner("public", request)]
    assert None not in owners
    assert len(set(owners)) == len(owners)
    assert not any(secret in str(each) for each in owners)


def test_a_stream_key_is_32_hexadecimal_characters() -> None:
    assert len(stream_key_name(ResumableRoute(), "", {}, "public", "a")) == 32
    assert int(stream_key_name(ResumableRoute(), "", {}, "public", "a"), 16)


def test_a_stream_key_depends_on_route_owner_key_and_shared_params_only() -> None:
    route = ResumableRoute("/{tenant}/chat")
    same = stream_key_name(route, "", {"tenant": "t", "key": "k"}, "public", "k")
    assert same == stream_key_name(route, "", {"tenant": "t"}, "public", "k")
    assert same != stream_key_name(route, "", {"tenant": "u"}, "public", "k")
    assert same != stream_key_name(route, "", {"tenant": "t"}, "other", "k")
    assert same != stream_key_name(route, "", {"tenant": "t"}, "public", "l")
    assert same != stream_key_name(ResumableRoute("/{tenant}/talk"), "", {"tenant": "t"}, "public", "k")
    assert same != stream_key_name(route, "/mount", {"tenant": "t"}, "public", "k")
    assert stream_key_name(route, "/mount", {}, "public", "k") == stream_key_name(
        route, "/mount/", {}, "public", "k"
    )


def test_a_stream_key_exists_for_every_text() -> None:
    assert stream_key_name(ResumableRoute(), "", {}, "public", "\ud800") != stream_key_name(
        ResumableRoute(), "", {}, "public", "\udfff"
    )


Parts = st.tuples(st.text(), st.text(), st.text())


@given(Parts, Parts)
def test_different_parts_have_different_names(
    first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    route = ResumableRoute("/{tenant}/chat")
    names = {stream_key_name(route, "", {"tenant": tenant}, who, key) for tenant, who, key in (first, second)}
    assert len(names) == len({first, second})
