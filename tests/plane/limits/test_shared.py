"""Counters over several tables: each object here is a worker of its own, as far as the files can tell."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.gateway.plane.limits import layout
from appliance.gateway.plane.limits.charge import charge, charged_last, finish_charge
from appliance.gateway.plane.limits.counter import Counter
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS, SUMS, Kind
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.log import Log
from tests.support.waiting import eventually

LOG = Log(process="test")


def counters(directory: Path, index: int) -> Counters:
    return Counters(directory, index, LOG)


def sum_of(counter: Counter, word: int = SUMS) -> int:
    return sum(words[at + word] for words, at in counter.rows())


def test_what_one_worker_holds_the_others_see_at_their_next_read(tmp_path: Path) -> None:
    first, second = counters(tmp_path, 0), counters(tmp_path, 1)
    ours, theirs = first.claim(Kind.REPLICA, "rpl_1"), second.claim(Kind.REPLICA, "rpl_1")
    ours.add(HELD_REQUESTS, 2)
    theirs.add(HELD_REQUESTS, 3)
    assert ours.held() == theirs.held() == 5
    theirs.add(HELD_REQUESTS, -3)
    assert (ours.held(), ours.own(HELD_REQUESTS), theirs.own(HELD_REQUESTS)) == (2, 2, 0)
    assert first.claim(Kind.RATE, "rpl_1").held() == 0, "another kind is another subject"


def test_worker_that_comes_later_is_found_without_waiting(tmp_path: Path) -> None:
    ours = counters(tmp_path, 0).claim(Kind.RATE, "key_1")
    ours.add(HELD_REQUESTS, 1)
    assert ours.held() == 1
    for index in range(1, 4):
        counters(tmp_path, index).claim(Kind.RATE, "key_1").add(HELD_REQUESTS, 1)
        assert ours.held() == index + 1


def test_many_claims_are_told_once_and_before_anything_is_counted(tmp_path: Path) -> None:
    first, second = counters(tmp_path, 0), counters(tmp_path, 1)
    before = first.node_words[layout.GENERATION]
    with first.changing():
        claimed = [first.claim(Kind.RATE, f"key_{number}") for number in range(50)]
    assert first.node_words[layout.GENERATION] == before + 1
    claimed[7].add(HELD_REQUESTS, 1)
    assert second.claim(Kind.RATE, "key_7").held() == 1


def test_restart_frees_what_was_held_and_keeps_what_was_counted(tmp_path: Path) -> None:
    reader = counters(tmp_path, 1).claim(Kind.BUDGET_TOTAL, "bud_1")
    before = counters(tmp_path, 0)
    counter = before.claim(Kind.BUDGET_TOTAL, "bud_1")
    counter.add(HELD_REQUESTS, 4)
    counter.add(HELD_TOKENS, 400)
    counter.add(SUMS, 1000)
    assert (reader.held(), reader.held(HELD_TOKENS), sum_of(reader)) == (4, 400, 1000)

    again = counters(tmp_path, 0).claim(Kind.BUDGET_TOTAL, "bud_1")

    assert (reader.held(), reader.held(HELD_TOKENS), sum_of(reader)) == (0, 0, 1000)
    assert sum_of(again) == 1000


def test_table_of_another_form_is_replaced_and_found(tmp_path: Path) -> None:
    reader = counters(tmp_path, 1).claim(Kind.RATE, "key_1")
    counters(tmp_path, 0).claim(Kind.RATE, "key_1").add(HELD_REQUESTS, 1)
    assert reader.held() == 1
    layout.table_path(tmp_path, 0).unlink()
    layout.table_path(tmp_path, 0).write_bytes(b"of a version to come")
    assert counters(tmp_path, 2).claim(Kind.RATE, "key_1").held() == 0
    counters(tmp_path, 0).claim(Kind.RATE, "key_1").add(HELD_REQUESTS, 2)
    assert reader.held() == 2


def test_times_of_another_boot_tell_nothing_but_budgets_stay(tmp_path: Path) -> None:
    reader = counters(tmp_path, 1)
    rate, budget = reader.claim(Kind.RATE, "key_1"), reader.claim(Kind.BUDGET_DAY, "bud_1")
    other = counters(tmp_path, 0)
    other.claim(Kind.RATE, "key_1").add(SUMS, 7)
    other.claim(Kind.BUDGET_DAY, "bud_1").add(SUMS, 8)
    assert (sum_of(rate), sum_of(budget)) == (7, 8)
    other.words[layout.BOOT] += 1  # as if all this had been before the machine started
    late = counters(tmp_path, 2)
    assert (sum_of(late.claim(Kind.RATE, "key_1")), sum_of(late.claim(Kind.BUDGET_DAY, "bud_1"))) == (0, 8)
    counters(tmp_path, 0)
    assert (sum_of(rate), sum_of(budget)) == (0, 8)


def test_released_row_is_given_up_when_nothing_is_held(tmp_path: Path) -> None:
    first = counters(tmp_path, 0)
    counter = first.claim(Kind.REPLICA, "rpl_1")
    counter.add(HELD_REQUESTS, 1)
    first.release(counter)
    first.sweep()
    assert layout.find(first.words, counter.hashed) is not None, "a request still runs"
    counter.add(HELD_REQUESTS, -1)
    first.sweep()
    assert layout.find(first.words, counter.hashed) is None
    assert first.claim(Kind.REPLICA, "rpl_1") is not counter


def test_budget_outlives_its_name_and_gauges_do_not(tmp_path: Path) -> None:
    before = counters(tmp_path, 0)
    before.claim(Kind.BUDGET_TOTAL, "bud_1").add(SUMS, 5)
    before.claim(Kind.REPLICA, "rpl_1")
    again = counters(tmp_path, 0)
    again.drop_unused_gauges()
    assert len(layout.rows(again.words)) == 1
    assert sum_of(again.claim(Kind.BUDGET_TOTAL, "bud_1")) == 5


def test_full_table_counts_the_rest_in_this_process_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = Counters(tmp_path, 0, LOG, most_rows=4), counters(tmp_path, 1)
    ours = [first.claim(Kind.RATE, f"key_{number}") for number in range(6)]
    assert [counter.shared for counter in ours] == [True] * 4 + [False] * 2
    for counter in ours:
        counter.add(HELD_REQUESTS, 1)
        assert counter.held() == 1
    assert second.claim(Kind.RATE, "key_0").held() == 1
    assert capfd.readouterr().err.count("limits.table_full") == 2
    for counter in ours:
        counter.add(HELD_REQUESTS, -1)
        first.release(counter)
    first.sweep()
    assert first.claim(Kind.RATE, "key_9").shared, "there is room again"


WORKER = """
import sys
from pathlib import Path
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, SUMS, Kind
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.log import Log
counter = Counters(Path(sys.argv[1]), int(sys.argv[2]), Log(process="test")).claim(Kind.RATE, "key_1")
counter.add(HELD_REQUESTS, 3)
counter.add(SUMS, 30)
print("counted", flush=True)
sys.stdin.read()
"""


@contextmanager
def worker(directory: Path, index: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds 3 of `key_1` and has counted 30, until it is killed."""
    command = [sys.executable, "-c", WORKER, str(directory), str(index)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
        try:
            yield process
        finally:
            process.kill()


def test_killed_workers_gauges_are_void_before_anybody_replaces_it(tmp_path: Path) -> None:
    ours = counters(tmp_path, 0)
    counter = ours.claim(Kind.RATE, "key_1")
    with worker(tmp_path, 1) as first, worker(tmp_path, 2):
        assert (counter.held(), sum_of(counter)) == (6, 60)
        first.kill()

        def seen() -> bool:
            ours.sweep()
            return counter.held() == 3

        eventually(seen, message="the killed worker holds nothing")
        assert sum_of(counter) == 60
        assert counters(tmp_path, 3).claim(Kind.RATE, "key_1").held() == 3, "nor for who comes later"
        with worker(tmp_path, 1):
            assert (counter.held(), sum_of(counter)) == (6, 90)


def empty_table() -> "memoryview[int]":
    return memoryview(bytearray(8 * (layout.ROWS_AT + layout.ROW_WORDS * layout.CAPACITY))).cast("Q")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200))
