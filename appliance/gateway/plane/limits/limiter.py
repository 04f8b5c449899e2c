"""Limits and budgets at a request's admission.

`check` refuses by the head what `acquire` would refuse anyway, before a body is waited for. `acquire` reads what all
workers count, refuses the request or counts it, with nothing in between: so no two requests of one worker pass by
the same reading, and with n workers at most n - 1 requests more than a limit are let through.

Tokens are reserved (those of the prompt and of the longest answer) until the request's end, when those that it used
are counted instead.
"""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING, Final

from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.limits import telling, windows
from appliance.gateway.plane.limits.grant import Clock, Grant
from appliance.gateway.plane.limits.layout import HELD_TOKENS
from appliance.gateway.plane.limits.periods import ends_in_s
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.limits.subjects import Family, HardBudget, Rate, Subject
from appliance.gateway.plane.limits.windows import MINUTE_MS, REQUESTS, TOKENS
from appliance.gateway.plane.meter import estimate_tokens
from appliance.gateway.plane.schemas import KeyEntry, ServiceShard, TenantEntry
from appliance.gateway.plane.snapshot import Snapshot

if TYPE_CHECKING:
    from appliance.gateway.plane.request import Request

ANSWER_TOKENS: Final = 4096
"""What an answer may need of a budget if neither the request nor the service says."""
RATED_ANSWER_TOKENS: Final = 1024
"""What an answer that the caller did not limit is taken to need of tokens per minute, until its end tells."""
_ENOUGH: Final = 1 << 62

_Rates = list[tuple[Rate, int]]
"""With the tokens that the request may need of each."""


class Needs:
    """The tokens that a request may need: `prompt`, `answer` (0: nothing says), whether the caller bounded it."""

    __slots__ = ("answer", "asked", "prompt")

    def __init__(self, request: Request) -> None:
        prepared = request.prepared
        self.prompt = self.answer = 0
        self.asked = True
        if prepared is None:
            return
        self.answer = prepared.token_limit
        if prepared.prompt_estimate:
            self.prompt = prepared.prompt_estimate
            self.asked = bool(self.answer) and not prepared.limit_inserted
        else:  # of a route that generates nothing
            self.prompt = estimate_tokens(request.bytes_in)

    def rated(self, limit: int) -> int:
        """To reserve of tokens per minute. Whoever does not say how much the answer may be is let in if it could be
        as short as what the limit leaves room for.
        """
        if self.asked:
            return self.prompt + self.answer
        return max(self.prompt, min(self.prompt + RATED_ANSWER_TOKENS, limit))

    def reserved(self, shard: ServiceShard) -> int:
        """To reserve of a budget."""
        if self.asked or self.answer:
            return self.prompt + self.answer
        return self.prompt + (shard.context_tokens or ANSWER_TOKENS)


class Limiter:
    """Of one worker. `active`: whether anything is limited at all."""

    def __init__(self, counters: Counters, clock: Clock = windows.now_ms) -> None:
        self._counters = counters
        self._clock = clock
        self._keys: Family[dict[str, KeyEntry]] = Family(
            counters, "API key", lambda bucket: ((entry.key_id, entry) for entry in bucket.values())
        )
        self._services: Family[ServiceShard] = Family(counters, "service", lambda shard: ((shard.id, shard),))
        self._tenants: Family[dict[str, TenantEntry]] = Family(counters, "tenant", lambda tenants: tenants.items())
        self._charges = count(int.from_bytes(os.urandom(7), "little"))
        self.active = False

    def apply(self, snapshot: Snapshot, now: float) -> None:
        """Take over the limits of a snapshot; what has been counted stays counted. `now`: Unix seconds."""
        self._keys.apply({str(number): bucket for number, bucket in enumerate(snapshot.key_buckets)}, now)
        self._services.apply(snapshot.services, now)
        self._tenants.apply({"all": snapshot.tenants}, now)
        self.active = bool(self._keys.subjects or self._services.subjects or self._tenants.subjects)
        self._counters.drop_unused_gauges()

    def check(self, request: Request) -> None:
        """`Refusal` 429 if the request could not be granted whatever its body says. Takes nothing."""
        if self.active and (subjects := self._of(request, None if request.pending else request.service.shard.id)):
            _pass_budgets(_budgets(subjects), 1, request.at)
            _pass_rates([(each.rate, 1) for each in subjects if each.rate is not None], self._clock())

    def longest_answer(self, request: Request, prompt: int, answers: int, ceiling: int | None) -> int | None:
        """The tokens to allow each of the answers that the caller did not limit, for a prompt of about that many:
        such that the engine cannot exceed what its budgets have left. Without a budget it is `ceiling`.
        """
        budgets = _budgets(self._of(request, request.service.shard.id))
        if not budgets:
            return ceiling
        room = (min(budget.left(request.at) for budget in budgets) - prompt) // answers
        longest = _room_in_context(request.service.shard.context_tokens, prompt)
        return max(min(room, longest, longest if ceiling is None else ceiling), 1)

    def acquire(self, request: Request) -> Grant | None:
        """Count a request whose body is prepared; None if nothing of it is limited. Sets its `answer_headers`.
        `Refusal` 429.
        """
        if not self.active:
            return None
        shard = request.service.shard
        subjects = self._of(request, shard.id)
        if not subjects:
            return None
        needs = Needs(request)
        budgets = _budgets(subjects)
        reserved = needs.reserved(shard) if budgets else 0
        if budgets:
            _pass_budgets(budgets, reserved, request.at)
        rates = [
            (rate, 0 if rate.tokens is None else needs.rated(rate.tokens))
            for each in subjects
            if (rate := each.rate) is not None
        ]
        if rates:
            request.answer_headers = _pass_rates(rates, self._clock())
        grant = Grant(self._counters.words, rates, request.at, self._clock)
        if budgets:
            grant.reserve(budgets, reserved, next(self._charges))
        return grant

    def _of(self, request: Request, service_id: str | None) -> list[Subject]:
        key = request.key
        found = (
            self._keys.subjects.get(key.key_id),
            self._services.subjects.get(service_id) if service_id is not None else None,
            self._tenants.subjects.get(key.tenant_id),
        )
        return [subject for subject in found if subject is not None]


