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
from appliance.gateway.plane.limits.rate import UNBOUNDED, Rate
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.limits.subjects import Bounds, Family, HardBudget
from appliance.gateway.plane.limits.windows import MINUTE_MS, REQUESTS, TOKENS
from appliance.gateway.plane.meter import estimate_tokens
from appliance.gateway.plane.schemas.services import ServiceShard
from appliance.gateway.plane.schemas.tenants import KeyEntry, TenantEntry
from appliance.gateway.plane.snapshot import Snapshot

if TYPE_CHECKING:
    from appliance.gateway.plane.request import Request

ANSWER_TOKENS: Final = 4096
"""What an answer may need of a budget if neither the request nor the service says."""
RATED_ANSWER_TOKENS: Final = 1024
"""What an answer that the caller did not limit is taken to need of tokens per minute, until its end tells."""


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
        self._found: dict[tuple[str, str], Bounds | None] = {}
        """By the ids of key and service, those that have asked since the last snapshot."""
        self._charges = count(int.from_bytes(os.urandom(7), "little"))
        self.active = False

    def apply(self, snapshot: Snapshot, now: float) -> None:
        """Take over the limits of a snapshot; what has been counted stays counted. `now`: Unix seconds."""
        self._keys.apply({str(number): bucket for number, bucket in enumerate(snapshot.key_buckets)}, now)
        self._services.apply(snapshot.services, now)
        self._tenants.apply({"all": snapshot.tenants}, now)
        self._found = {}
        self.active = bool(self._keys.subjects or self._services.subjects or self._tenants.subjects)
        self._counters.drop_unused_gauges()

    def check(self, request: Request) -> None:
        """`Refusal` 429 if the request could not be granted whatever its body says. Takes nothing."""
        if not self.active:
            return
        bounds = self._of(request.key, "" if request.pending is not None else request.service.shard.id)
        if bounds is None:
            return
        if bounds.budgets:
            _pass_budgets(bounds.budgets, 1, request.at)
        if bounds.rates:
            _pass_rates(bounds.rates, [1] * len(bounds.rates), self._clock(), self._counters.current())

    def longest_answer(self, request: Request, prompt: int, answers: int, ceiling: int | None) -> int | None:
        """The tokens to allow each of the answers that the caller did not limit, for a prompt of about that many:
        such that the engine cannot exceed what its budgets have left. Without a budget it is `ceiling`.
        """
        shard = request.service.shard
        bounds = self._of(request.key, shard.id)
        if bounds is None or not bounds.budgets:
            return ceiling
        room = (min(budget.left(request.at) for budget in bounds.budgets) - prompt) // answers
        longest = _room_in_context(shard.context_tokens, prompt)
        return max(min(room, longest, longest if ceiling is None else ceiling), 1)

    def acquire(self, request: Request) -> Grant | None:
        """Count a request whose body is prepared; None if nothing of it is limited. Sets its `answer_headers`.
        `Refusal` 429.
        """
        if not self.active:
            return None
        shard = request.service.shard
        bounds = self._of(request.key, shard.id)
        if bounds is None:
            return None
        needs, reserved = _needs(request, bounds)
        if bounds.budgets:
            _pass_budgets(bounds.budgets, reserved, request.at)
        at_ms = self._clock()
        if bounds.rates:
            request.answer_headers = _pass_rates(bounds.rates, needs, at_ms, self._counters.current())
        grant = Grant(bounds, needs, at_ms // MINUTE_MS, self._clock)
        if bounds.budgets:
            grant.reserve(self._counters.words, reserved, next(self._charges), request.at)
        return grant

    def _of(self, key: KeyEntry, service_id: str) -> Bounds | None:
        name = (key.key_id, service_id)
        if name in self._found:
            return self._found[name]
        found = (
            self._keys.subjects.get(key.key_id),
            self._services.subjects.get(service_id),
            self._tenants.subjects.get(key.tenant_id),
        )
        subjects = [subject for subject in found if subject is not None]
        bounds = self._found[name] = Bounds(subjects) if subjects else None
        return bounds


def _needs(request: Request, bounds: Bounds) -> tuple[list[int], int]:
    """The tokens that the request may need of each rate (0 where tokens do not count), and of its budgets."""
    prepared = request.prepared
    if prepared is None:  # it has no body
        return [0] * len(bounds.rates), 0
    answer = prepared.token_limit
    prompt = prepared.prompt_estimate
    if not prompt:  # its route generates nothing
        need = estimate_tokens(request.bytes_in) + answer
    elif answer and not prepared.limit_inserted:
        need = prompt + answer
    else:
        reserved = prompt + (answer or request.service.shard.context_tokens or ANSWER_TOKENS)
        return [_rated(prompt, rate.tokens) for rate in bounds.rates], reserved
    if bounds.all_tokens:
        return [need] * len(bounds.rates), need
    return [need if rate.tokens is not None else 0 for rate in bounds.rates], need


def _rated(prompt: int, limit: int | None) -> int:
    """Whoever does not say how long the answer may be is let in if it could be as short as what there is room for."""
    return 0 if limit is None else max(prompt, min(prompt + RATED_ANSWER_TOKENS, limit))


def _room_in_context(context: int | None, prompt: int) -> int:
    """What is left for an answer. The prompt's length is an estimate, and an engine refuses what cannot fit."""
    if context is None:
        return ANSWER_TOKENS
    return max(context - context // 8 - 2 * prompt, (context - prompt) // 4, 16)


def _pass_budgets(budgets: list[HardBudget], need: int, at: float) -> None:
    for budget in budgets:
        left = budget.left(at)
        if left < max(need, 1):
            raise telling.budget_spent(
                budget.whose, budget.budget.tokens, left, need, ends_in_s=ends_in_s(budget.kind, at)
            )


def _pass_rates(rates: list[Rate], needs: list[int], at_ms: int, epoch: int) -> bytes:
    """The answer's fields: of the subject with the least requests left, and of the one with the least tokens. What is
    kept of the others and of the minute before decides if it leaves enough; else they are looked at anew.
    """
    told = _fields(rates, needs, at_ms, epoch, least=1)
    if told is not None:
        return told
    for rate in rates:
        rate.look(at_ms, epoch)
    for rate, need in zip(rates, needs, strict=True):
        tally = rate.tally
        if rate.requests is not None and tally.requests >= rate.most_requests:
            raise _out_of_requests(rate, rate.requests, rates, at_ms)
        left = rate.most_tokens - tally.tokens - tally.reserved
        if rate.tokens is not None and left < max(need, 1):
            raise _out_of_tokens(rate, rate.tokens, max(need, 1), rates, at_ms)
        if rate.concurrent is not None and tally.held >= rate.most_held:
            raise telling.too_many_at_once(rate.whose, rate.concurrent, _standing(rates, at_ms))
    return _fields(rates, needs, at_ms, epoch, least=0) or b""


def _fields(rates: list[Rate], needs: list[int], at_ms: int, epoch: int, *, least: int) -> bytes | None:
    """None if a rate does not leave what is needed, and `least` tokens more."""
    least_requests = least_tokens = UNBOUNDED
    of_requests = of_tokens = b""
    for rate, need in zip(rates, needs, strict=True):
        if at_ms >= rate.until_ms or rate.epoch != epoch:
            rate.look(at_ms, epoch)
        tally = rate.tally
        left = rate.most_requests - tally.requests
        if left < least_requests:
            least_requests, of_requests = left, rate.request_lines
        left = rate.most_tokens - tally.tokens - tally.reserved - need
        if left < least_tokens:
            least_tokens, of_tokens = left, rate.token_lines
        if tally.held >= rate.most_held:
            return None
    if least_requests < 1 or least_tokens < least:
        return None
    return telling.fields(of_requests, least_requests - 1, of_tokens, least_tokens, 2 * MINUTE_MS - at_ms % MINUTE_MS)


def _out_of_requests(rate: Rate, limit: int, rates: list[Rate], at_ms: int) -> Refusal:
    usage = windows.usage(rate.counter.rows(), REQUESTS, at_ms)
    return telling.too_many_requests(rate.whose, limit, usage.room_in_ms(max(limit - 1, 0)), _standing(rates, at_ms))


def _out_of_tokens(rate: Rate, limit: int, need: int, rates: list[Rate], at_ms: int) -> Refusal:
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


def _standing(rates: list[Rate], at_ms: int) -> bytes:
    """As `_pass_rates` tells it, of a request that takes nothing."""
    requests: list[tuple[int, int, bytes]] = []
    tokens: list[tuple[int, int, bytes]] = []
    for rate in rates:
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
