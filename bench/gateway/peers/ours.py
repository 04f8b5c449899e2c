"""This product's gateway by itself, from a snapshot that is written here: no control plane, no database."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane import wire
from bench.gateway.machine import started
from bench.gateway.peers.configured import KEY, LIMITED_KEY
from bench.gateway.target import PATH, Features, Target, TlsPair, get
from bench.gateway.upstream import MODEL, Upstream
from tests.support.ports import free_ports
from tests.support.waiting import eventually

NAME: Final = "appliance"
LOG: Final = "gateway.log"
_WIDE: Final = wire.Limits(
    requests_per_minute=100_000_000, tokens_per_minute=1_000_000_000_000, concurrent_requests=1_000_000
)
_NARROW: Final = wire.Limits(requests_per_minute=1)
_TENANT: Final = "ten_bench"


@contextmanager
def appliance(home: Path, upstream: Upstream, tls: TlsPair, core: int, *, workers: int = 1) -> Iterator[Target]:
    """Everything is on: keys, limits on key, service and tenant, defaults, metering, the access log."""
    ports = free_ports(2)
    home.mkdir(parents=True, exist_ok=True)
    version = wire.SnapshotWriter(wire.snapshot_directory(home)).publish(shards(upstream, tls, ports, workers))
    command = [sys.executable, "-m", "appliance.gateway.plane.supervisor", "--home", str(home), "--grace", "5"]
    log = home / LOG
    with started(command, core=core, log=log) as process:

        def serves() -> bool:
            if process.poll() is not None:
                raise RuntimeError(
                    f"the gateway ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
                )
            return _is_applied(home, version, workers) and get(ports[0], "/healthz")[0] == 200

        eventually(serves, 30.0, message="the gateway serves", ignoring=(OSError,))
        features = Features(key=True, limits=True, usage=True, log=True)
        name = NAME if workers == 1 else f"{NAME}-{workers}"
        yield Target(name, ports[0], process.pid, features, KEY, LIMITED_KEY, tls_port=ports[1])


def records(home: Path) -> Iterator[wire.UsageRecord]:
    """The usage that has been written and not been given before, as the control plane reads it."""
    for path in wire.sealed_segments(home / "gateway" / "spool"):
        for record, _ in wire.read_frames(path):
            if isinstance(record, wire.UsageRecord):
                yield record
        path.unlink()


def _is_applied(home: Path, version: int, workers: int) -> bool:
    for index in range(workers):
        with suppress(FileNotFoundError):
            if wire.read_status(wire.status_path(home, index)).applied_version == version:
                continue
        return False
    return True


def shards(upstream: Upstream, tls: TlsPair, ports: range, workers: int) -> dict[str, msgspec.Struct]:
    files = wire.TlsFiles(tls.certificate, tls.key)
    listeners = [
        wire.Listener("lsn_plain", "gwy_bench", "127.0.0.1", ports[0], "svc_bench"),
        wire.Listener("lsn_tls", "gwy_bench", "127.0.0.1", ports[1], "svc_bench", files),
    ]
    replica = wire.Replica("rpl_bench", str(upstream.socket), os.getuid())
    service = wire.ServiceShard(
        id="svc_bench",
        tenant_id=_TENANT,
        tenant_name="acme",
        name="bench",
        served_model=MODEL,
        deployments=[wire.Deployment("dep_bench", "main", 100, [replica])],
        routes=[f"POST {PATH}"],
        usage_in_every_chunk=True,
        defaults=wire.SamplingDefaults(temperature=0.7, top_p=0.9, repetition_penalty=1.05, max_tokens_ceiling=100_000),
        limits=_WIDE,
        context_tokens=4096,
    )
    shards: dict[str, msgspec.Struct] = {
        wire.LISTENERS_SHARD: wire.ListenersShard(listeners, workers),
        wire.TENANTS_SHARD: wire.TenantsShard({_TENANT: wire.TenantEntry("acme", limits=_WIDE)}),
        wire.service_shard(service.id): service,
    }
    keys: dict[str, dict[str, wire.KeyEntry]] = {f"keys-{number:02d}": {} for number in range(wire.KEY_BUCKETS)}
    for key, limits in ((KEY, _WIDE), (LIMITED_KEY, _NARROW)):
        hashed = hashlib.sha256(key.encode()).hexdigest()
        keys[wire.key_shard(hashed)][hashed] = wire.KeyEntry(f"key_{len(key)}", _TENANT, "bench", limits=limits)
    return shards | {shard: wire.KeysShard(bucket) for shard, bucket in keys.items()}
