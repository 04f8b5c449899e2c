"""What the routes reach: made by the composition root, one for each port, kept in the application's state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from litestar.connection import ASGIConnection

from appliance.kernel.clock import Clock
from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.settings import Settings

if TYPE_CHECKING:
    from appliance.api.parts import Parts


class Port(StrEnum):
    """Which of the two applications answers; what is for administrators does not exist on the tenant port."""

    admin = "admin"
    tenant = "tenant"


@dataclass(frozen=True, slots=True)
class Context:
    port: Port
    settings: Settings
    database: Database
    clock: Clock
    passwords: Passwords
    parts: Parts


def context_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Context:
    context: Context = connection.app.state["context"]
    return context
