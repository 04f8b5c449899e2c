"""Who may use what the platform lends: pools of compute and gateways have it alike."""

from __future__ import annotations

from enum import StrEnum


class Access(StrEnum):
    """`public`: every tenant; `dedicated`: those with a grant that has not expired."""

    public = "public"
    dedicated = "dedicated"
