"""The reach of a query: one tenant, or the whole platform. Every query takes it first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import InstrumentedAttribute

from appliance.kernel.errors import BadInput
from appliance.kernel.ids import TenantId


@dataclass(frozen=True, slots=True)
class TenantScope:
    """`tenant_id` is None for the whole platform, which only platform roles and reconcilers get."""

    tenant_id: TenantId | None

    def holds(self, column: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
        """The condition that a row's tenant column lies in the scope."""
        return true() if self.tenant_id is None else column == self.tenant_id

    def one(self) -> TenantId:
        """The tenant that a new object will belong to; `BadInput` where none was chosen."""
        if not self.tenant_id:
            raise BadInput("say which tenant this is for: set the header Appliance-Tenant to its name or id")
        return self.tenant_id


PLATFORM = TenantScope(None)
NOWHERE = TenantScope(TenantId(""))
"""The scope of someone who has not chosen a tenant yet: it holds no row at all."""
