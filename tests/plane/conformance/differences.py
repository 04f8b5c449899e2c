"""Where nginx (1.22, as a proxy) decides otherwise than the gateway, and why the gateway decides as it does."""

from collections.abc import Iterator
from typing import NamedTuple

HEADLESS = 0
"""Stands for an answer without a head, as HTTP/0.9 has them."""


class Difference(NamedTuple):
    statuses: tuple[int, ...]
    """nginx's answers."""
    arrived: int
    """How many requests reached the upstream through it."""
    reason: str


PASSED = (200,)
Differences = Iterator[tuple[str, Difference]]


def _each(names: tuple[str, ...], statuses: tuple[int, ...], arrived: int, reason: str) -> Differences:
    return ((name, Difference(statuses, arrived, reason)) for name in names)


def _stricter() -> Differences:
    """nginx passes on what another server behind it may understand in another way."""
    yield from _each(
        ("bare LF everywhere", "bare LF in a field", "CR CR LF"),
        PASSED,
        1,
        "RFC 9112, 2.2 allows a bare LF to end a line, not every server takes it for one: a way to smuggle",
    )
    yield (
        "bare LF before a field",
        Difference(
            (200, 400), 1, "LF CR LF ends the head for nginx, and the rest of it is the next request: smuggling as such"
        ),
    )
    yield from _each(
        ("a control character in a value", "DEL in a value", "byte above ASCII in a name", "a name in parentheses"),
        PASSED,
        1,
        "RFC 9110, 5.5 and 5.6.2: no part of a value or name",
    )
    yield "field without a colon", Difference(PASSED, 1, "RFC 9112, 5: no field line; nginx drops it")
    yield "two content types", Difference(PASSED, 1, "a singleton: which of the two counts differs between servers")
    yield "a host with a user", Difference(PASSED, 1, "RFC 9110, 7.2: a host and a port only")
    yield from _each(
        ("too many fields", "too many equal fields"),
        PASSED,
        1,
        "the gateway bounds the number of fields, nginx the bytes",
    )
    yield from _each(
        ("chunk size with a bare LF", "blank behind a chunk size", "NUL in an extension"),
        PASSED,
        1,
        "RFC 9112, 7.1: no such chunk; lenient chunk sizes have been used to smuggle (CVE-2025-55315 and others)",
    )
    yield from _each(
        (
            "a trailer that is no field",
            "a folded trailer",
            "blank before a trailer's colon",
            "bare LF in a trailer",
            "a request as a trailer",
        ),
        PASSED,
        1,
        "nginx 1.22 skips trailers unread; the gateway drops them, too, but only well-formed ones",
    )


def _targets() -> Differences:
    yield from _each(
        ("absolute target", "absolute target of another host"),
        PASSED,
        1,
        "RFC 9112, 3.2.2 has servers take it; the host that it names could differ from Host, and no client of an API"
        " that is not a proxy sends it",
    )
    yield "fragment in the target", Difference(PASSED, 1, "RFC 9112, 3.2.1: none in a request; nginx cuts it off")
    yield "byte above ASCII in the target", Difference(PASSED, 1, "RFC 9112, 3.2: to be percent-encoded")
    yield from _each(
        ("two spaces in the request line", "two spaces before the version", "space behind the version"),
        PASSED,
        1,
        "RFC 9112, 3: single spaces; a lenient reading (3, last paragraph) may find another target",
    )
    yield from _each(("HTTP/1.2", "HTTP/1.10"), PASSED, 1, "versions that do not exist")
    yield "HTTP/0.9", Difference((HEADLESS,), 1, "not spoken here: its answers have no end but the connection's")
    yield "unknown method", Difference(PASSED, 1, "no engine knows it: refused before it is asked")


def _otherwise_refused() -> Differences:
    """Both refuse, with other words."""
    yield from _each(
        (
            "unknown coding",
            "gzip and chunked",
            "chunked and gzip",
            "chunked twice",
            "identity",
            "an empty coding",
            "a quoted coding",
            "chunked with a parameter",
            "a coding that begins like chunked",
            "coding with a vertical tab",
            "coding with a no-break space",
        ),
        (501,),
        0,
        "where the request ends is in doubt, so that the gateway says what it always says then: 400",
    )
    yield from _each(("head too large", "head without end"), (400,), 0, "431 (RFC 6585, 5) says more")
    yield "HTTP/2 preface", Difference((400,), 0, "505 says more")
    yield "CONNECT with a path", Difference((405,), 0, "RFC 9112, 3.2.3: a malformed target")
    yield "unknown expectation", Difference(PASSED, 1, "RFC 9110, 10.1.1: 417; nginx ignores it")
    yield from _each(
        (
            "chunk size too long",
            "an endless extension",
            "extensions without end",
            "trailers without end",
            "too many chunks",
        ),
        (),
        0,
        "nginx waits for more as long as it comes; the gateway bounds it, and says so",
    )


def _more_lenient() -> Differences:
    yield "tab before a value", Difference((400,), 0, "RFC 9110, 5.6.3: optional whitespace; nginx takes spaces only")


def _own() -> Differences:
    yield "pipelined mixed", Difference((200, 200, 200), 3, "HEAD / is answered by the gateway itself")


DIFFERENCES = dict([*_stricter(), *_targets(), *_otherwise_refused(), *_more_lenient(), *_own()])
