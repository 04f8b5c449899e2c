"""What an answer tells of limits: OpenAI's `x-ratelimit-*` fields, and its errors with status 429.

`rate_limit_exceeded` (of type `requests`, `tokens` or `concurrent_requests`) passes by waiting; `insufficient_quota`
does not, or only with a budget's next period: OpenAI's clients are told not to try again by themselves.
"""

from __future__ import annotations

from typing import Final

from appliance.gateway.plane.errors import Refusal

_STATUS: Final = 429
_SECONDS: Final = [b"%ds" % s if s < 60 else b"%dm%ds" % divmod(s, 60) for s in range(122)]
"""Durations as OpenAI writes them; two minutes are the longest."""


def lines(what: bytes, limit: int) -> bytes:
    """The fields of a limit of `requests` or `tokens`, to be filled in by `fill`."""
    return (b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b\r\n") % (
        what,
        limit,
        what,
        what,
    )


def fill(template: bytes, remaining: int, reset_ms: int) -> bytes:
    return template % (max(remaining, 0), _SECONDS[-(-reset_ms // 1000)])


def fields(of_requests: bytes, requests: int, of_tokens: bytes, tokens: int, reset_ms: int) -> bytes:
    """What is left of both, neither below zero; an empty template tells nothing."""
    reset = _SECONDS[-(-reset_ms // 1000)]
    if of_requests and of_tokens:
        return (of_requests + of_tokens) % (requests, reset, tokens, reset)
    if of_requests:
        return of_requests % (requests, reset)
    return of_tokens % (tokens, reset) if of_tokens else b""


def too_many_requests(whose: str, limit: int, wait_ms: int, headers: bytes) -> Refusal:
    return _rate(
        "requests",
        f"The limit of this {whose} is {limit} requests per minute, and they have been made; "
        f"try again in {_seconds(wait_ms)} s.",
        headers + _retry_after(wait_ms),
    )


def too_many_tokens(whose: str, limit: int, left: int, need: int, *, wait_ms: int, headers: bytes) -> Refusal:
    if need > limit:
        return _rate(
            "tokens",
            f"The limit of this {whose} is {limit} tokens per minute, and this request may need {need}: "
            "shorten the prompt or lower max_tokens.",
            headers + _NO_RETRY,
        )
    return _rate(
        "tokens",
        f"The limit of this {whose} is {limit} tokens per minute, of which {max(left, 0)} are left; "
        f"this request may need {max(need, 1)}. Try again in {_seconds(wait_ms)} s.",
        headers + _retry_after(wait_ms),
    )


def too_many_at_once(whose: str, limit: int, headers: bytes) -> Refusal:
    return _rate(
        "concurrent_requests",
        f"The limit of this {whose} is {limit} requests at the same time, and as many are running; "
        "try again when one of them has ended.",
        headers + _retry_after(1000),
    )


def budget_spent(whose: str, tokens: int, left: int, need: int, *, ends_in_s: int | None) -> Refusal:
    again = "" if ends_in_s is None else f" The budget's next period begins in {ends_in_s} s."
    return Refusal(
        _STATUS,
        "insufficient_quota",
        f"The budget of this {whose} is {tokens} tokens, of which {max(left, 0)} are neither spent nor reserved; "
        f"this request may need {max(need, 1)}. Ask for a larger budget, or lower max_tokens.{again}",
        kind="insufficient_quota",
        headers=_NO_RETRY if ends_in_s is None else _NO_RETRY + b"retry-after: %d\r\n" % ends_in_s,
    )


_NO_RETRY: Final = b"x-should-retry: false\r\n"
"""OpenAI's clients try a 429 again by themselves unless they are told not to."""


def _rate(kind: str, message: str, headers: bytes) -> Refusal:
    return Refusal(_STATUS, "rate_limit_exceeded", message, kind=kind, headers=headers)


def _seconds(wait_ms: int) -> int:
    return max(-(-wait_ms // 1000), 1)


def _retry_after(wait_ms: int) -> bytes:
    return b"retry-after: %d\r\n" % _seconds(wait_ms)
