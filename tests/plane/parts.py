"""Pieces of the data plane in one process: tables from shards, and requests as admission makes them."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from appliance.gateway.plane import wire
from appliance.gateway.plane.admitted import Admitted
from appliance.gateway.plane.backends import Backends
from appliance.gateway.plane.head import RequestHead, parse_request
from appliance.gateway.plane.principal import Principal
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.route import Pending, engine_route, pending_route
from appliance.gateway.plane.routes import Matched
from appliance.gateway.plane.snapshot import Snapshot
from appliance.gateway.plane.status import StatusWriter
from appliance.gateway.plane.tables import EMPTY, ServiceTable, Tables, build

GATEWAY = "gwy_1"
CHAT = "/v1/chat/completions"
ROUTES = ["POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings"]


def shard(name: str = "chat", tenant: str = "acme", **changes: Any) -> wire.ServiceShard:
    """A service of the gateway. `tenant` is its tenant's name; the id is `ten_` and that."""
    plain = wire.ServiceShard(
        id=f"svc_{tenant}_{name}",
        tenant_id=f"ten_{tenant}",
        tenant_name=tenant,
        name=name,
        served_model=f"{name}-model",
        deployments=[],
        routes=ROUTES,
        gateway_id=GATEWAY,
    )
    return msgspec.structs.replace(plain, **changes)


def principal(tenant: str = "acme", entry: wire.TenantEntry | None = None, **changes: Any) -> Principal:
    key = msgspec.structs.replace(wire.KeyEntry(f"key_{tenant}", f"ten_{tenant}", "test"), **changes)
    return Principal(key, entry or wire.TenantEntry(tenant))


def backends() -> Backends:
    with tempfile.TemporaryDirectory() as directory:
        return Backends(StatusWriter(Path(directory) / "status"))


def tables(
    *services: wire.ServiceShard,
    before: Tables = EMPTY,
    known: Backends | None = None,
    keys: Mapping[str, wire.KeyEntry] | None = None,
) -> Tables:
    """`keys` by whatever name."""
    buckets: list[dict[str, wire.KeyEntry]] = [{} for _ in range(wire.KEY_BUCKETS)]
    buckets[0] |= keys or {}
    version = before.version + 1
    snapshot = Snapshot(version, wire.ListenersShard([]), {each.id: each for each in services}, buckets)
    return build(snapshot, before, known or backends())


def head(method: str = "POST", path: str = CHAT, **fields: str) -> RequestHead:
    lines = [f"{method} {path} HTTP/1.1", "host: gateway", *(f"{name}: {value}" for name, value in fields.items())]
    return parse_request("\r\n".join(lines).encode() + b"\r\n\r\n")


def request(
    service: wire.ServiceShard, by: Principal | None = None, *, path: str = CHAT, fields: dict[str, str] | None = None
) -> Request:
    """A request whose head has told its service."""
    of = tables(service).services[service.id]
    told = head(path=path, **(fields or {}))
    return _request(by or principal(), told, engine_route(told.method, told.path, of), of)


def shared_request(of: Tables, by: Principal, *, path: str = CHAT) -> Request:
    """A request whose body will tell its service."""
    told = head(path=path)
    lead = pending(of, by)
    return _request(by, told, pending_route(told.method, told.path, lead.directory), lead)


def pending(of: Tables, by: Principal) -> Pending:
    return Pending(of, of.directory(GATEWAY, by.key.tenant_id), by)


def _request(by: Principal, told: RequestHead, matched: Matched, lead: ServiceTable | Pending) -> Request:
    admitted = Admitted(told, by, lead, matched, matched.line, 1 << 25)
    return Request(admitted, told, "req_test", b"test", 0.0, 0.0, "127.0.0.1")


def again(request: Request) -> Request:
    """One more like it, as far as `request` made it, and with the same body."""
    admitted = Admitted(
        request.head, request.principal, request.service, request.matched, request.line, request.max_body_bytes
    )
    other = Request(
        admitted, request.head, request.unique, request.request_id, request.at, request.started, request.peer
    )
    other.prepared, other.bytes_in = request.prepared, request.bytes_in
    return other


def chat(**members: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], **members}).encode()
