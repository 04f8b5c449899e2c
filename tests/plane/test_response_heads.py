"""Heads of an engine's answers: what is known of one is what it would be understood as anew."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.gateway.plane import response_head
from appliance.gateway.plane.response_head import parse_response

LINES = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 503 x"])
NAMES = st.sampled_from([b"content-length", b"Content-Length", b"connection", b"transfer-encoding", b"x-a"])
VALUES = st.sampled_from([b"7", b"355", b"0012", b"1" * 15, b"1" * 25, b"+1", b"close", b"keep-alive", b"chunked", b""])


def answer(line: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"\r\n".join([line, *(b"%b: %b" % field for field in fields)]) + b"\r\n\r\n"


@given(LINES, st.lists(st.tuples(NAMES, VALUES), max_size=4))
@example(b"HTTP/1.1 200 OK", [(b"content-length", b"355")])
@example(b"HTTP/1.0 200 OK", [(b"connection", b"keep-alive"), (b"content-length", b"355")])
def test_what_is_known_is_what_would_be_understood(line: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    head = answer(line, fields)
    try:
        expected = response_head._parse(head)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            parse_response(head)
        return
    assert parse_response(head) == expected
    assert parse_response(head) == expected


def test_two_lengths_differ_in_nothing_else() -> None:
    def of(length: int) -> bytes:
        return answer(b"HTTP/1.1 200 OK", [(b"server", b"uvicorn"), (b"content-length", b"%d" % length)])

    one, other = parse_response(of(10)), parse_response(of(123_456))
    assert (one[1][b"content-length"], other[1][b"content-length"]) == (b"10", b"123456")
    assert one[::2] == other[::2] == (200, True)


def test_a_long_head_is_understood_each_time() -> None:
    head = answer(b"HTTP/1.1 200 OK", [(b"x-a", b"a" * 4000), (b"content-length", b"7")])
    status, fields, _ = parse_response(head)
    assert (status, len(fields[b"x-a"]), fields[b"content-length"]) == (200, 4000, b"7")
