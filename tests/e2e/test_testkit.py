"""The instruments themselves: a client that cannot tell a broken body from a whole one proves nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testkit import sse
from testkit.chat import Chat
from testkit.client import Cut, End
from testkit.script import Script
from testkit.servers import Server
from testkit.valkey import Valkey
from testkit.wait import wait_until


async def test_the_bare_app_answers_what_its_script_says(bare: Server, chat: Chat) -> None:
    script = Script(pace=0, split=7, newline="\r\n")
    response = await chat.start(bare, script)
    assert (response.status, response.header("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert await response.rest() == script.body
    assert response.end is End.CLEAN
    state = await chat.ended(bare, "finished")
    await wait_until(lambda: after(chat, bare), what="what follows the answer")
    assert state["generated"] == len(script.chunks())


async def after(chat: Chat, server: Server) -> bool:
    state = await chat.state(server)
    return state["background_ran"] and state["dependency_closed"]


async def test_nothing_is_sent_before_the_test_releases_it(bare: Server, chat: Chat) -> None:
    response = await chat.start(bare)
    assert (await chat.state(bare))["generated"] == 0
    await chat.emit(bare, 2)
    assert b"".join(await response.events(2)) == b"".join(Script().chunks()[:2])
    assert (await chat.state(bare))["ending"] is None
    await chat.finish(bare)
    assert await response.rest() == Script().body


async def test_an_app_that_raises_leaves_a_broken_body(bare: Server, chat: Chat) -> None:
    response = await chat.start(bare)
    await chat.emit(bare, 2)
    await response.events(2)
    await chat.fail(bare)
    await response.rest()
    assert response.end is End.BROKEN
    await chat.ended(bare, "raised")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_cut_client_cancels_the_bare_app(bare: Server, chat: Chat, how: Cut) -> None:
    response = await chat.start(bare)
    await chat.emit(bare, 2)
    assert len(await response.exactly(20)) == 20
    await response.cut(how)
    state = await chat.ended(bare, "cancelled")
    assert state["generated"] == 2


async def test_comments_are_told_from_events() -> None:
    data = b": ping\n\ndata: 1\r\n\r\n:\n\ndata: 2\n\ndata: ha"
    assert sse.comments(data) == [b": ping\n\n", b":\n\n"]
    assert sse.without_comments(data) == b"data: 1\r\n\r\ndata: 2\n\ndata: ha"
    assert sse.without_comments(b"data: a\n: inside\ndata: b\n\n") == b"data: a\n: inside\ndata: b\n\n"


async def test_only_the_message_id_is_taken_out() -> None:
    with_id = Script(message_id="m1").body
    assert with_id != Script().body
    assert sse.without_message_id(with_id) == Script().body


def test_a_key_without_ttl_is_found(valkey: Valkey) -> None:
    with valkey.client() as client:
        client.set("stays", "x")
        client.set("goes", "x", ex=60)
    assert valkey.keys_without_ttl() == ["stays"]
    valkey.flush()
    assert not {"stays", "goes"} & set(valkey.all_keys())


def test_a_valkey_keeps_its_data_over_a_restart_if_told_to(start_valkey: Callable[..., Valkey]) -> None:
    valkey = start_valkey(appendonly=True, password="secret")
    with valkey.client() as client:
        client.set("key", "value")
    valkey.restart(keep_data=True)
    assert valkey.all_keys() == ["key"]
    valkey.restart(keep_data=False)
    assert valkey.all_keys() == []
    valkey.pause()
    valkey.cont()
    assert valkey.all_keys() == []