@settings(max_examples=200, deadline=None)
def test_table_finds_exactly_what_is_in_it(steps: list[tuple[bool, int]]) -> None:
    words = empty_table()
    model: dict[int, int] = {}
    for adds, number in steps:
        hashed = 2 + number % 8 * layout.CAPACITY + number // 8  # eight hashes to a slot, on neighbouring slots
        if adds and hashed not in model:
            model[hashed] = layout.insert(words, hashed, Kind.RATE)
        elif not adds and hashed in model:
            layout.remove(words, model.pop(hashed))
    assert layout.rows(words) == model
    assert all(layout.find(words, hashed) == at for hashed, at in model.items())
    assert layout.find(words, 1 << 60) is None
    assert len(set(model.values())) == len(model)
    if not model:
        assert not any(words[layout.ROWS_AT :: layout.ROW_WORDS]), "no marks are left behind"


class KilledError(Exception):
    pass


class Killable:
    """The words of a table; the process is killed at the n-th store."""

    def __init__(self, words: "memoryview[int]", stores: int) -> None:
        self._words, self._left = words, stores

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if self._left == 0:
            raise KilledError
        self._left -= 1
        self._words[index] = value


def test_charge_is_made_once_and_whole_wherever_it_is_killed() -> None:
    outcomes = set()
    for stores in range(30):
        words = empty_table()
        charge(words, 1111, [(5000, 1), (5008, 1)])
        try:
            charge(Killable(words, stores), 2222, [(5000, 11), (5008, 11), (5010, 20)])  # type: ignore[arg-type] # indexed alike
        except KilledError:
            outcomes.add("killed")
        finish_charge(words)
        finish_charge(words)
        made = charged_last(words) == 2222
        assert [words[5000], words[5008], words[5010]] == ([11, 11, 20] if made else [1, 1, 0])
        outcomes.add("made" if made else "not made")
    assert outcomes == {"killed", "made", "not made"}


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    hashes = set()
    for _ in range(4):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, layout.Node(tmp_path).hash(Kind.RATE, "key_1").to_bytes(8, "little"))
            os._exit(0)
        os.wait()
        hashes.add(os.read(read, 8))
        os.close(read)
        os.close(write)
    assert len(hashes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node"]
