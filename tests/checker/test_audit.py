"""The chain's check against rows that the product itself sealed, and against rows that were tampered with."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.kernel.db import Database
from tenants.actors import system
from tenants.audit import add
from tenants.sealing import seal_batch
from tests.checker import audit
from tests.checker.database import Row, read_tables
from tests.checker.evidence import Evidence
from tests.support.processes import ProcessTable

AT = datetime(2026, 1, 1, 12, 0, 0, 120, tzinfo=UTC)
DETAIL = {"zeta": 'é\n"\\/\x7f\U0001f600', "alpha": [1, None, True, 0.5], "nested": {"b": 1, "a": {}}}


@pytest.fixture
async def sealed(database: Database, database_url: str) -> Evidence:
    """Five rows in a chain, read back by the checker's own SQL."""
    async with database.write() as session:
        for number in range(5):
            at = AT + timedelta(seconds=number)
            add(session, system("é"), at, "x.y", "z", str(number), tenant_id="ten_1", detail=DETAIL)
    async with database.write() as session:
        await seal_batch(session)
    processes = ProcessTable({})
    return Evidence(home=Path("/srv"), appliance="apl_1", tables=read_tables(database_url), processes=processes, at=AT)


def found(evidence: Evidence) -> list[str]:
    return [violation.problem for violation in audit.within_database(evidence)]


def changed(evidence: Evidence, change: Callable[[list[dict[str, Any]]], object]) -> Evidence:
    rows: Sequence[Row] = sorted(evidence.rows("audit_events"), key=lambda row: row["sequence"])
    copies = [dict(row) for row in rows]
    change(copies)
    return replace(evidence, tables={**evidence.tables, "audit_events": copies})


async def test_what_the_product_sealed_verifies(sealed: Evidence):
    assert sorted(row["sequence"] for row in sealed.rows("audit_events")) == [1, 2, 3, 4, 5]
    assert found(sealed) == []


@pytest.mark.parametrize("column", ["actor_name", "action", "target_id", "tenant_id", "detail", "at"])
async def test_a_changed_row(sealed: Evidence, column: str):
    other = {"detail": "{}", "at": "2026-01-01 13:00:00.000000"}.get(column, "other")
    assert found(changed(sealed, lambda rows: rows[2].update({column: other}))) == ["is not what was sealed"]


async def test_a_row_that_was_taken_out(sealed: Evidence):
    assert found(changed(sealed, lambda rows: rows.pop(2))) == ["has number 4 where 3 is missing"]
    assert found(changed(sealed, lambda rows: rows.pop(0))) == ["has number 2 where 1 is missing"]


async def test_a_row_that_was_put_in(sealed: Evidence):
    def forge(rows: list[dict[str, Any]]) -> None:
        rows[3]["previous_hash"] = "0" * 64

    assert found(changed(sealed, forge)) == ["does not continue the chain of the row before it"]


async def test_a_row_that_is_never_sealed(sealed: Evidence):
    def unseal(rows: list[dict[str, Any]]) -> None:
        rows[4].update(sequence=None, previous_hash=None, hash=None)

    unsealed = changed(sealed, unseal)
    assert found(unsealed) == []
    assert found(replace(unsealed, at=AT + timedelta(minutes=5))) == ["was never sealed"]
