"""Which route exists on which port: the one list."""

from __future__ import annotations

from litestar.types import ControllerRouterHandler

from appliance.api import (
    audit,
    budgets,
    estimates,
    flavors,
    gateways,
    grants,
    keys,
    limits,
    logins,
    maintenance,
    members,
    models,
    nodes,
    pools,
    quotas,
    reservations,
    runtimes,
    services,
    status,
    telemetry,
    tenants,
    uploads,
    usage,
    users,
)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports: what belongs to one tenant."""
    modules = (
        logins,
        members,
        keys,
        quotas,
        limits,
        budgets,
        models,
        estimates,
        uploads,
        services,
        gateways,
        pools,
        grants,
        reservations,
        flavors,
        runtimes,
        usage,
        telemetry,
        audit,
    )
    return [route for module in modules for route in module.tenant_routes()]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    modules = (
        status,
        tenants,
        users,
        keys,
        quotas,
        models,
        services,
        gateways,
        pools,
        grants,
        reservations,
        nodes,
        maintenance,
        flavors,
        runtimes,
        telemetry,
        audit,
    )
    return [route for module in modules for route in module.admin_routes()]
