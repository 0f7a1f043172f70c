"""The resume and stop routes: what they answer, to whom, and what they leave as it is."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from testkit.inprocess import JSON, Exchange, worker
from testkit.wait import wait_until

FIRST, LAST = b"data: 1\n\n", b"data: \xe6\x97\xa5\r\n\r\n"


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else request.getfixturevalue("valkey").url


@pytest.mark.parametrize("how", ["done", "error", "stopped"])
async def test_a_position_ahead_of_a_log_that_ends_short_of_it_breaks_and_delivers_nothing(
    url: str, how: str
) -> None:
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        run.emit(FIRST)
        await exchange.until(FIRST)
        ahead = await made.resume(offset=len(FIRST) + 1).until_started()
        exchange.disconnect()
        await exchange.ended()
        if how == "done":
            run.finish()
        elif how == "error":
            run.fail(LookupError())
        else:
            assert await made.stop()
        await ahead.ended()
        assert (ahead.status, ahead.body, ahead.complete) == (200, b"", False)
        again = await made.resume().ended()
        assert (again.status, again.body) == ((204, b"") if how == "stopped" else (200, FIRST))
        assert again.complete == (how != "error")


@pytest.mark.parametrize("outcome", ["done", "error"])
async def test_at_the_end_of_a_stream_a_204_says_how_it_ended(url: str, outcome: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        run.emit(FIRST)
        await exchange.until(FIRST)
        exchange.disconnect()
        await exchange.ended()
        if outcome == "done":
            run.finish()
        else:
            run.fail(LookupError())
        await run.until_ended("returned" if outcome == "done" else "LookupError")
        end = (b"last-event-id", f"{exchange.stream_id}.{len(FIRST)}".encode())

        async def sealed() -> bool:
            answer = await made.request("HEAD", "/api/chat/c/stream", headers=[end]).ended()
            return answer.status == 204

        await wait_until(sealed)
        answer = await made.resume(headers=[end]).ended()
        assert (answer.status, answer.headers[b"resumable-outcome"]) == (204, outcome.encode())
        assert b"resumable-outcome" not in (await made.resume("unknown").ended()).headers


async def test_a_resume_that_its_page_cannot_read_uses_nothing_up(url: str) -> None:
    cookie, cross_site = (b"cookie", b"sid=1"), (b"sec-fetch-site", b"cross-site")
    async with worker(redis_url=url, owner="cookie:sid", origins=["https://app.example.com"]) as made:
        exchange, run = await made.begin(headers=[cookie])
        exchange.disconnect()
        await exchange.ended()
        run.finish(FIRST)
        await run.until_ended("returned")
        for headers in ([cookie, cross_site], [cookie, cross_site, (b"origin", b"https://evil.example")]):
            unread = await made.resume(headers=headers).ended()
            assert (unread.status, unread.body) == (200, FIRST)
        read = [cookie, cross_site, (b"origin", b"https://app.example.com")]
        assert (await made.resume(headers=read).ended()).body == FIRST
        assert await made.nothing(headers=[cookie])


async def test_no_position_lies_within_a_line_end_that_is_still_being_written(url: str) -> None:
    parts = (b"id: a\r\ndata: 1\r\n\r", b"\nid: b\r\ndata: 2\r\n\r\n")
    async with worker(redis_url=url) as made:
        exchange, run = await made.begin()
        run.emit(parts[0])
        await exchange.until(parts[0])
        after_event = await made.resume(headers=[(b"last-event-id", b"a")]).until_started()
        at_offset = await made.resume(offset=len(parts[0])).until_started()
        run.emit(parts[1])
        run.finish()
        assert (await after_event.ended()).body == parts[1][1:]
        assert (await at_offset.ended()).body == b"".join(parts)


async def test_one_app_mounted_twice_keeps_the_streams_of_its_mounts_apart(url: str) -> None:
    async with worker(redis_url=url, owner="header:x-user") as made:
        user = [(b"x-user", b"1")]

        def mounted(mount: str, method: str, path: str, **options: Any) -> Exchange:
            return made.request(method, mount + path, root_path=mount, headers=[*user, JSON], **options)

        first = await mounted("/t1", "POST", "/api/chat", body=b'{"id": "c"}').until_started()
        (await made.host.run()).emit(FIRST)
        await first.until(FIRST)
        for mount in ("/t2", "", "/t1/t2"):
            assert (await mounted(mount, "GET", "/api/chat/c/stream").ended()).status == 204
            stopped = await mounted(mount, "POST", "/api/chat/c/stop").ended()
            assert json.loads(stopped.body)["stopped"] is False
        resumed = await mounted("/t1", "GET", "/api/chat/c/stream").until(FIRST)
        assert resumed.stream_id == first.stream_id
        stopped = await mounted("/t1", "POST", "/api/chat/c/stop").ended()
        assert json.loads(stopped.body)["stopped"] is True


@pytest.mark.parametrize(
    "body",
    [
        b'{"activeStreamId": 5}',
        b'{"activeStreamId": {}}',
        b'{"activeStreamId": "',
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b"[" * 100_000,
        b"{}{}",
        b'{"assistantMessage": [%s0]}' % (b"[[]]," * 20_000),
    ],
)
async def test_a_stop_whose_body_is_malformed_stops_nothing(url: str, body: bytes) -> None:
    async with worker(redis_url=url) as made:
        _, run = await made.begin()
        answer = await made.request("POST", "/api/chat/c/stop", body=body).ended()
        assert answer.status == 400
        said = json.loads(answer.body)
        assert said["success"] is False
        assert '{"activeStreamId": "<resumable-stream-id>"}' in said["error"]
        assert (await made.request("DELETE", "/api/chat/c/stream", body=body).ended()).status == 400
        assert not await made.nothing()
        run.finish()


async def test_a_stop_with_a_long_message_of_an_app_stops(url: str) -> None:
    async with worker(redis_url=url) as made:
        exchange, _ = await made.begin()
        text = 'He said: "yes", and [then] wrote {this}.\n' * 2000
        fields = {"assistantMessage": {"text": text}, "activeStreamId": exchange.stream_id}
        assert await made.stop(body=json.dumps(fields).encode())


async def test_no_body_of_a_stop_holds_the_event_loop_for_long() -> None:
    """The best of three, since other processes and the garbage collector take their time, too."""
    async with worker(redis_url="memory://") as made:
        for part in (b"[[]],", b"1.5,", b"9" * 4000 + b",", b'{"a":{}},', b'"\\u00e9",', b'"a",'):
            for count in (3000, 5000, 16_000, 1_000_000):
                body = b'{"a":[%s0]}' % (part * min(count, 1_000_000 // len(part)))
                await made.begin()
                took: list[float] = []
                for _ in range(3):
                    exchange = made.request("POST", "/api/chat/c/stop", body=body)
                    began = time.thread_time()
                    await exchange.ended()
                    took.append(time.thread_time() - began)
                assert min(took) < 0.02, "up to 0.1 s where it is just decoded"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_stop_from_another_site_stops_nothing(url: str, method: str) -> None:
    path = "/api/chat/c/stop" if method == "POST" else "/api/chat/c/stream"
    cookie = (b"cookie", b"sid=1")
    evil = [cookie, (b"sec-fetch-site", b"cross-site"), (b"origin", b"https://evil.example")]
    friend = [cookie, (b"sec-fetch-site", b"cross-site"), (b"origin", b"https://app.example.com")]
    async with worker(redis_url=url, owner="cookie:sid", origins=["https://app.example.com"]) as made:
        await made.begin(headers=[cookie])
        refused = await made.request(method, path, headers=evil).ended()
        assert refused.status == 403
        assert "origins" in json.loads(refused.body)["error"]
        stopped = await made.request(method, path, headers=friend).ended()
        assert json.loads(stopped.body) == {"success": True, "stopped": True}
