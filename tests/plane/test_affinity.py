"""Where requests find each other again: points that outlast a chat's growth, rings that outlast replicas."""

import json
import string
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gateway.plane import wire
from appliance.gateway.plane.affinity import PIECE, Ring, chat_point, distance, point_of, seed_of, text_point
from appliance.gateway.plane.backends import Backends, Replica
from tests.plane.parts import backends

TRICKY = st.sampled_from(['"role":"assistant"', '"role": "user"', '"assistant"', "\\", '{"', "[]", "語"])
TEXTS = st.lists(TRICKY | st.text(st.sampled_from(string.printable), max_size=20), max_size=6).map("".join)
LONG = st.builds(lambda text, times: text * times, TEXTS, st.integers(1, 60))
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": ")])


def message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def point(messages: list[dict[str, Any]], separators: tuple[str, str] = (",", ":")) -> int:
    return chat_point("ten_1", json.dumps(messages, separators=separators).encode())


@given(st.lists(LONG, max_size=2), LONG, st.lists(st.tuples(LONG, LONG), max_size=4), SEPARATORS)
def test_point_of_a_chat_stays_as_it_grows(
    system: list[str], first: str, turns: list[tuple[str, str]], separators: tuple[str, str]
) -> None:
    messages = [*(message("system", text) for text in system), message("user", first)]
    expected = point(messages, separators)

    for answer, question in turns:
        messages += [message("assistant", answer), message("user", question)]
        assert point(messages, separators) == expected


def test_chats_differ_by_their_first_message_behind_a_long_system_prompt_in_common() -> None:
    system = message("system", "You are helpful. " * 400)
    points = {point([system, message("user", f"question {number}")]) for number in range(100)}
    assert len(points) == 100


def test_long_documents_in_common_meet_whatever_is_asked_of_them() -> None:
    document = "It was a dark and stormy night. " * 200
    assert point([message("user", document + "Who?")]) == point([message("user", document + "Where?")])


def test_same_prompt_of_another_tenant_is_elsewhere() -> None:
    prompt = b'"Once upon a time"'
    assert len({text_point(f"ten_{number}", prompt) for number in range(50)}) == 50
    assert len({point_of(f"ten_{number}", b"session") for number in range(50)}) == 50


def test_text_is_settled_once_it_is_longer_than_a_piece() -> None:
    begun = b'"' + b"x" * PIECE
    assert text_point("ten_1", begun + b'"') == text_point("ten_1", begun + b' and more"')


@pytest.mark.parametrize("damaged", [b"", b"[", b"]", b'"assistant"', b'"role":"assistant"', b'[{"role":"assistant"'])
def test_what_is_no_list_of_messages_has_a_point_all_the_same(damaged: bytes) -> None:
    assert 0 <= chat_point("ten_1", damaged) < 1 << 32


def test_other_processes_agree() -> None:
    """However their hashes are seeded: each worker is a process of its own."""
    program = (
        "from appliance.gateway.plane.affinity import *;"
        'print(point_of("ten_1", b"s"), text_point("ten_1", b"p"), seed_of("dep_1"))'
    )
    expected = f"{point_of('ten_1', b's')} {text_point('ten_1', b'p')} {seed_of('dep_1')}"
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == expected


def replicas(count: int, of: Backends | None = None) -> list[Replica]:
    known = of or backends()
    return [known.get(wire.Replica(f"rpl_{number}", f"/run/{number}"), "dep_1") for number in range(count)]


def owners(among: list[Replica], points: range = range(0, 1 << 32, 1 << 18)) -> list[str]:
    ring = Ring(among)
    return [ring.next(each, among, float("inf")).id for each in points]


@pytest.mark.parametrize("count", [2, 3, 8, 32])
def test_each_replica_gets_its_share(count: int) -> None:
    shares = Counter(owners(replicas(count)))
    mean = sum(shares.values()) / count
    assert len(shares) == count
    assert all(0.6 * mean < share < 1.5 * mean for share in shares.values())


@given(st.integers(1, 12), st.integers(0, 11))
def test_one_replica_less_moves_only_what_was_its_own(count: int, gone: int) -> None:
    whole = replicas(count + 1)
    left = [each for number, each in enumerate(whole) if number != gone % len(whole)]
    points = range(0, 1 << 32, 1 << 24)

    for before, after in zip(owners(whole, points), owners(left, points), strict=True):
        assert after == before or before == whole[gone % len(whole)].id


def test_order_of_the_snapshot_does_not_matter() -> None:
    some = replicas(5)
    assert owners(some) == owners(some[::-1])


def test_ring_is_made_again_only_for_other_replicas() -> None:
    known = backends()
    some = replicas(3, known)
    ring = known.ring("dep_1", some)
    assert known.ring("dep_1", list(some)) is ring
    assert known.ring("dep_1", some[:2]) is not ring


def test_ring_without_an_eligible_replica_says_so() -> None:
    some = replicas(2)
    with pytest.raises(ValueError, match="no replica"):
        Ring(some).next(1, [], 1)


def shares(weights: dict[str, float]) -> dict[int, str]:
    points = [point_of("ten_1", str(number).encode()) for number in range(20_000)]
    return {each: min(weights, key=lambda name: distance(each, seed_of(name), weights[name])) for each in points}


def test_sessions_are_split_by_weight_and_a_change_moves_no_more_than_it_must() -> None:
    before, after = shares({"dep_1": 90, "dep_2": 10}), shares({"dep_1": 80, "dep_2": 20})

    assert Counter(before.values())["dep_2"] / len(before) == pytest.approx(0.1, abs=0.01)
    assert Counter(after.values())["dep_2"] / len(after) == pytest.approx(0.2, abs=0.01)
    assert all(after[each] == "dep_2" for each, deployment in before.items() if deployment == "dep_2")
