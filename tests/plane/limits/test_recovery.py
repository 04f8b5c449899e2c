"""Budgets of requests that their worker was killed over: what was spent is what is billed, wherever the kill came."""

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.gateway.plane import meter, wire
from appliance.gateway.plane.limits import layout
from appliance.gateway.plane.limits.charge import charge
from appliance.gateway.plane.limits.layout import Kind
from appliance.gateway.plane.limits.periods import spend, spent
from appliance.gateway.plane.meter import recover
from appliance.gateway.plane.paths import prepare, spool_directory
from appliance.gateway.plane.slots import SLOTS, Ending, Progress, SlotTable, end_left_over
from tests.plane.records import LOG, identity

REQUESTS = 4
FAILED = Ending(502, "upstream_error", 4.0)
"""A request that failed is billed no estimate of its prompt, one that its worker was killed over is."""
STEPS = ["in flight", "ended", "charged", "told"]


class Worker:
    """What a worker with index 0 leaves in its files of requests that one budget is charged for."""

    def __init__(self, home: Path) -> None:
        prepare(home)
        spool_directory(home, 0).mkdir(exist_ok=True)
        self.home = home
        directory = layout.limits_directory(home)
        self._hash = layout.Node(directory).hash(Kind.BUDGET_TOTAL, "bud_1")
        self._words = layout.open_table(layout.table_path(directory, 0))
        self._row = layout.insert(self._words, self._hash, Kind.BUDGET_TOTAL)
        self._slots = SlotTable(spool_directory(home, 0) / SLOTS)
        for number in range(REQUESTS):
            named = identity(number, charge=100 + number, budgets=self._hash.to_bytes(8, "little"))
            assert self._slots.claim(named, 1.0) is not None

    def end(self, progress: Progress, ending: Ending, until: str) -> None:
        """Of the first request, as far as a kill lets it."""
        slot = 0
        if STEPS.index(until) >= 1:
            self._slots.end(slot, progress, ending, charged=False)
        if STEPS.index(until) >= 2:
            used = sum(meter.billed(identity(0), progress, ending))
            charge(self._words, 100, spend(self._words, self._row, 1.0, used))
        if STEPS.index(until) >= 3:
            self._slots.charged(slot)

    def spent(self) -> int:
        return spent([(self._words, self._row)], 1)

    def billed(self) -> int:
        segments = wire.sealed_segments(self.home / "gateway" / "spool")
        records = [record for path in segments for record, _ in wire.read_frames(path)]
        assert len(records) == REQUESTS
        return sum(record.prompt_tokens + record.completion_tokens for record in records)


@pytest.mark.parametrize("order", ["charged first", "charged last"])
@pytest.mark.parametrize("until", STEPS)
@pytest.mark.parametrize("progress", [Progress(9, 12, 1, 100, 1.0, 2.0, 3.0), Progress(0, 3, 1, 30, 1.0, 2.0, 3.0)])
def test_what_a_killed_worker_spent_is_what_is_billed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: Progress, until: str, order: str
) -> None:
    worker = Worker(tmp_path)
    worker.end(progress, FAILED, until)
    if order == "charged last":
        found = meter.read_left_overs
        monkeypatch.setattr(meter, "read_left_overs", lambda path: reversed(list(found(path))))

    assert recover(tmp_path, 0, LOG) == REQUESTS

    assert worker.spent() == worker.billed() > 0


class KilledError(Exception):
    pass


def killed_after(calls: int, wrapped: Callable[..., None], *, before: bool) -> Callable[..., None]:
    """`wrapped`, until it was called that often; then it is killed, before or after it did its work."""
    left = [calls]

    def call(*given: object) -> None:
        left[0] -= 1
        if left[0] < 0 and before:
            raise KilledError
        wrapped(*given)
        if left[0] < 0:
            raise KilledError

    return call


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kept", range(REQUESTS))
@pytest.mark.parametrize("until", ["ended", "charged"])
def test_recovery_that_is_killed_is_repeated_without_charging_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: str, kept: int, moment: str
) -> None:
    worker = Worker(tmp_path)
    worker.end(Progress(9, 12, 1, 100, 1.0, 2.0, 3.0), FAILED, until)
    with monkeypatch.context() as patched:
        patched.setattr(meter, "end_left_over", killed_after(kept, end_left_over, before=moment == "before"))
        with pytest.raises(KilledError):
            recover(tmp_path, 0, LOG)

    assert recover(tmp_path, 0, LOG) == REQUESTS

    assert worker.spent() == worker.billed() > 0
