"""Nobody gives away more than he holds: the one rule for roles and for scopes of keys."""

from __future__ import annotations

from collections.abc import Iterable

from tenants.actors import Actor
from tenants.errors import PermissionExceeded
from tenants.permissions import PERMISSIONS, Permission, Role


def require_role(actor: Actor, role: Role) -> None:
    """Raise `PermissionExceeded` unless the actor holds everything that `role` permits.

    It guards taking a role away as well: a lower role does not dismiss a higher one.
    """
    missing = PERMISSIONS[role] - actor.permissions
    if missing:
        raise PermissionExceeded(
            f"{actor.name} may not give or take the role {role.value!r}: it permits {_listed(missing)}, "
            f"which {actor.name} may not do; ask someone who may"
        )


def require_scopes(actor: Actor, scopes: Iterable[Permission]) -> None:
    """Raise `PermissionExceeded` unless the actor holds each of `scopes`."""
    missing = frozenset(scopes) - actor.permissions
    if missing:
        raise PermissionExceeded(
            f"{actor.name} does not hold {_listed(missing)} and cannot give it to a key; leave it out of the scopes"
        )


def _listed(permissions: Iterable[Permission]) -> str:
    return ", ".join(sorted(permission.value for permission in permissions))
