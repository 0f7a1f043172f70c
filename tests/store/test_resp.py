from __future__ import annotations

from collections.abc import Callable

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_asgi.store.redis.resp import Parser, PythonParser, Reply, ReplyError, new_parser, pack

Connection = bytes


def native() -> Parser:
    return hiredis.Reader(protocolError=ReplyError, replyError=ReplyError)


PARSERS: list[Callable[[], Parser]] = [PythonParser, native]

Line = st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=20)
Replies = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=30)
    | st.sampled_from([b"", b"\r\n", b"$5\r\nhello\r\n", b"*1\r\n"])
    | Line.map(ReplyError),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)


def encode(reply: Reply) -> Connection:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, ReplyError):
        return b"-%b\r\n" % str(reply).encode()
    return b"*%d\r\n" % len(reply) + b"".join(encode(item) for item in reply)


def plain(reply: Reply) -> Reply:
    """A reply that can be compared."""
    if isinstance(reply, ReplyError):
        return ("error", str(reply))
    return [plain(item) for item in reply] if isinstance(reply, list) else reply


def drain(parser: Parser) -> list[Reply]:
    replies: list[Reply] = []
    while (reply := parser.gets()) is not False:
        replies.append(plain(reply))
    return replies


@pytest.mark.parametrize("make", PARSERS)
@given(st.lists(Replies, max_size=4))
def test_replies_are_the_same_wherever_the_input_is_split(
    make: Callable[[], Parser], replies: list[Reply]
) -> None:
    data = b"".join(map(encode, replies))
    expected = [plain(reply) for reply in replies]
    for cut in range(len(data) + 1):
        parser = make()
        parser.feed(data[:cut])
        got = drain(parser)
        parser.feed(data[cut:])
        assert got + drain(parser) == expected


@pytest.mark.parametrize("make", PARSERS)
def test_replies_are_the_same_byte_by_byte(make: Callable[[], Parser]) -> None:
    replies: list[Reply] = [
        [b"a\r\n", None, [1, [], ReplyError("ERR x")]],
        b"",
        -5,
        [b"message", b"c", b"7:x"],
    ]
    parser = make()
    got: list[Reply] = []
    for byte in b"".join(map(encode, replies)) + b"+OK\r\n*-1\r\n":
        parser.feed(bytes([byte]))
        got += drain(parser)
    assert got == [*(plain(reply) for reply in replies), b"OK", None]


@pytest.mark.parametrize("make", PARSERS)
@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"?\r\n", b":one\r\n", b"$x\r\n", b"*1\r\nx\r\n"]
)
def test_what_redis_would_never_send_raises(make: Callable[[], Parser], data: bytes) -> None:
    parser = make()
    parser.feed(data)
    with pytest.raises((ReplyError, ValueError)):
        parser.gets()


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_a_command_is_an_array_of_its_arguments(arguments: list[bytes]) -> None:
    parser = native()
    parser.feed(pack(*arguments))
    assert parser.gets() == arguments


def test_hiredis_is_used_where_it_is_installed() -> None:
    assert isinstance(new_parser(), hiredis.Reader)
