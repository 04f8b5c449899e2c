"""The long-lived parts that routes use besides the database, by their protocols; filled in by the composition root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Parts:
    """`activations`: the reconcilers' statuses."""

    activations: Any = None
