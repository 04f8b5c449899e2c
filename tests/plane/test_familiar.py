"""Heads that were admitted before: what is found for one is what would come of it anew."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.gateway.plane.admitted import Admitted
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.familiar import MAX_HEAD, MAX_KEPT, FamiliarHeads
from appliance.gateway.plane.head import RequestHead, parse_request
from appliance.gateway.plane.tables import EMPTY, Tables
from tests.plane import parts

LISTENER = "lsn_1"
NAMES = st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"X-A", b"Transfer-Encoding"])
VALUES = st.sampled_from(
    [b"7", b"12", b"0", b"0012", b" 5 ", b"+5", b"5,5", b"", b"chunked", b"1" * 15, b"1" * 16, b"a"]
)


def whole(*fields: tuple[bytes, bytes], line: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a", *(b"%b: %b" % field for field in fields)]) + b"\r\n\r\n"


def admitted(head: RequestHead) -> Admitted:
    request = parts.request(parts.shard())
    return Admitted(head, request.principal, request.service, request.matched, request.line, 1 << 20)


def told(head: RequestHead) -> tuple[object, ...]:
    fields = {name: value for name, value in head.fields.items() if name != b"content-length"}
    return head.method, head.path, head.query, fields, head.content_length, head.chunked, head.http_1_0, head.keep_alive


@given(st.lists(st.tuples(NAMES, VALUES), max_size=3), st.lists(st.tuples(NAMES, VALUES), max_size=3))
@example([(b"Content-Length", b"7")], [(b"Content-Length", b"123")])
@example([(b"X-A", b"7"), (b"Content-Length", b"7")], [(b"X-A", b"7"), (b"Content-Length", b"0012")])
@example([(b"Content-Length", b"7"), (b"X-A", b"7")], [(b"Content-Length", b"7"), (b"Content-Length", b"7")])
def test_what_is_found_is_what_would_be_understood(
    before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]
) -> None:
    heads = FamiliarHeads()
    try:
        known = parse_request(whole(*before))
    except Refusal:
        return
    heads.keep(whole(*before), LISTENER, admitted(known))

    found = heads.find(whole(*after), LISTENER, EMPTY)

    if found is not None:
        assert told(found[1]) == told(parse_request(whole(*after)))


def test_only_the_length_may_differ() -> None:
    heads = FamiliarHeads()
    first = whole((b"Content-Length", b"7"), (b"X-A", b"1"))
    came = admitted(parse_request(first))
    assert heads.find(first, LISTENER, EMPTY) is None
    heads.keep(first, LISTENER, came)

    found = heads.find(whole((b"Content-Length", b"123"), (b"X-A", b"1")), LISTENER, EMPTY)

    assert found is not None
    assert (found[0], found[1].content_length) == (came, 123)
    assert heads.find(first, "lsn_2", EMPTY) is None
    for other in (
        whole((b"Content-Length", b"7"), (b"X-A", b"2")),
        whole((b"Content-Length", b"7"), (b"X-A", b"1"), line=b"POST /v1/completions HTTP/1.1"),
        whole((b"Content-Length", b"7"), (b"X-A", b"1"), (b"Content-Length", b"7")),
        whole((b"Content-Length", b"7,7"), (b"X-A", b"1")),
        whole((b"Content-Length", b"1" * 16), (b"X-A", b"1")),
    ):
        assert heads.find(other, LISTENER, EMPTY) is None


def test_another_snapshot_begins_anew() -> None:
    heads = FamiliarHeads()
    head = whole((b"Content-Length", b"7"))
    heads.find(head, LISTENER, EMPTY)
    heads.keep(head, LISTENER, admitted(parse_request(head)))

    assert heads.find(head, LISTENER, Tables(1, {}, {}, [], {})) is None
    assert heads.find(head, LISTENER, EMPTY) is None


def test_what_is_asked_for_stays_and_what_is_not_goes() -> None:
    heads = FamiliarHeads()
    often, once = (whole((b"X-A", name), (b"Content-Length", b"1")) for name in (b"often", b"once"))
    for head in (often, once):
        heads.keep(head, LISTENER, admitted(parse_request(head)))
    came = admitted(parse_request(often))
    for number in range(3 * MAX_KEPT):
        heads.keep(whole((b"X-A", b"%d" % number), (b"Content-Length", b"1")), LISTENER, came)
        assert heads.find(often, LISTENER, EMPTY) is not None
    assert heads.find(once, LISTENER, EMPTY) is None


def test_a_long_head_is_not_kept() -> None:
    heads = FamiliarHeads()
    head = whole((b"X-A", b"a" * MAX_HEAD), (b"Content-Length", b"1"))
    heads.keep(head, LISTENER, admitted(parse_request(head)))
    assert heads.find(head, LISTENER, EMPTY) is None


def test_expiry_and_network_are_checked_each_time() -> None:
    head = parse_request(whole((b"Content-Length", b"7")))
    of = parts.request(parts.shard())

    def of_key(**changes: Any) -> Admitted:
        by = parts.principal(**changes)
        return Admitted(head, by, of.service, of.matched, of.line, 1 << 20)

    of_key(expires_at=100.0).check_again("10.0.0.1", 99.0)
    with pytest.raises(Refusal, match="expired"):
        of_key(expires_at=100.0).check_again("10.0.0.1", 100.0)
    of_key(networks=["10.0.0.0/8"]).check_again("10.0.0.1", 0.0)
    with pytest.raises(Refusal, match="may not be used from"):
        of_key(networks=["10.0.0.0/8"]).check_again("192.0.2.1", 0.0)
