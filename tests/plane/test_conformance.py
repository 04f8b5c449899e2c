"""Raw bytes against a recording upstream: what is understood in one way only is answered in order, all else refused.

After every case the number of requests that arrived at the engine equals the number that should have: none is
smuggled behind another.
"""

from dataclasses import dataclass

import pytest

from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import KEY, Gateway

BODY = b'{"model":"m"}'
AUTH = b"Host: a\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
GOOD = LINE + AUTH + b"Content-Length: 13\r\n\r\n" + BODY
SMUGGLED = b"GET /v1/engine-info HTTP/1.1\r\n" + AUTH + b"\r\n"


@dataclass(frozen=True)
class Case:
    name: str
    sent: bytes
    statuses: tuple[int, ...]
    """The answers in order; then the connection must be closed if the last refuses the framing."""
    arrived: int = 0
    stays_open: bool = False


def post(fields: bytes, body: bytes) -> bytes:
    return LINE + AUTH + fields + b"\r\n" + body


CASES = [
    Case("good", GOOD, (200,), 1, stays_open=True),
    Case("pipelined three", GOOD * 3, (200, 200, 200), 3, stays_open=True),
    Case("pipelined mixed", GOOD + b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD, (200, 200, 200), 2, stays_open=True),
    Case("empty line before a request", b"\r\n" + GOOD, (200,), 1, stays_open=True),
    Case("lower-case fields", GOOD.replace(b"Content-Length", b"content-length"), (200,), 1, stays_open=True),
    Case("spaces around a value", GOOD.replace(b"Length: 13", b"Length:  13 "), (200,), 1, stays_open=True),
    Case("chunked", post(b"Transfer-Encoding: chunked\r\n", b"d\r\n" + BODY + b"\r\n0\r\n\r\n"), (200,), 1, True),
    Case(
        "chunked with an extension",
        post(b"Transfer-Encoding: chunked\r\n", b"D;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"),
        (200,),
        1,
        stays_open=True,
    ),
    Case(
        "chunked byte by byte, then another",
        post(
            b"Transfer-Encoding: chunked\r\n",
            b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        )
        + GOOD,
        (200, 200),
        2,
        stays_open=True,
    ),
    Case("connection: close is kept", GOOD.replace(b"Host: a", b"Host: a\r\nConnection: close") + GOOD, (200,), 1),
    Case("HTTP/1.0 is closed", GOOD.replace(b"HTTP/1.1", b"HTTP/1.0") + GOOD, (200,), 1),
    Case(
        "upgrade is not taken",
        GOOD.replace(b"Host: a", b"Host: a\r\nConnection: upgrade\r\nUpgrade: h2c"),
        (200,),
        1,
        True,
    ),
    Case(
        "length and coding",
        post(b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        (400,),
    ),
    Case(
        "coding and length",
        post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n" + SMUGGLED),
        (400,),
    ),
    Case("two lengths", post(b"Content-Length: 13\r\nContent-Length: 0\r\n", BODY + SMUGGLED), (400,)),
    Case("two equal lengths", post(b"Content-Length: 13\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("two lengths in one", post(b"Content-Length: 13, 13\r\n", BODY), (400,)),
    Case("negative length", post(b"Content-Length: -1\r\n", BODY), (400,)),
    Case("length with a plus", post(b"Content-Length: +13\r\n", BODY), (400,)),
    Case("length in hexadecimal", post(b"Content-Length: 0xd\r\n", BODY), (400,)),
    Case("length beyond any number", post(b"Content-Length: 99999999999999999999999\r\n", BODY), (400,)),
    Case("unknown coding", post(b"Transfer-Encoding: gzip\r\n", BODY), (400,)),
    Case("gzip and chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n" + SMUGGLED), (400,)),
    Case("chunked twice", post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), (400,)),
    Case("chunked in two fields", post(b"Transfer-Encoding: chunked\r\n" * 2, b"0\r\n\r\n"), (400,)),
    Case(
        "chunked, then identity",
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n"),
        (400,),
    ),
    Case("coding with a vertical tab", post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n" + SMUGGLED), (400,)),
    Case("space before the colon", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + SMUGGLED), (400,)),
    Case("coding in HTTP/1.0", post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n").replace(b"1.1", b"1.0"), (400,)),
    Case("folded field", post(b"X-A: b\r\n c\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("folded coding", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + SMUGGLED), (400,)),
    Case("bare LF in a field", post(b"X-A: b\nContent-Length: 13\r\n", BODY), (400,)),
    Case("bare LF everywhere", GOOD.replace(b"\r\n", b"\n"), (400,)),
    Case("bare CR in a value", post(b"X-A: b\rContent-Length: 13\r\n", BODY), (400,)),
    Case("NUL in a value", post(b"X-A: b\0c\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("NUL in a name", post(b"X-\0A: b\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("field without a name", post(b": b\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("field without a colon", post(b"nonsense\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("two hosts", post(b"Host: b\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("no host", GOOD.replace(b"Host: a\r\n", b""), (400,)),
    Case("two authorizations", post(b"authorization: Bearer x\r\nContent-Length: 13\r\n", BODY), (400,)),
    Case("absolute target", GOOD.replace(b"POST /", b"POST http://a/"), (400,)),
    Case("authority target", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
    Case("asterisk target", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", (400,)),
    Case("fragment in the target", GOOD.replace(b"completions HTTP", b"completions#a HTTP"), (400,)),
    Case("two spaces in the request line", GOOD.replace(b"POST /", b"POST  /"), (400,)),
    Case("tab in the request line", GOOD.replace(b"POST /", b"POST\t/"), (400,)),
    Case("byte above ASCII in the target", GOOD.replace(b"/v1/", b"/v\xe9/"), (400,)),
    Case("unknown method", GOOD.replace(b"POST", b"BREW"), (400,)),
    Case("lower-case method", GOOD.replace(b"POST", b"post"), (400,)),
    Case("HTTP/2.0", GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), (505,)),
    Case("HTTP/0.9", b"GET /healthz\r\n\r\n", (400,)),
    Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
    Case("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,)),
    Case("head too large", LINE + AUTH + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n", (431,)),
    Case("head without end", LINE + AUTH + b"X-A: " + b"a" * 40_000, (431,)),
    Case("too many fields", post(b"".join(b"X-%d: a\r\n" % n for n in range(200)), b""), (431,)),
    Case("too many equal fields", post(b"X: a\r\n" * 200, b""), (431,)),
    Case("unknown expectation", post(b"Expect: a-miracle\r\nContent-Length: 13\r\n", BODY), (417,)),
    Case("content coding", post(b"Content-Encoding: gzip\r\nContent-Length: 13\r\n", BODY) + GOOD, (415, 200), 1, True),
    Case("wrong key, then right", GOOD.replace(KEY.encode(), b"sk-no") + GOOD, (401, 200), 1, stays_open=True),
    Case("chunk size not hexadecimal", post(b"Transfer-Encoding: chunked\r\n", b"zz\r\n" + SMUGGLED), (400,)),
    Case(
        "chunk size with a plus", post(b"Transfer-Encoding: chunked\r\n", b"+d\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)
    ),
    Case("chunk size with 0x", post(b"Transfer-Encoding: chunked\r\n", b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    Case("chunk size too long", post(b"Transfer-Encoding: chunked\r\n", b"0" * 20 + b"d\r\n" + BODY), (400,)),
    Case("chunk size with a bare LF", post(b"Transfer-Encoding: chunked\r\n", b"d\n" + BODY + b"\n0\n\n"), (400,)),
    Case("chunk longer than its size", post(b"Transfer-Encoding: chunked\r\n", b"3\r\n" + BODY + b"\r\n"), (400,)),
    Case("trailer", post(b"Transfer-Encoding: chunked\r\n", b"d\r\n" + BODY + b"\r\n0\r\nX-A: b\r\n\r\n"), (200,), 1, True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_raw(gateway: Gateway, engine: FakeEngine, case: Case) -> None:
    with gateway.connect() as connection:
        connection.send(case.sent)
        answers = [connection.answer(head_only=_is_head(case, number)) for number in range(len(case.statuses))]
        assert tuple(answer.status for answer in answers) == case.statuses
        if case.stays_open:
            connection.send(GOOD)
            assert connection.answer().status == 200
        else:
            assert connection.at_end()
    assert len(engine.requests) == case.arrived + case.stays_open
    for answer in answers:
        assert "x-request-id" in answer.fields
        assert answer.complete


def _is_head(case: Case, number: int) -> bool:
    return case.name == "pipelined mixed" and number == 1


@pytest.mark.parametrize("step", [1, 7])
def test_request_that_arrives_in_pieces(gateway: Gateway, engine: FakeEngine, step: int) -> None:
    with gateway.connect() as connection:
        for at in range(0, len(GOOD), step):
            connection.send(GOOD[at : at + step])
        assert connection.answer().status == 200
    assert engine.requests[0].json == {"model": "m"}


def test_continue_is_told_before_the_body(gateway: Gateway, engine: FakeEngine) -> None:
    with gateway.connect() as connection:
        connection.send(post(b"Expect: 100-continue\r\nContent-Length: 13\r\n", b""))
        assert connection.answer().status == 100
        connection.send(BODY)
        assert connection.answer().status == 200


def test_refusal_comes_instead_of_continue(gateway: Gateway, engine: FakeEngine) -> None:
    with gateway.connect() as connection:
        connection.send(post(b"Expect: 100-continue\r\nContent-Length: 13\r\n", b"").replace(b"sk-", b"xx-"))
        assert connection.answer().status == 401
        assert connection.at_end()


def test_answers_come_in_the_order_of_the_requests(gateway: Gateway, engine: FakeEngine) -> None:
    requests = [GOOD.replace(b"Host: a", b"Host: a\r\nX-Request-Id: n%d" % number) for number in range(50)]
    with gateway.connect() as connection:
        connection.send(b"".join(requests))
        answers = [connection.answer() for _ in requests]
    assert [answer.fields["x-request-id"] for answer in answers] == [f"n{number}" for number in range(50)]
    assert len(engine.requests) == 50


@pytest.mark.parametrize("request_id", ["a b", "x" * 200, "é"])
def test_malformed_request_id_is_replaced(gateway: Gateway, request_id: str) -> None:
    sent = GOOD.replace(b"Host: a", b"Host: a\r\nX-Request-Id: " + request_id.encode())

    assert gateway.ask(sent).fields["x-request-id"].startswith("req_")
