from hypothesis import given
from hypothesis import strategies as st
from transformers_engine.scheduler import Bounds, Result, Scheduler
from transformers_engine.sequence import FinishReason

from tests.images.fakes import FakePrefill, FakeRunner, sequence

WIDE = Bounds(concurrency=8, prefill_tokens=1000, kv_tokens=100_000)


def scheduler(runner: FakeRunner, bounds: Bounds = WIDE) -> Scheduler[FakePrefill]:
    return Scheduler(runner, bounds)


def drain(subject: Scheduler[FakePrefill]) -> list[Result]:
    """All results until nothing is left to do."""
    results: list[Result] = []
    for _ in range(10_000):
        if not subject.busy:
            return results
        results += subject.step()
    raise AssertionError("the scheduler does not come to an end")


def texts(results: list[Result]) -> dict[str, str]:
    told: dict[str, str] = {}
    for s, delta in results:
        told[s.id] = told.get(s.id, "") + delta.text
    return told


def test_an_answer_ends_at_the_end_token() -> None:
    subject = scheduler(FakeRunner({"s": "hi"}))
    subject.add(sequence(max_tokens=10))
    results = drain(subject)
    assert texts(results) == {"s": "hi"}
    assert results[-1][1].finish_reason is FinishReason.STOP
    assert results[-1][1].completion_tokens == 3, "the end token is generated and counts"


def test_an_answer_ends_at_its_length() -> None:
    subject = scheduler(FakeRunner())
    subject.add(sequence(max_tokens=1))
    [(_, delta)] = drain(subject)
    assert (delta.text, delta.finish_reason) == ("x", FinishReason.LENGTH)


def test_a_stop_string_ends_it_and_is_not_shown() -> None:
    subject = scheduler(FakeRunner({"s": "abcdef"}))
    subject.add(sequence(max_tokens=10, stop=("cd",)))
    results = drain(subject)
    assert texts(results) == {"s": "ab"}
    assert results[-1][1].completion_tokens == 4


def test_a_request_joins_those_that_run() -> None:
    runner = FakeRunner()
    subject = scheduler(runner)
    subject.add(sequence("a", max_tokens=6))
    subject.step()
    subject.add(sequence("b", max_tokens=3))
    subject.step()
    assert runner.batches[-1] == ["a", "b"]
    drain(subject)
    assert runner.rows == []


def test_a_long_prompt_is_read_in_pieces_between_steps() -> None:
    runner = FakeRunner(piece=10)
    subject = scheduler(runner, Bounds(concurrency=8, prefill_tokens=10, kv_tokens=100_000))
    subject.add(sequence("a", max_tokens=20))
    subject.step()
    subject.add(sequence("long", prompt=35, max_tokens=5))
    before = len(runner.batches)
    while "long" not in runner.batches[-1]:
        subject.step()
    assert runner.batches[before:] == [["a"]] * 3 + [["a", "long"]]


def test_prompts_are_read_together_up_to_the_bound() -> None:
    runner = FakeRunner()
    subject = scheduler(runner, Bounds(concurrency=8, prefill_tokens=20, kv_tokens=100_000))
    for name, length in (("a", 10), ("b", 8), ("c", 2), ("d", 30), ("e", 1)):
        subject.add(sequence(name, prompt=length))
    drain(subject)
    assert runner.prefills == [["a", "b"], ["c"], ["d"], ["e"]]


def test_concurrency_and_memory_are_bounds() -> None:
    runner = FakeRunner()
    subject = scheduler(runner, Bounds(concurrency=3, prefill_tokens=1000, kv_tokens=20))
    for name in "abcd":
        subject.add(sequence(name, prompt=3, max_tokens=4))
    drain(subject)
    assert max(len(batch) for batch in runner.batches) == 2, "two of seven tokens fit into twenty, three do not"


def test_who_came_first_is_not_overtaken() -> None:
    runner = FakeRunner()
    subject = scheduler(runner, Bounds(concurrency=8, prefill_tokens=1000, kv_tokens=20))
    subject.add(sequence("a", prompt=5, max_tokens=5))
    subject.add(sequence("large", prompt=10, max_tokens=5))
    subject.add(sequence("small", prompt=1, max_tokens=1))
    drain(subject)
    assert [name for batch in runner.prefills for name in batch] == ["a", "large", "small"]


def test_an_abort_is_honoured_in_each_place() -> None:
    runner = FakeRunner(piece=1)
    subject = scheduler(runner, Bounds(concurrency=2, prefill_tokens=1, kv_tokens=100_000))
    running, joining, waiting = sequence("r", prompt=1, max_tokens=50), sequence("j", prompt=9), sequence("w")
    subject.add(running)
    subject.step()
    subject.add(joining)
    subject.add(waiting)
    subject.step()
    for s in (running, joining, waiting):
        s.aborted = True
    results = subject.step()
    assert {s.id for s, _ in results} == {"r", "j", "w"}
    assert {delta.finish_reason for _, delta in results} == {FinishReason.ABORT}
    assert not subject.busy
    assert runner.rows == []


def test_an_abort_leaves_the_neighbours_alone() -> None:
    runner = FakeRunner({"a": "aaa", "b": "bbbbbb", "c": "ccc"})
    subject = scheduler(runner)
    sequences = [sequence(name, max_tokens=10) for name in "abc"]
    for s in sequences:
        subject.add(s)
    first = subject.step()
    sequences[1].aborted = True
    told = texts(first + drain(subject))
    assert (told["a"], told["c"]) == ("aaa", "ccc")
    assert told["b"].strip("b") == ""


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(0, 14)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(42, 200),
)
def test_everyone_gets_their_own_answer(
    requests: list[tuple[int, int, int]], concurrency: int, prefill: int, memory: int
) -> None:
    """Whatever the mix and the bounds, answers are complete and as if each request were alone."""
    script = {str(n): chr(ord("a") + n) * length for n, (_, _, length) in enumerate(requests)}
    runner = FakeRunner(script, piece=prefill)
    subject = scheduler(runner, Bounds(concurrency=concurrency, prefill_tokens=prefill, kv_tokens=memory))
    for n, (prompt, max_tokens, _) in enumerate(requests):
        subject.add(sequence(str(n), prompt=prompt, max_tokens=max_tokens))
    told = texts(drain(subject))
    for n, (_, max_tokens, length) in enumerate(requests):
        assert told[str(n)].rstrip("\0") == script[str(n)][: min(length, max_tokens)]
    assert all(len(batch) <= concurrency for batch in runner.batches)
