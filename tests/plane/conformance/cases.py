"""Raw requests, and what becomes of them: understood in one way only and answered in order, or refused and cut.

`seen` is what must have arrived at the engine: as many requests, with these bodies, in this order. None is ever
smuggled behind another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.plane.harness import KEY

BODY = b'{"model":"m"}'
AUTH = b"Host: a\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
GOOD = LINE + AUTH + b"Content-Length: 13\r\n\r\n" + BODY
SMUGGLED = b"GET /v1/engine-info HTTP/1.1\r\n" + AUTH + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SIZED = b"Content-Length: 13\r\n"


@dataclass(frozen=True)
class Case:
    """`statuses` are all answers in order; after them the connection is closed, or still serves if `stays_open`.
    `heads` tells which of them answer a HEAD.
    """

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    seen: tuple[bytes, ...] = ()
    stays_open: bool = False
    heads: tuple[int, ...] = ()


def post(fields: bytes, body: bytes = BODY) -> bytes:
    return LINE + AUTH + fields + b"\r\n" + body


def numbered(number: int) -> bytes:
    return b'{"model":"m","n":%d}' % number


def good(number: int) -> bytes:
    body = numbered(number)
    return post(b"Content-Length: %d\r\n" % len(body), body)


def chunks(*lines: bytes) -> bytes:
    """A chunked request of these lines."""
    return post(CHUNKED, b"".join(line + b"\r\n" for line in lines))


def understood(name: str, sent: bytes, *seen: bytes) -> Case:
    """One request that is answered; the connection goes on."""
    return Case(name, sent, (200,), seen or (BODY,), stays_open=True)


def refused(name: str, sent: bytes, status: int = 400) -> Case:
    return Case(name, sent, (status,))


def _understood() -> Iterator[Case]:
    yield understood("good", GOOD)
    yield Case("pipelined three", b"".join(map(good, (1, 2, 3))), (200,) * 3, tuple(map(numbered, (1, 2, 3))), True)
    yield Case(
        "pipelined mixed",
        good(1) + b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + good(2),
        (200, 200, 200),
        (numbered(1), numbered(2)),
        stays_open=True,
        heads=(1,),
    )
    yield Case(
        "pipelined with chunked between",
        good(1) + chunks(b"d", BODY, b"0", b"") + good(2),
        (200, 200, 200),
        (numbered(1), BODY, numbered(2)),
        stays_open=True,
    )
    yield understood("empty line before a request", b"\r\n" + GOOD)
    yield understood("lower-case fields", GOOD.replace(b"Content-Length", b"content-length"))
    yield understood("spaces around a value", GOOD.replace(b"Length: 13", b"Length:  13 "))
    yield understood("tab before a value", GOOD.replace(b"Length: 13", b"Length:\t13"))
    yield understood("no space before a value", GOOD.replace(b"Length: 13", b"Length:13"))
    yield understood("length with a leading zero", GOOD.replace(b"Length: 13", b"Length: 013"))
    yield understood("a field with an empty value", post(b"X-A:\r\n" + SIZED))
    yield understood("a field of bytes above ASCII", post(b"X-A: \xc3\xa9\r\n" + SIZED))
    yield understood("a query", GOOD.replace(b"completions HTTP", b"completions?api-version=1 HTTP"))
    yield understood("a host with a port", GOOD.replace(b"Host: a", b"Host: a:8080"))
    yield understood("chunked", chunks(b"d", BODY, b"0", b""))
    yield understood(
        "chunked, the coding's name in capitals", chunks(b"d", BODY, b"0", b"").replace(b"chunked", b"CHUNKED")
    )
    yield understood("chunked with an extension", chunks(b"D;a=b", BODY, b"0", b""))
    yield understood("chunked with a quoted extension", chunks(b'd;a="b;c"', BODY, b"0;last", b""))
    yield understood("chunked, sizes with leading zeros", chunks(b"0000d", BODY, b"000", b""))
    yield understood("chunked with a trailer", chunks(b"d", BODY, b"0", b"X-A: b", b""))
    yield understood(
        "trailers that look like framing are dropped", chunks(b"d", BODY, b"0", b"Content-Length: 99", b"")
    )
    bytewise = [line for byte in BODY for line in (b"1", b"%c" % byte)]
    yield Case(
        "chunked byte by byte, then another",
        chunks(*bytewise, b"0", b"") + good(2),
        (200, 200),
        (BODY, numbered(2)),
        True,
    )
    yield Case(
        "expected, and sent at once",
        post(b"Expect: 100-continue\r\n" + SIZED) + good(2),
        (200, 200),
        (BODY, numbered(2)),
        True,
    )
    yield Case("connection: close is kept", post(b"Connection: close\r\n" + SIZED) + GOOD, (200,), (BODY,))
    yield Case("connection: close among others", post(b"Connection: x, Close\r\n" + SIZED) + GOOD, (200,), (BODY,))
    yield Case("HTTP/1.0 is closed", GOOD.replace(b"HTTP/1.1", b"HTTP/1.0") + GOOD, (200,), (BODY,))
    yield understood("upgrade is not taken", post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + SIZED))
    yield understood("websocket is not taken", post(b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + SIZED))
    yield understood(
        "forwarding fields are dropped", post(b"X-Forwarded-For: 127.0.0.1\r\nForwarded: for=a\r\n" + SIZED)
    )


def _lengths() -> Iterator[Case]:
    yield refused("length and coding", post(SIZED + CHUNKED, b"0\r\n\r\n" + SMUGGLED))
    yield refused("coding and length", post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n" + SMUGGLED))
    yield refused("coding and no length at all", post(CHUNKED + b"Content-Length:\r\n", b"0\r\n\r\n" + SMUGGLED))
    yield refused("two lengths", post(SIZED + b"Content-Length: 0\r\n", BODY + SMUGGLED))
    yield refused("two equal lengths", post(SIZED * 2))
    yield refused("two lengths in one", post(b"Content-Length: 13, 13\r\n"))
    yield refused("an empty length", post(b"Content-Length:\r\n"))
    yield refused("negative length", post(b"Content-Length: -1\r\n"))
    yield refused("length with a plus", post(b"Content-Length: +13\r\n"))
    yield refused("length in hexadecimal", post(b"Content-Length: 0xd\r\n"))
    yield refused("length with an underscore", post(b"Content-Length: 1_3\r\n"))
    yield refused("length with a blank in it", post(b"Content-Length: 1 3\r\n"))
    yield refused("length in other digits", post("Content-Length: ١٣\r\n".encode()))
    yield refused("length beyond any number", post(b"Content-Length: 99999999999999999999999\r\n"))
    yield refused("length of all digits", post(b"Content-Length: " + b"9" * 5000 + b"\r\n"))


def _codings() -> Iterator[Case]:
    end = b"0\r\n\r\n"
    yield refused("unknown coding", post(b"Transfer-Encoding: gzip\r\n"))
    yield refused("gzip and chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", end + SMUGGLED))
    yield refused("chunked and gzip", post(b"Transfer-Encoding: chunked, gzip\r\n", end + SMUGGLED))
    yield refused("chunked twice", post(b"Transfer-Encoding: chunked, chunked\r\n", end))
    yield refused("chunked in two fields", post(CHUNKED * 2, end))
    yield refused("chunked, then identity", post(CHUNKED + b"Transfer-Encoding: identity\r\n", end))
    yield refused("identity", post(b"Transfer-Encoding: identity\r\n" + SIZED))
    yield refused("an empty coding", post(b"Transfer-Encoding:\r\n", end + SMUGGLED))
    yield refused("a quoted coding", post(b'Transfer-Encoding: "chunked"\r\n', end + SMUGGLED))
    yield refused("chunked with a parameter", post(b"Transfer-Encoding: chunked;q=1\r\n", end + SMUGGLED))
    yield refused("a coding that begins like chunked", post(b"Transfer-Encoding: chunkedx\r\n", end + SMUGGLED))
    yield refused("coding with a vertical tab", post(b"Transfer-Encoding: \x0bchunked\r\n", end + SMUGGLED))
    yield refused("coding with a no-break space", post(b"Transfer-Encoding: \xa0chunked\r\n", end + SMUGGLED))
    yield refused("space before the colon", post(b"Transfer-Encoding : chunked\r\n", end + SMUGGLED))
    yield refused("tab before the colon", post(b"Transfer-Encoding\t: chunked\r\n", end + SMUGGLED))
    yield refused("coding with an underscore", post(b"Transfer_Encoding: chunked\r\nContent-Length: x\r\n", end))
    yield refused("coding in HTTP/1.0", post(CHUNKED, end).replace(b"1.1", b"1.0"))


def _chunks() -> Iterator[Case]:
    end = (b"0", b"")
    yield refused("chunk size not hexadecimal", post(CHUNKED, b"zz\r\n" + SMUGGLED))
    yield refused("no chunk size", chunks(b"", BODY, *end))
    yield refused("chunk size with a plus", chunks(b"+d", BODY, *end))
    yield refused("chunk size with a minus", chunks(b"-d", BODY, *end))
    yield refused("chunk size with 0x", chunks(b"0xd", BODY, *end))
    yield refused("chunk size with an underscore", chunks(b"0_d", BODY, *end))
    yield refused("blank before a chunk size", chunks(b" d", BODY, *end))
    yield refused("blank behind a chunk size", chunks(b"d ", BODY, *end))
    yield refused("chunk size too long", post(CHUNKED, b"0" * 20 + b"d\r\n" + BODY))
    yield refused("chunk size beyond 64 bits", chunks(b"1" + b"0" * 15 + b"d", BODY, *end))
    yield refused("chunk size with a bare LF", post(CHUNKED, b"d\n" + BODY + b"\n0\n\n"))
    yield refused("bare CR behind a chunk size", post(CHUNKED, b"d\r" + BODY + b"\r\n0\r\n\r\n"))
    yield refused("LF in an extension", post(CHUNKED, b"d;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n"))
    yield refused("NUL in an extension", chunks(b"d;\0", BODY, *end))
    yield refused("an endless extension", post(CHUNKED, b"d;" + b"a" * 2000))
    yield refused("extensions without end", chunks(*[b"1;" + b"a" * 900, b" "] * 20))
    yield refused("chunk longer than its size", post(CHUNKED, b"3\r\n" + BODY + b"\r\n"))
    yield refused("chunk shorter than its size", chunks(b"f", BODY, *end))
    yield refused("no CRLF behind a chunk", post(CHUNKED, b"d\r\n" + BODY + b"0\r\n\r\n"))
    yield refused("a trailer that is no field", chunks(b"d", BODY, b"0", b"nonsense", b""))
    yield refused("a folded trailer", chunks(b"d", BODY, b"0", b"X-A: b", b" c", b""))
    yield refused("blank before a trailer's colon", chunks(b"d", BODY, b"0", b"X-A : b", b""))
    yield refused("bare LF in a trailer", post(CHUNKED, b"d\r\n" + BODY + b"\r\n0\r\nX-A: b\n\r\n\r\n"))
    yield refused("a request as a trailer", post(CHUNKED, b"d\r\n" + BODY + b"\r\n0\r\n" + SMUGGLED))
    yield refused("trailers without end", chunks(b"d", BODY, b"0", *[b"X-A: " + b"a" * 900] * 20))
    yield refused("too many chunks", chunks(*[b"1", b" "] * 20_000))


def _fields() -> Iterator[Case]:
    yield refused("folded field", post(b"X-A: b\r\n c\r\n" + SIZED))
    yield refused("folded by a tab", post(b"X-A: b\r\n\tc\r\n" + SIZED))
    yield refused("folded coding", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + SMUGGLED))
    yield refused("a blank before the first field", GOOD.replace(b"Host", b" Host"))
    yield refused("bare LF in a field", post(b"X-A: b\n" + SIZED))
    yield refused("bare LF before a field", post(b"X-A: b\n\r\n" + SIZED))
    yield refused("bare LF everywhere", GOOD.replace(b"\r\n", b"\n"))
    yield refused("bare CR everywhere", GOOD.replace(b"\r\n", b"\r") + b"\r\n\r\n")
    yield refused("bare CR in a value", post(b"X-A: b\r" + SIZED))
    yield refused("CR CR LF", post(b"X-A: b\r\r\n" + SIZED))
    yield refused("NUL in a value", post(b"X-A: b\0c\r\n" + SIZED))
    yield refused("NUL in a name", post(b"X-\0A: b\r\n" + SIZED))
    yield refused("a control character in a value", post(b"X-A: b\x01c\r\n" + SIZED))
    yield refused("DEL in a value", post(b"X-A: b\x7fc\r\n" + SIZED))
    yield refused("byte above ASCII in a name", post(b"X-\xe9: b\r\n" + SIZED))
    yield refused("blank in a name", post(b"X A: b\r\n" + SIZED))
    yield refused("a name in parentheses", post(b"(x): b\r\n" + SIZED))
    yield refused("field without a name", post(b": b\r\n" + SIZED))
    yield refused("field without a colon", post(b"nonsense\r\n" + SIZED))
    yield refused("two hosts", post(b"Host: b\r\n" + SIZED))
    yield refused("two equal hosts", post(b"Host: a\r\n" + SIZED))
    yield refused("no host", GOOD.replace(b"Host: a\r\n", b""))
    yield refused("an empty host", GOOD.replace(b"Host: a", b"Host:"))
    yield refused("a host with a path and a query", GOOD.replace(b"Host: a", b"Host: a/?x="))
    yield refused("a host with a user", GOOD.replace(b"Host: a", b"Host: b@a"))
    yield refused("a host with a blank", GOOD.replace(b"Host: a", b"Host: a b"))
    yield refused("two hosts in one", GOOD.replace(b"Host: a", b"Host: a, b"))
    yield refused("two authorizations", post(b"authorization: Bearer x\r\n" + SIZED))
    yield refused("two content types", post(b"Content-Type: a/b\r\nContent-Type: c/d\r\n" + SIZED))
    yield refused("unknown expectation", post(b"Expect: a-miracle\r\n" + SIZED), 417)
    yield refused("head too large", LINE + AUTH + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n", 431)
    yield refused("head without end", LINE + AUTH + b"X-A: " + b"a" * 40_000, 431)
    yield refused("too many fields", post(b"".join(b"X-%d: a\r\n" % n for n in range(200)), b""), 431)
    yield refused("too many equal fields", post(b"X: a\r\n" * 200, b""), 431)


def _lines() -> Iterator[Case]:
    yield refused("absolute target", GOOD.replace(b"POST /", b"POST http://a/"))
    yield refused("absolute target of another host", GOOD.replace(b"POST /", b"POST http://b/"))
    yield refused("authority target", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
    yield refused("CONNECT with a path", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n")
    yield refused("asterisk target", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    yield refused("target without a slash", GOOD.replace(b"POST /v1", b"POST v1"))
    yield refused("fragment in the target", GOOD.replace(b"completions HTTP", b"completions#a HTTP"))
    yield refused("two spaces in the request line", GOOD.replace(b"POST /", b"POST  /"))
    yield refused("two spaces before the version", GOOD.replace(b" HTTP/1.1", b"  HTTP/1.1"))
    yield refused("space behind the version", GOOD.replace(b" HTTP/1.1", b" HTTP/1.1 "))
    yield refused("tab in the request line", GOOD.replace(b"POST /", b"POST\t/"))
    yield refused("space before the method", b" " + GOOD)
    yield refused("byte above ASCII in the target", GOOD.replace(b"/v1/", b"/v\xe9/"))
    yield refused("control character in the target", GOOD.replace(b"/v1/", b"/v\x01/"))
    yield refused("unknown method", GOOD.replace(b"POST", b"BREW"))
    yield refused("lower-case method", GOOD.replace(b"POST", b"post"))
    yield refused("HTTP/1.2", GOOD.replace(b"HTTP/1.1", b"HTTP/1.2"))
    yield refused("HTTP/1.10", GOOD.replace(b"HTTP/1.1", b"HTTP/1.10"))
    yield refused("lower-case version", GOOD.replace(b"HTTP/1.1", b"http/1.1"))
    yield refused("HTTP/2.0", GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), 505)
    yield refused("HTTP/0.9", b"GET /healthz\r\n\r\n")
    yield refused("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
    yield refused("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")


def _routes() -> Iterator[Case]:
    """Framed well, and refused for what is asked: the connection goes on."""

    def without(name: str, path: bytes, status: int) -> Case:
        return Case(name, GOOD.replace(b"/v1/chat/completions", path) + good(2), (status, 200), (numbered(2),), True)

    yield without("two slashes", b"//v1/chat/completions", 404)
    yield without("two slashes within", b"/v1//chat/completions", 404)
    yield without("two slashes before a host", b"//a/v1/chat/completions", 404)
    yield without("encoded slash", b"/v1%2fchat/completions", 404)
    yield without("encoded letter", b"/v1/chat/completion%73", 404)
    yield without("twice encoded", b"/v1/chat%252fcompletions", 404)
    yield without("dot segments", b"/v1/x/../chat/completions", 404)
    yield without("encoded dot segments", b"/v1/x/%2e%2e/chat/completions", 404)
    yield without("a backslash", b"/v1\\chat/completions", 404)
    yield without("a path's parameter", b"/v1/chat/completions;a=b", 404)
    yield without("a slash at the end", b"/v1/chat/completions/", 404)
    yield without("another case", b"/V1/chat/completions", 404)
    yield without("the engine's own route", b"/reset_prefix_cache", 404)
    yield Case(
        "wrong key, then right", GOOD.replace(KEY.encode(), b"sk-no") + good(2), (401, 200), (numbered(2),), True
    )
    yield Case(
        "content coding, then none",
        post(b"Content-Encoding: gzip\r\n" + SIZED) + good(2),
        (415, 200),
        (numbered(2),),
        True,
    )
    yield Case(
        "refused with a chunked body", chunks(b"d", BODY, b"0", b"").replace(KEY.encode(), b"sk-no") + GOOD, (401,)
    )


FRAMED = [*_understood(), *_lengths(), *_codings(), *_chunks(), *_fields(), *_lines()]
"""What any server has to decide."""
CASES = [*FRAMED, *_routes()]
