"""Files that come with the code: `config/`, `images/`, `migrations/`; beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource(name: str) -> Path:
    """The path of `name` (relative, as in the checkout)."""
    packed = _PACKAGE / "_resources" / name
    return packed if packed.exists() else _PACKAGE.parent / name
