"""Names that several modules share."""

from __future__ import annotations

from typing import Final

RECONCILER: Final = "model-store"
"""Runs imports, removes what expired, and collects what nothing refers to."""
