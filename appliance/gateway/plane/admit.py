"""From an API key to a principal: who asks, and whether they may use this service.

Keys are looked up by their SHA-256; a 256-bit secret needs no slow hash, and the look-up's time tells nothing about
a stored key. A key of another tenant is answered exactly like an unknown one.
"""

from __future__ import annotations

import hashlib
import time
from typing import Final

from appliance.gateway.plane.errors import Refusal, invalid_key
from appliance.gateway.plane.schemas import SCOPE_INFERENCE, KeyEntry
from appliance.gateway.plane.tables import ServiceTable, Tables

_PREFIX: Final = b"bearer "
_MAX_KEY: Final = 512


def authenticate(authorization: bytes | None, service: ServiceTable, tables: Tables) -> KeyEntry:
    """The key's entry. `Refusal` 401: missing, unknown, expired or another tenant's; 403: not for this service."""
    if authorization is None:
        raise invalid_key("You did not provide an API key.")
    if authorization[:7].lower() != _PREFIX or len(authorization) > _MAX_KEY:
        raise invalid_key("The Authorization header is not 'Bearer <key>'.")
    entry = tables.key(hashlib.sha256(authorization[7:].strip()).hexdigest())
    if entry is None or entry.tenant_id != service.shard.tenant_id:
        raise invalid_key()
    if entry.expires_at is not None and entry.expires_at <= time.time():
        raise invalid_key("The API key has expired.")
    if SCOPE_INFERENCE not in entry.scopes:
        raise Refusal(
            403, "insufficient_scope", f"The API key '{entry.name}' does not have the scope '{SCOPE_INFERENCE}'."
        )
    if entry.services is not None and service.shard.id not in entry.services:
        raise Refusal(403, "service_not_allowed", f"The API key '{entry.name}' is not allowed to use this service.")
    return entry
