from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resumable_asgi.formats.sse import COMMENT, after_event_id, at_boundary, event_start, is_settled

# Few symbols, so that line ends meet in every way.
Streams = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b":", b"id:1", b"id: 1", b"data: x"]), max_size=40
).map(b"".join)


def lines_of(data: bytes) -> list[tuple[int, int, int]]:
    """The complete lines of `data`: where each starts, its text ends and its line end ends."""
    lines: list[tuple[int, int, int]] = []
    start = at = 0
    while at < len(data):
        width = 2 if data[at : at + 2] == b"\r\n" else 1
        if data[at : at + 1] in (b"\r", b"\n"):
            lines.append((start, at, at + width))
            start = at + width
        at += width
    return lines


def boundaries_of(data: bytes) -> list[int]:
    return [0] + [end for start, text_end, end in lines_of(data) if start == text_end and start > 0]


@given(Streams)
@example(b"a\r\n\r\n")
@example(b"a\r\n\rb")
@example(b"a\n\n\n")
@example(b"a\r\r\nb")
def test_an_event_starts_at_the_last_boundary_up_to_an_offset(data: bytes) -> None:
    boundaries = boundaries_of(data)
    for offset in range(len(data) + 3):
        expected = max(boundary for boundary in boundaries if boundary <= offset)
        assert event_start(data, offset) == event_start(bytearray(data), offset) == expected


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("length", [16 * 1024 - 2, 16 * 1024, 16 * 1024 + 3, 200_000])
def test_an_event_longer_than_a_search_window_starts_where_it_starts(line_end: bytes, length: int) -> None:
    data = b"data: first" + line_end * 2 + b"x" * length
    for offset in range(len(data) - 5, len(data) + 1):
        assert event_start(data, offset) == 11 + 2 * len(line_end)


def test_an_offset_before_the_start_is_the_start() -> None:
    assert event_start(b"data: x\n\n", -1) == event_start(b"", 0) == 0


@given(Streams)
def test_a_tail_is_at_a_boundary_where_the_whole_stream_is(data: bytes) -> None:
    expected = len(data) in boundaries_of(data)
    assert at_boundary(data) is expected
    if len(data) > 4:
        assert at_boundary(data[-4:]) is expected


@given(Streams, Streams)
def test_a_comment_at_a_boundary_changes_no_event(before: bytes, after: bytes) -> None:
    def events(data: bytes) -> list[list[bytes]]:
        found: list[list[bytes]] = [[]]
        for start, end, _ in lines_of(data):
            if start == end:
                found.append([])
            elif not data.startswith(b":", start):
                found[-1].append(data[start:end])
        return [event for event in found if event]

    if at_boundary(before):
        assert events(before + COMMENT + after) == events(before + after)


@given(Streams)
@example(b"id: 1\n\nid: 1\n")
@example(b"id: 1\r\n\r\nid: 11\n\n")
@example(b"\xef\xbb\xbfid: 1\ndata: x\n\n")
def test_an_event_id_is_found_in_the_last_complete_event_that_has_it(data: bytes) -> None:
    expected, carries = None, False
    for start, text_end, end in lines_of(data):
        text = data[start:text_end]
        carries |= (text.removeprefix(b"\xef\xbb\xbf") if start == 0 else text) in (b"id: 1", b"id:1")
        if start == text_end and start > 0:
            expected, carries = (end if carries else expected), False
    assert after_event_id(data, b"1") == after_event_id(bytearray(data), b"1") == expected


@given(Streams)
@example(b"id: 1\r\n\r\nid: 2\r\n\r\n")
@example(b"id: 1\r\r\n")
def test_a_position_is_the_same_however_much_has_been_written_so_far(data: bytes) -> None:
    """At every moment of a live stream: either the end is not settled yet, or what comes changes nothing."""
    for written in range(len(data) + 1):
        so_far = data[:written]
        position = after_event_id(so_far, b"1")
        if position is not None and (position < written or is_settled(so_far)):
            assert data[position - 1 : position + 1] != b"\r\n"
            assert position in boundaries_of(data)
        for offset in range(written + 1):
            if offset < written or is_settled(so_far):
                assert event_start(so_far, offset) == event_start(data, offset)


@pytest.mark.parametrize("event_id", [b"", b"\n", b"a\r", b"a\0", b"a\n\nid: b"])
def test_what_no_event_can_carry_is_not_found(event_id: bytes) -> None:
    assert after_event_id(b"id: a\n\nid: b\n\nid: \n\nid:\n\n", event_id) is None


def test_an_event_id_may_hold_the_special_characters_of_patterns() -> None:
    assert after_event_id(b"id: a.*(\ndata: x\n\ndata: y\n\n", b"a.*(") == 18
    assert after_event_id(b"id: abc(\n\n", b"a.*(") is None


def test_a_log_of_8_mib_is_searched_in_a_moment() -> None:
    no_boundary = b"data: " + b"x" * (8 << 20)
    many = b"id: 1\ndata: hello\n\n" * (8 << 20 >> 4)
    began = time.perf_counter()
    assert event_start(no_boundary, len(no_boundary)) == 0
    assert event_start(many, len(many) - 1) == len(many) - 19
    assert after_event_id(many, b"1") == len(many)
    assert after_event_id(many, b"2") is None
    assert after_event_id(no_boundary, b"1") is None
    assert time.perf_counter() - began < 2
