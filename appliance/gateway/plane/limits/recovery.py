"""Charging budgets for a request that its worker was killed over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from appliance.gateway.plane.limits.charge import Changes, charge, charged_last, finish_charge
from appliance.gateway.plane.limits.layout import find, limits_directory, open_table, table_path
from appliance.gateway.plane.limits.periods import spend

if TYPE_CHECKING:
    from appliance.gateway.plane.slots import RequestIdentity


def last_charged(home: Path, index: int) -> int:
    """The request (`RequestIdentity.charge`) that was charged last in the table of a worker whose lock the caller
    holds; 0 if none was.
    """
    path = table_path(limits_directory(home), index)
    if not path.exists():
        return 0
    words = open_table(path)
    finish_charge(words)
    return charged_last(words)


def charge_lost(home: Path, index: int, identity: RequestIdentity, tokens: int) -> None:
    """Charge the request in the table of the worker that it was lost with, unless that had just done so.

    The caller holds the worker's lock, has the request's record kept before it charges another, and begins with the
    one that was `last_charged`: the first charge of another forgets which that was.
    """
    if not identity.budgets or not tokens:
        return
    words = open_table(table_path(limits_directory(home), index))
    finish_charge(words)
    if charged_last(words) == identity.charge:
        return
    changes: Changes = []
    for at in range(0, len(identity.budgets), 8):
        row = find(words, int.from_bytes(identity.budgets[at : at + 8], "little"))
        if row is not None:  # else it was counted in that process's memory alone
            changes += spend(words, row, identity.at, tokens)
    charge(words, identity.charge, changes)
