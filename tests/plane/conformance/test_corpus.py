"""Raw bytes against a recording upstream: what is understood in one way only is answered in order, all else refused."""

import pytest

from tests.plane.conformance.cases import BODY, CASES, GOOD, Case, good, numbered, post
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import Gateway


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_raw(gateway: Gateway, engine: FakeEngine, case: Case) -> None:
    with gateway.connect() as connection:
        connection.send(case.sent)
        answers = [connection.answer(head_only=number in case.heads) for number in range(len(case.statuses))]
        assert tuple(answer.status for answer in answers) == case.statuses
        assert [request.body for request in engine.requests] == list(case.seen)
        if case.stays_open:
            connection.send(good(9))
            assert connection.answer().status == 200
            assert engine.requests[-1].body == numbered(9)
        else:
            assert connection.at_end()
    assert len(engine.requests) == len(case.seen) + case.stays_open
    for answer in answers:
        assert "x-request-id" in answer.fields
        assert answer.complete


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize("name", ["good", "chunked with a trailer"])
def test_request_that_arrives_in_pieces(gateway: Gateway, engine: FakeEngine, name: str, step: int) -> None:
    (sent,) = (case.sent for case in CASES if case.name == name)
    with gateway.connect() as connection:
        for at in range(0, len(sent), step):
            connection.send(sent[at : at + step])
        assert connection.answer().status == 200
    assert engine.requests[0].body == BODY


def test_continue_is_told_before_the_body(gateway: Gateway, engine: FakeEngine) -> None:
    with gateway.connect() as connection:
        connection.send(post(b"Expect: 100-continue\r\nContent-Length: 13\r\n", b""))
        assert connection.answer().status == 100
        connection.send(BODY)
        assert connection.answer().status == 200


def test_continue_is_not_told_to_http_1_0(gateway: Gateway, engine: FakeEngine) -> None:
    sent = post(b"Expect: 100-continue\r\nContent-Length: 13\r\n", b"").replace(b"1.1", b"1.0")
    with gateway.connect() as connection:
        connection.send(sent)
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
