"""Every table of the project, imported so that the metadata is whole."""
# ruff: noqa: F401 - imported for their tables

from __future__ import annotations

import appliance.gateway.tables
import appliance.models.tables
import appliance.runtimes.tables
import appliance.services.metering_tables
import appliance.services.tables
import gpu.reservation_tables
import gpu.tables
import tenants.budget_tables
import tenants.grant_tables
import tenants.tables
import tenants.usage_tables
from appliance.kernel.tables import Base

metadata = Base.metadata
