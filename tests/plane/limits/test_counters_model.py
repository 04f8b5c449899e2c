"""Three workers' limiters against a model of plain integers: what is let through, and what is left at each moment."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.limits.grant import Grant
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS, Kind
from appliance.gateway.plane.schemas.limits import Budget, Limits
from tests.plane.limits.workers import PROMPT, Node

WORKERS = 3
MINUTE_MS = 60_000
DAY_S = 86_400
REQUESTS, TOKENS, CONCURRENT = 4, 1200, 3
TOTAL, DAILY = 6000, 2500

SUBJECTS = [
    (Kind.RATE, "API key key_acme", False),
    (Kind.RATE, "service svc_acme_chat", False),
    (Kind.RATE, "tenant ten_acme", True),
    (Kind.BUDGET_TOTAL, "bud_total", True),
    (Kind.BUDGET_DAY, "bud_day", True),
]
"""With whether tokens are reserved of them."""

workers = st.integers(0, WORKERS - 1)


class Held(NamedTuple):
    worker: int
    grant: Grant
    need: int
    day: int


class Shared(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.node = Node(Path(self.folder.name), WORKERS)
        self.node.key["limits"] = Limits(requests_per_minute=REQUESTS)
        self.node.service["limits"] = Limits(concurrent_requests=CONCURRENT)
        self.node.tenant["limits"] = Limits(tokens_per_minute=TOKENS)
        self.node.key["budgets"] = [Budget("bud_total", TOTAL)]
        self.node.tenant["budgets"] = [Budget("bud_day", DAILY, "day")]
        self.node.apply()
        self.requests: list[int] = []
        """Of each, the minute that it came in."""
        self.tokens: list[tuple[int, int]] = []
        self.spent: list[tuple[int, int]] = []
        """By day."""
        self.held: list[Held] = []

    def teardown(self) -> None:
        for counters in self.node.counters:
            counters.close()
        self.folder.cleanup()

    @property
    def day(self) -> int:
        return int(self.node.at) // DAY_S

    def sliding(self, counted: list[tuple[int, int]]) -> int:
        minute, elapsed = divmod(self.node.now_ms, MINUTE_MS)
        current = sum(number for at, number in counted if at == minute)
        previous = sum(number for at, number in counted if at == minute - 1)
        return current + -(-previous * (MINUTE_MS - elapsed) // MINUTE_MS)

    def admits(self, need: int) -> bool:
        reserved = sum(held.need for held in self.held)
        return (
            self.sliding([(minute, 1) for minute in self.requests]) < REQUESTS
            and self.sliding(self.tokens) + reserved + need <= TOKENS
            and len(self.held) < CONCURRENT
            and sum(tokens for _, tokens in self.spent) + reserved + need <= TOTAL
            and sum(tokens for day, tokens in self.spent if day == self.day) + reserved + need <= DAILY
        )

    @rule(worker=workers, answer=st.integers(1, 600))
    def ask(self, worker: int, answer: int) -> None:
        need = PROMPT + answer
        expected = self.admits(need)
        try:
            grant = self.node.acquire(worker, max_tokens=answer)
        except Refusal:
            assert not expected
            return
        assert expected
        self.requests.append(self.node.now_ms // MINUTE_MS)
        self.held.append(Held(worker, grant, need, self.day))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, CONCURRENT), share=st.floats(0, 1))
    def end(self, which: int, share: float) -> None:
        held = self.held.pop(which % len(self.held))
        used = int(held.need * share)
        held.grant.settle(used // 2, used - used // 2)
        self.tokens.append((self.node.now_ms // MINUTE_MS, used))
        self.spent.append((held.day, used))

    @rule(worker=workers)
    def kill(self, worker: int) -> None:
        self.node.restart(worker)
        self.held = [held for held in self.held if held.worker != worker]

    @rule(worker=workers)
    def snapshot(self, worker: int) -> None:
        self.node.apply_to(worker)
        self.node.counters[worker].sweep()

    @rule(passed=st.integers(1, 70_000))
    def wait(self, passed: int) -> None:
        self.node.now_ms += passed

    @precondition(lambda self: not self.held)
    @rule()
    def next_day(self) -> None:
        self.node.at += DAY_S

    @invariant()
    def every_worker_sees_what_is_held(self) -> None:
        reserved = sum(held.need for held in self.held)
        for counters in self.node.counters:
            for kind, name, tokens in SUBJECTS:
                counter = counters.claim(kind, name)
                assert counter.held(HELD_TOKENS) == (reserved if tokens else 0)
                if kind is Kind.RATE:
                    assert counter.held(HELD_REQUESTS) == len(self.held)
                counters.release(counter)


Shared.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestShared = Shared.TestCase
