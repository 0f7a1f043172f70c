from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_asgi.request.key_scan import MOST_STEPS, KeyScan, KeyState

NAMES = st.sampled_from(["id", "a", "b", "chat", "i", "idd", '"', "\\", "ü", "\U0001f600", "", "\x07"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["id", '"id": 1', "}", "]", "\\", '\\"', "\ud800", "\\u0069d"])
)


class Pairs(list[tuple[str, Any]]):
    """An object whose names may repeat."""


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(NAMES, inner), max_size=5).map(Pairs),
    max_leaves=20,
)
OBJECTS = st.lists(st.tuples(NAMES, VALUES), max_size=6).map(Pairs)


def dumped(value: Any, draw: Any) -> str:
    """JSON with whatever white space and escapes may stand in it."""

    def space() -> str:
        return draw(st.sampled_from(["", "", " ", "\n\t\r "]))

    def text(value: str) -> str:
        plain = json.dumps(value, ensure_ascii=draw(st.booleans()))
        if value and draw(st.integers(0, 3)) == 0 and ord(value[0]) < 0x10000:
            return f'"\\u{ord(value[0]):04x}' + json.dumps(value[1:])[1:]
        return plain

    if isinstance(value, Pairs):
        members = [f"{space()}{text(name)}{space()}:{space()}{dumped(each, draw)}" for name, each in value]
        return "{" + f"{space()},".join(members) + space() + "}"
    if isinstance(value, list):
        items = [space() + dumped(each, draw) for each in value]  # pyright: ignore[reportUnknownVariableType]
        return "[" + f"{space()},".join(items) + space() + "]"
    return text(value) if isinstance(value, str) else json.dumps(value)


def expected(body: bytes, path: str) -> str | None:
    """By `json.loads`, but that the first of repeated members counts."""

    def first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))

    value = json.loads(body, object_pairs_hook=first)
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def scanned(path: str, parts: list[bytes]) -> KeyScan:
    scan = KeyScan(path)
    for part in parts:
        scan.feed(part)
        while scan.state is KeyState.BUSY:
            scan.feed(b"")
    return scan


@given(OBJECTS, st.sampled_from(["id", "a", "chat.id", "a.b.id", "ü", '"', "a.a"]), st.data())
def test_the_scan_agrees_with_json_loads_however_the_body_is_cut(
    value: Pairs, path: str, data: st.DataObject
) -> None:
    text = data.draw(st.sampled_from(["", "\n", "\ufeff"])) + dumped(value, data.draw)
    body = text.encode("utf-8", "surrogatepass")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    parts = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    whole, cut, bytewise = (
        scanned(path, each) for each in ([body], parts, [body[n : n + 1] for n in range(len(body))])
    )
    key = expected(body, path)
    try:
        (key or "").encode()
    except UnicodeEncodeError:
        return  # a lone surrogate, which is no key either way
    assert whole.key == cut.key == bytewise.key == key
    for scan in (whole, cut, bytewise):
        assert scan.state is (KeyState.ABSENT if key is None else KeyState.FOUND)


@given(st.binary(), st.lists(st.binary(max_size=20), max_size=5))
def test_no_bytes_raise(body: bytes, parts: list[bytes]) -> None:
    scanned("a.b", [body, *parts])
    for start in (b"{", b'{"a":', b'{"a":{"b":', b'{"a":{"x":[', b'{"a":{"b":"', b'{"x":"'):
        scanned("a.b", [start, body, *parts])


@pytest.mark.parametrize(
    ("before", "state"),
    [
        (b'{"id": "a"', KeyState.FOUND),
        (b'{"id": 7 ', KeyState.FOUND),
        (b'{"id": 7', KeyState.READING),
        (b'{"id": "a', KeyState.READING),
        (b'{"x": {}', KeyState.READING),
        (b'{"id": t,', KeyState.ABSENT),
        (b'{"id": {', KeyState.ABSENT),
        (b'{"x": {}}', KeyState.ABSENT),
        (b"[", KeyState.ABSENT),
        (b"nothing like JSON", KeyState.ABSENT),
        (b'{"x": 1 2', KeyState.ABSENT),
        (b'{"id": "' + b"x" * 10_000, KeyState.ABSENT),
        (b'{"id": ' + b"7" * 1_000, KeyState.ABSENT),
    ],
)
def test_the_scan_ends_as_soon_as_it_can_know(before: bytes, state: KeyState) -> None:
    assert KeyScan("id").feed(before) is state


def test_the_first_object_of_a_dotted_path_counts() -> None:
    assert scanned("a.id", [b'{"a": {"x": 1}, "a": {"id": "k"}}']).state is KeyState.ABSENT
    assert scanned("a.id", [b'{"a": [], "a": {"id": "k"}}']).state is KeyState.ABSENT
    assert scanned("a.id", [b'{"a": {"id": "k"', b"never read"]).key == "k"


@pytest.mark.parametrize("piece", [b"[[]],", b"[ ] , ", b'{"a":1},', b'{"a":[]},[],', b"[" * 1_000 + b" "])
def test_what_is_passed_over_takes_no_more_than_so_many_steps(piece: bytes) -> None:
    scan = scanned("id", [b'{"x": ['] + [piece * (20_000 // len(piece) + 1)] * 80)
    assert scan._steps <= MOST_STEPS + 1


@pytest.mark.parametrize(
    "piece",
    [b'"",', b"[[]],", b"[ ", b"] ", b'["', b'["\\""],', b'"\\\\",', b'{"a":{"b":[', b'[[["","",'],
)
@pytest.mark.parametrize("before", [b'{"x":[', b'{"x":[[[["a","b",', b'{"x":["', b"{"])
def test_no_piece_takes_long_at_once(before: bytes, piece: bytes) -> None:
    """A pattern that backtracks would take for ever; this one takes less than a millisecond."""
    for shift in range(3):
        scan = KeyScan("id")
        began = time.perf_counter()
        scan.feed(before + piece[shift:] + piece * (8192 // len(piece)))
        assert time.perf_counter() - began < 0.2


@pytest.mark.parametrize("piece", [b'"\\u0061":0,', b'"a":[],', b'"":0 , '])
def test_members_beside_the_key_take_no_more_either(piece: bytes) -> None:
    scan = scanned("id", [b"{"] + [piece * (20_000 // len(piece) + 1)] * 80)
    assert scan._steps <= MOST_STEPS + 100


@pytest.mark.parametrize(
    "body",
    [b'{"x": "%s' % (b"x" * 1_000_000), b'{"%s' % (b"x" * 1_000_000), b'{"x": %s' % (b"7" * 1_000_000)],
)
def test_what_was_passed_is_not_kept(body: bytes) -> None:
    scan = scanned("id", [body[n : n + 10_000] for n in range(0, len(body), 10_000)])
    assert scan.state is KeyState.READING
    assert len(scan._carry) < 100
