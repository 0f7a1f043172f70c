from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_asgi.formats import ai_sdk, recognise, sse
from resumable_asgi.formats.ai_sdk import MOST_HELD_BACK, MessageId
from resumable_asgi.formats.sse import COMMENT
from resumable_asgi.outcome import Outcome

FAILURES = [Outcome.ERROR, Outcome.INTERRUPTED, Outcome.LOST]
START = b'data: {"type":"start"}\n\n'
GIVEN = b'data: {"messageId":"ID","type":"start"}\n\n'


def passed_through(data: bytes) -> bytes:
    message_id = MessageId("ID")
    return message_id.feed(data) + message_id.flush()


@pytest.mark.parametrize("name", [b"x-vercel-ai-ui-message-stream", b"X-Vercel-AI-UI-Message-Stream"])
def test_the_ai_sdk_is_recognised_by_its_header(name: bytes) -> None:
    assert recognise([(b"content-type", b"text/event-stream"), (name, b"v1")]) is ai_sdk.FORMAT


def test_every_other_stream_is_plain() -> None:
    assert recognise([]) is sse.FORMAT
    assert recognise([(b"content-type", b"x-vercel-ai-ui-message-stream")]) is sse.FORMAT


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (START, GIVEN),
        (b'data:{"type":"start"}\n\n', b'data:{"messageId":"ID","type":"start"}\n\n'),
        (START.replace(b"\n", b"\r\n"), GIVEN.replace(b"\n", b"\r\n")),
        (START.replace(b"\n", b"\r"), GIVEN.replace(b"\n", b"\r")),
        (b"\xef\xbb\xbf" + START, b"\xef\xbb\xbf" + GIVEN),
        (b"\n\n" + START, b"\n\n" + GIVEN),
        (b": data: {}\n\n" + START, b": data: {}\n\n" + GIVEN),
        (b"retry: 5\n\n" + START, b"retry: 5\n\n" + GIVEN),
        (b": x\nid: 1\nevent: m\n" + START, b": x\nid: 1\nevent: m\n" + GIVEN),
        (b'data: {"type":"start"}\nid: {\n\n', b'data: {"messageId":"ID","type":"start"}\nid: {\n\n'),
        (b'data:  { "type" : "start" }\n\n', b'data:  {"messageId":"ID", "type" : "start" }\n\n'),
        (
            b'data: {\ndata:   "type": "start"\ndata: }\n\n',
            b'data: {"messageId":"ID",\ndata:   "type": "start"\ndata: }\n\n',
        ),
        (b'data\ndata: {"type":"start"}\n\n', b'data\ndata: {"messageId":"ID","type":"start"}\n\n'),
        (START + START, GIVEN + START),
    ],
)
def test_a_first_start_chunk_without_a_message_id_gets_one(data: bytes, expected: bytes) -> None:
    assert passed_through(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"data: [DONE]\n\n",
        b'data: {"type":"start","messageId":"own"}\n\n',
        b'data: {"type":"start","messageId":null}\n\n',
        b'data: {"type":"text-start","id":"1"}\n\n' + START,
        b"data: [DONE]\n\n" + START,
        b"data:\n\n" + START,
        b"data\n\n" + START,
        b'data: ["start"]\n\n',
        b'data: "start"\n\n',
        b'data: {"type":"start"\n\n',
        b'data: {"type":"start"} x\n\n',
        b'data: {"type":"start","x":"\xff"}\n\n',
        b'data: {"type":"start"}\n',
        b'data: {"type":"start"}',
        b' data: {"type":"start"}\n\n',
        b'Data: {"type":"start"}\n\n',
        b'database: {"type":"start"}\n\n',
        b": ping\n\n: ping\n\n",
        b"\xff\xfe\x00\n\n",
        b": ping\n\n\xef\xbb\xbf" + START,
        b"data: " + b"[" * 50_000 + b"\n\n",
        b'data: {"type":"start","x":' + b"9" * 5000 + b"}\n\n",
    ],
)
def test_every_other_stream_passes_unchanged(data: bytes) -> None:
    assert passed_through(data) == data


def test_a_stream_id_with_special_characters_stays_valid_json() -> None:
    data = MessageId('a"\\\n\u2028').feed(START)
    assert json.loads(data.removeprefix(b"data: ")) == {"messageId": 'a"\\\n\u2028', "type": "start"}


LINE_ENDS = [b"\n", b"\r\n", b"\r"]
Pieces = st.lists(
    st.one_of(
        st.sampled_from([*LINE_ENDS, *(START.replace(b"\n", line_end) for line_end in LINE_ENDS)]),
        st.sampled_from([b": ping\r\n\r\n", b"id: 1\n", b"\xef\xbb\xbf", b"data", b"data: "]),
        st.sampled_from([b"{", b"}", b'"type":"start"', b'"messageId":1']),
    ),
    max_size=8,
).map(b"".join)


