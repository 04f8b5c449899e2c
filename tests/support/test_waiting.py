import asyncio
import time

import pytest

from tests.support.waiting import eventually, eventually_async


def test_returns_the_first_true_answer():
    answers = iter([0, "", 7])
    assert eventually(lambda: next(answers)) == 7


def test_the_deadline_shows_what_was_last_seen():
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: seven \(the last answer was 0\)"):
        eventually(lambda: 0, 0.05, message="seven")


def test_an_ignored_exception_is_the_cause_at_the_deadline():
    with pytest.raises(AssertionError) as caught:
        eventually(lambda: 1 // 0, 0.05, ignoring=(ZeroDivisionError,))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_any_other_exception_ends_the_wait():
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 // 0)


async def test_a_coroutine_that_hangs_meets_the_deadline():
    started = time.monotonic()
    with pytest.raises(AssertionError):
        await eventually_async(asyncio.Event().wait, 0.05)
    assert time.monotonic() - started < 5


async def test_asynchronous_answers():
    answers = iter([False, True])

    async def condition() -> bool:
        return next(answers)

    assert await eventually_async(condition)
