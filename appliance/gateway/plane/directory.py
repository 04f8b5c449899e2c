"""Which services a tenant's keys find on the shared listeners of one gateway, by path and by model.

A path names a service of the key's own tenant as `/{service}/...`, and any service as `/{tenant}.{service}/...`. A
`model` is a served model name, an alias, the service's name or `{tenant}.{service}`; the tenant's own services come
before those that others share with it, so that nobody takes over a name by sharing. The control plane refuses what
would make a name lead to two services; where one does all the same, it is refused, with the choices in the order of
tenants' and services' names, whatever the order of the shards. Other tenants' services are not
in here at all: what does not exist and what is not allowed are the same look-up that fails.

Only what names a service is kept (its shard at the time), so a directory stays good while replicas come and go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from appliance.gateway.plane.errors import Refusal, model_not_found
from appliance.gateway.plane.principal import Listing, Principal
from appliance.gateway.plane.routes import Body, Matched, RouteTable, route_table
from appliance.gateway.plane.schemas.services import ServiceShard

RESERVED: Final = frozenset({b"v1", b"v2", b"healthz"})
"""First segments of paths that never name a service; `/{tenant}.{service}` reaches one with such a name."""

_MOST_CHOICES: Final = 10


class Directory:
    """What the keys of `tenant_id` may use, unless a key itself allows less."""

    __slots__ = ("_by_model", "_by_path", "_gateway_id", "_listing", "_services", "_tenant_id", "route_tables")

    def __init__(self, gateway_id: str, tenant_id: str, shards: Iterable[ServiceShard]) -> None:
        self._gateway_id = gateway_id
        self._tenant_id = tenant_id
        self._services = sorted(shards, key=lambda shard: (shard.tenant_id != tenant_id, shard.tenant_name, shard.name))
        self._by_path: dict[bytes, str] = {}
        self._by_model: dict[str, list[ServiceShard]] = {}
        for shard in self._services:
            self._by_path[qualified(shard).encode()] = shard.id
            if shard.tenant_id == tenant_id:
                self._by_path.setdefault(shard.name.encode(), shard.id)
            for name in names(shard):
                self._by_model.setdefault(name, []).append(shard)
        self.route_tables: list[RouteTable] = list({route_table(tuple(shard.routes)) for shard in self._services})
        self._listing: Listing | None = None

    def by_path(self, segment: bytes, principal: Principal) -> str:
        """The id of the service that a path's first segment names; `Refusal` 404."""
        service_id = None if segment in RESERVED else self._by_path.get(segment)
        if service_id is None or not principal.may_use(service_id):
            raise Refusal(
                404,
                "service_not_found",
                f"The service '{segment.decode('ascii')[:200]}' does not exist here or you do not have access to it.",
            )
        return service_id

    def by_model(self, model: str, principal: Principal) -> str:
        """The id of the service that `model` names; `Refusal` 404 if there is none, 400 if there are several."""
        found = self._candidates(model, principal)
        if not found:
            raise model_not_found(model)
        if len(found) > 1:
            choices = ", ".join(f"'{qualified(shard)}'" for shard in found[:_MOST_CHOICES])
            raise Refusal(
                400,
                "model_ambiguous",
                f"The model '{model[:200]}' is served by several services; name one of {choices} as the model, or "
                "put the service's name before the path.",
                param="model",
            )
        return found[0].id

    def route(self, method: bytes, path: bytes) -> Matched | None:
        """The route of a request whose service its body's model tells."""
        for table in self.route_tables:
            matched = table.fixed(method, path)
            if matched is not None and matched.route.body is Body.OPENAI:
                return matched
        return None

    def methods(self, path: bytes) -> list[str]:
        """The methods with which `path` is a route whose service the body's model tells."""
        return sorted(
            {
                method
                for table in self.route_tables
                for method in table.methods(path)
                if self.route(method.encode(), path) is not None
            }
        )

    def listing(self, principal: Principal) -> Listing:
        """Every model that this key may ask for. A service that others share, all of whose names are also names of
        the tenant's own, is reached by its path alone.
        """
        if principal.services is None:
            if self._listing is None:
                self._listing = self._list(principal)
            return self._listing
        known = principal.listings.get(self._gateway_id)
        if known is None:
            known = principal.listings[self._gateway_id] = self._list(principal)
        return known

    def _list(self, principal: Principal) -> Listing:
        cards: list[dict[str, object]] = []
        for shard in self._services:
            if principal.may_use(shard.id):
                clear = self._clear(shard, offered(shard), principal)
                clear = clear or self._clear(shard, [qualified(shard), shard.name], principal)[:1]
                cards += [card(shard, name) for name in clear]
        return list_models(cards)

    def _clear(self, shard: ServiceShard, given: list[str], principal: Principal) -> list[str]:
        """Those of the names `given` that lead to `shard` and nowhere else."""
        return [name for name in given if self._candidates(name, principal) == [shard]]

    def _candidates(self, model: str, principal: Principal) -> list[ServiceShard]:
        found = [shard for shard in self._by_model.get(model, ()) if principal.may_use(shard.id)]
        if len(found) > 1:
            own = [shard for shard in found if shard.tenant_id == self._tenant_id]
            found = own or found
            found = [shard for shard in found if qualified(shard) == model] or found
        return found


def qualified(shard: ServiceShard) -> str:
    return f"{shard.tenant_name}.{shard.name}"


def offered(shard: ServiceShard) -> list[str]:
    """The names that the service's list of models tells."""
    return list(dict.fromkeys((shard.served_model, *shard.aliases)))


def names(shard: ServiceShard) -> frozenset[str]:
    """All names that a request's `model` may give."""
    return frozenset((shard.served_model, *shard.aliases, shard.name, qualified(shard)))


def card(shard: ServiceShard, name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": shard.created_at, "owned_by": shard.tenant_name}


def list_models(cards: list[dict[str, object]]) -> Listing:
    each = {str(entry["id"]).encode(): msgspec.json.encode(entry) for entry in cards}
    return Listing(msgspec.json.encode({"object": "list", "data": cards}), each)


def seen_alike(one: ServiceShard, other: ServiceShard) -> bool:
    """Whether no directory tells the two apart."""
    return (
        one.gateway_id == other.gateway_id
        and one.name == other.name
        and one.served_model == other.served_model
        and one.aliases == other.aliases
        and one.shared_with == other.shared_with
        and one.routes == other.routes
        and one.tenant_id == other.tenant_id
        and one.tenant_name == other.tenant_name
        and one.created_at == other.created_at
    )
