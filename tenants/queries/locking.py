"""Row locks."""

from __future__ import annotations

from typing import TypeVarTuple

from sqlalchemy import Select

Ts = TypeVarTuple("Ts")


def locked(query: Select[*Ts]) -> Select[*Ts]:
    """`query` with its rows locked until the transaction ends, as they are under the lock.

    Without `populate_existing` a row that the session had read before would keep its old values.
    """
    return query.with_for_update().execution_options(populate_existing=True)