def _room_in_context(context: int | None, prompt: int) -> int:
    """What is left for an answer. The prompt's length is an estimate, and an engine refuses what cannot fit."""
    if context is None:
        return ANSWER_TOKENS
    return max(context - context // 8 - 2 * prompt, (context - prompt) // 4, 16)


def _budgets(subjects: list[Subject]) -> list[HardBudget]:
    return [budget for subject in subjects if subject.budgets for budget in subject.budgets]


def _pass_budgets(budgets: list[HardBudget], need: int, at: float) -> None:
    for budget in budgets:
        left = budget.left(at)
        if left < max(need, 1):
            raise telling.budget_spent(
                budget.whose, budget.budget.tokens, left, need, ends_in_s=ends_in_s(budget.kind, at)
            )


def _pass_rates(rates: _Rates, at_ms: int) -> bytes:
    """The answer's fields: of the subject with the least requests left, and of the one with the least tokens."""
    minute, elapsed = divmod(at_ms, MINUTE_MS)
    least_requests = least_tokens = _ENOUGH
    request_lines = token_lines = b""
    for rate, need in rates:
        rows = rate.counter.rows()
        if rate.requests is not None:
            left = rate.requests - windows.used(rows, REQUESTS, minute, elapsed)
            if left < 1:
                raise _out_of_requests(rate, rate.requests, rates, at_ms)
            if left < least_requests:
                least_requests, request_lines = left, rate.request_lines
        if rate.tokens is not None:
            left = rate.tokens - windows.used(rows, TOKENS, minute, elapsed) - rate.counter.held(HELD_TOKENS)
            if left < need or left < 1:
                raise _out_of_tokens(rate, rate.tokens, max(need, 1), rates, at_ms)
            if left - need < least_tokens:
                least_tokens, token_lines = left - need, rate.token_lines
        if rate.concurrent is not None and rate.counter.held() >= rate.concurrent:
            raise telling.too_many_at_once(rate.whose, rate.concurrent, _standing(rates, at_ms))
    reset_ms = 2 * MINUTE_MS - elapsed
    headers = telling.fill(request_lines, least_requests - 1, reset_ms) if request_lines else b""
    return headers + telling.fill(token_lines, least_tokens, reset_ms) if token_lines else headers


def _out_of_requests(rate: Rate, limit: int, rates: _Rates, at_ms: int) -> Refusal:
    usage = windows.usage(rate.counter.rows(), REQUESTS, at_ms)
    return telling.too_many_requests(rate.whose, limit, usage.room_in_ms(max(limit - 1, 0)), _standing(rates, at_ms))


def _out_of_tokens(rate: Rate, limit: int, need: int, rates: _Rates, at_ms: int) -> Refusal:
    usage, held = windows.usage(rate.counter.rows(), TOKENS, at_ms), rate.counter.held(HELD_TOKENS)
    room = limit - held - need  # what is reserved is let go when its requests end, nobody knows when
    return telling.too_many_tokens(
        rate.whose,
        limit,
        limit - usage.used - held,
        need,
        wait_ms=usage.room_in_ms(room) if room >= 0 else 0,
        headers=_standing(rates, at_ms),
    )


def _standing(rates: _Rates, at_ms: int) -> bytes:
    """As `_pass_rates` tells it, of a request that takes nothing."""
    requests: list[tuple[int, int, bytes]] = []
    tokens: list[tuple[int, int, bytes]] = []
    for rate, _ in rates:
        rows = rate.counter.rows()
        if rate.requests is not None:
            usage = windows.usage(rows, REQUESTS, at_ms)
            requests.append((rate.requests - usage.used, usage.clear_in_ms(), rate.request_lines))
        if rate.tokens is not None:
            usage = windows.usage(rows, TOKENS, at_ms)
            held = rate.counter.held(HELD_TOKENS)
            tokens.append((rate.tokens - usage.used - held, usage.clear_in_ms(), rate.token_lines))
    least = [min(found) for found in (requests, tokens) if found]
    return b"".join(telling.fill(template, left, reset_ms) for left, reset_ms, template in least)
