"""From an API key to a principal: who asks, and whether they may use this service.

Keys are looked up by their SHA-256; a 256-bit secret needs no slow hash, and the look-up's time tells nothing about
a stored key. A key of a tenant that a service is not for is answered exactly like an unknown one.
"""

from __future__ import annotations

import hashlib
from typing import Final

from appliance.gateway.plane.errors import Refusal, invalid_key
from appliance.gateway.plane.principal import Principal
from appliance.gateway.plane.schemas.services import ServiceShard
from appliance.gateway.plane.schemas.tenants import SCOPE_INFERENCE
from appliance.gateway.plane.tables import Tables

_PREFIX: Final = b"bearer "
_MAX_KEY: Final = 512


def authenticate(authorization: bytes | None, tables: Tables) -> Principal:
    """Whose key it is. `Refusal` 401 if there is none or it is unknown."""
    if authorization is None:
        raise invalid_key("You did not provide an API key.")
    if authorization[:7].lower() != _PREFIX or len(authorization) > _MAX_KEY:
        raise invalid_key("The Authorization header is not 'Bearer <key>'.")
    principal = tables.principal(hashlib.sha256(authorization[7:].strip()).hexdigest())
    if principal is None:
        raise invalid_key()
    return principal


def check_key(principal: Principal, peer: str, at: float) -> None:
    """`Refusal` 401: expired (`at`: Unix seconds) or from a network that the key is not for; 403: not for inference."""
    if principal.expires_at <= at:
        raise invalid_key("The API key has expired.")
    if principal.networks is not None and not principal.may_come_from(peer):
        raise Refusal(
            401,
            "ip_not_authorized",
            f"The API key '{principal.key.name}' may not be used from the address {peer}.",
            headers=b"www-authenticate: Bearer\r\n",
        )
    if not principal.may_infer:
        raise Refusal(
            403,
            "insufficient_scope",
            f"The API key '{principal.key.name}' does not have the scope '{SCOPE_INFERENCE}'.",
        )


def check_tenant(principal: Principal, service: ServiceShard) -> None:
    """`Refusal` 401, as for an unknown key, if the service is not for the key's tenant."""
    tenant_id = principal.key.tenant_id
    if tenant_id != service.tenant_id and tenant_id not in service.shared_with:
        raise invalid_key()


def check_service(principal: Principal, service: ServiceShard) -> None:
    """`Refusal` 403 if the key is for other services of its tenant."""
    if principal.services is not None and service.id not in principal.services:
        raise Refusal(
            403, "service_not_allowed", f"The API key '{principal.key.name}' is not allowed to use this service."
        )
