"""Waiting on a condition with a deadline: the only place of the tests that sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

POLL_S: Final = 0.02
"""Between the first looks: short beside what is waited for, long beside what a look costs."""
POLL_AT_MOST_S: Final = 0.1
_SHARE: Final = 0.05
"""Later a look comes after this share of the time that was waited so far: what takes long is looked at less often."""


def eventually(
    condition: Callable[[], T],
    timeout: float = 10.0,
    *,
    message: str = "",
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """Asks until the answer is true and returns it.

    `timeout` is in seconds. An exception of `ignoring` counts as false; any other ends the wait. At the deadline
    `AssertionError` shows the message, the last answer and the last exception.
    """
    began = time.monotonic()
    deadline = began + timeout
    while True:
        answer: T | None = None
        failure: Exception | None = None
        try:
            answer = condition()
        except ignoring as error:
            failure = error
        if failure is None and answer:
            return answer
        if time.monotonic() >= deadline:
            raise _gave_up(condition, timeout, message, answer) from failure
        time.sleep(_pause(began))


async def eventually_async(
    condition: Callable[[], Awaitable[T]],
    timeout: float = 10.0,
    *,
    message: str = "",
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """The same for a coroutine function, which may itself take up to what is left of `timeout` seconds."""
    began = time.monotonic()
    deadline = began + timeout
    while True:
        answer: T | None = None
        failure: Exception | None = None
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), POLL_S)):
                answer = await condition()
        except TimeoutError as error:
            failure = error
        except ignoring as error:
            failure = error
        if failure is None and answer:
            return answer
        if time.monotonic() >= deadline:
            raise _gave_up(condition, timeout, message, answer) from failure
        await asyncio.sleep(_pause(began))


def _pause(began: float) -> float:
    return min(max(POLL_S, _SHARE * (time.monotonic() - began)), POLL_AT_MOST_S)


def _gave_up(condition: object, timeout: float, message: str, answer: object) -> AssertionError:
    what = message or getattr(condition, "__qualname__", repr(condition))
    return AssertionError(f"not within {timeout:g} s: {what} (the last answer was {answer!r})")
