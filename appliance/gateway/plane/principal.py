"""Who asks: a key with its tenant, made ready for the checks of each request.

Built once per key and snapshot, at the key's first use, so that a snapshot with 10,000 keys costs nothing for those
that nobody uses.
"""

from __future__ import annotations

from appliance.gateway.plane.schemas import KeyEntry, TenantEntry


class Principal:
    __slots__ = ("key", "tenant")

    def __init__(self, key: KeyEntry, tenant: TenantEntry) -> None:
        self.key = key
        self.tenant = tenant