@given(Pieces, st.data())
def test_it_makes_no_difference_how_the_bytes_arrive(data: bytes, draw: st.DataObject) -> None:
    whole = passed_through(data)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=len(data))))
    for bounds in (cuts, range(len(data))):
        message_id, got = MessageId("ID"), b""
        for start, end in zip([0, *bounds], [*bounds, len(data)], strict=True):
            got += message_id.feed(data[start:end])
        assert got + message_id.flush() == whole


@given(Pieces)
def test_nothing_but_the_insertion_ever_differs(data: bytes) -> None:
    assert passed_through(data).replace(b'"messageId":"ID",', b"", 1) == data


def test_a_ping_passes_at_once_and_the_first_event_when_it_is_complete() -> None:
    message_id = MessageId("ID")
    assert message_id.feed(b": ping\r\n\r\n") == b": ping\r\n\r\n"
    assert message_id.feed(START[:-1]) == b""
    assert not message_id.done
    assert message_id.feed(START[-1:] + b"data: half") == GIVEN + b"data: half"
    assert message_id.done
    assert message_id.feed(b" a chunk") == b" a chunk"
    assert message_id.flush() == b""


@pytest.mark.parametrize("first", [b"data: ", b": "])
def test_an_event_that_is_too_long_to_hold_back_passes_unchanged(first: bytes) -> None:
    message_id = MessageId("ID")
    data = first + b"x" * MOST_HELD_BACK
    assert message_id.feed(data) == data
    assert message_id.done
    assert passed_through(data + b"\n\n" + START) == data + b"\n\n" + START


def test_an_event_of_just_the_most_that_is_held_back_gets_its_id() -> None:
    data = b'data: {"type":"start","x":"' + b"x" * (MOST_HELD_BACK - 31) + b'"}\n\n'
    assert len(data) == MOST_HELD_BACK
    assert len(passed_through(data)) == len(data) + len(b'"messageId":"ID",')


@pytest.mark.parametrize("outcome", [Outcome.STOPPED, *FAILURES])
@pytest.mark.parametrize("tail", [b"", b"data: x\n\n", b"data: half", b"data: [DONE]\n\n"])
def test_plain_streams_are_never_touched_and_failures_break_the_connection(
    outcome: Outcome, tail: bytes
) -> None:
    end = sse.FORMAT.ending(outcome, tail)
    assert (end.body, end.clean) == (b"", outcome is Outcome.STOPPED)


@pytest.mark.parametrize("tail", [b"", b"data: x\n\n", b"data: x\r\n\r\n", b"data: x\n\n" + COMMENT])
def test_a_stopped_ai_sdk_stream_ends_with_abort(tail: bytes) -> None:
    end = ai_sdk.FORMAT.ending(Outcome.STOPPED, tail)
    assert (end.body, end.clean) == (b'data: {"type":"abort"}\n\ndata: [DONE]\n\n', True)


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_failed_ai_sdk_stream_ends_with_an_error_for_people(outcome: Outcome) -> None:
    end = ai_sdk.FORMAT.ending(outcome, b"data: x\n\n")
    first, done, rest = end.body.split(b"\n\n")
    chunk = json.loads(first.removeprefix(b"data: "))
    assert (chunk["type"], set(chunk), done, rest) == ("error", {"type", "errorText"}, b"data: [DONE]", b"")
    assert chunk["errorText"].endswith(".")
    assert end.clean


@pytest.mark.parametrize(
    "tail",
    [
        b'data: {"type":"text-del',
        b'data: {"type":"finish"}\n',
        b"data: [DONE]\n\n",
        b"data:[DONE]\r\n\r\n",
        b'data: {"type":"finish"}\n\ndata: [DONE]\n\n',
        b"data: [DONE]\n\n" + COMMENT,
    ],
)
@pytest.mark.parametrize("outcome", [Outcome.STOPPED, *FAILURES])
def test_within_an_event_or_after_done_an_ai_sdk_stream_ends_like_a_plain_one(
    tail: bytes, outcome: Outcome
) -> None:
    assert ai_sdk.FORMAT.ending(outcome, tail) == sse.FORMAT.ending(outcome, tail)


def test_the_text_done_inside_an_answer_is_no_end() -> None:
    assert ai_sdk.FORMAT.ending(Outcome.LOST, b'data: {"delta":"data: [DONE]"}\n\n').body
