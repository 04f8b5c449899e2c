"""Which route exists on which port: the one list."""

from __future__ import annotations

from litestar.types import ControllerRouterHandler


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports: what belongs to one tenant."""
    return []


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return []


def public_routes() -> list[ControllerRouterHandler]:
    """Without authentication."""
    return []
