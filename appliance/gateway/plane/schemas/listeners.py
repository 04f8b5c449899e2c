"""Where the node listens and how its workers are set (to the workers), and what became of it (from the supervisor)."""

from __future__ import annotations

from msgspec import Struct


class TlsFiles(Struct, frozen=True):
    """PEM files, read again when they change."""

    certificate: str
    key: str


class Listener(Struct, frozen=True):
    """Without a service it is shared: its requests go to the services that name `gateway_id`, by their path's first
    segment or their body's `model`. Seconds: `head_s` for a whole head, `idle_s` between requests; bytes per second
    that a body must come with on average once `body_grace_s` are over. `tls_by_name`: the certificates for clients that
    ask for these names (`*.` stands for any one label); all others get that of `tls`.
    """

    id: str
    gateway_id: str
    host: str
    port: int
    service_id: str | None = None
    tls: TlsFiles | None = None
    max_body_bytes: int = 32 * 1024 * 1024
    head_s: float = 10.0
    idle_s: float = 75.0
    body_grace_s: float = 10.0
    body_min_rate: int = 1024
    tls_by_name: dict[str, TlsFiles] = {}


class NodeSettings(Struct, frozen=True):
    """Of all workers of the node; bytes. `connections` and `connections_per_peer` bound those that are open in one
    worker, in all and from one address. `spool_bytes` bounds the usage that waits for the control plane (older usage
    is then summed up, and refused when that does not help), `capture_bytes` the captures that wait, `access_log_bytes`
    the access log before it is rotated.
    """

    access_log: bool = True
    spool_bytes: int = 1024 * 1024 * 1024
    capture_bytes: int = 1024 * 1024 * 1024
    access_log_bytes: int = 256 * 1024 * 1024
    connections: int = 50_000
    connections_per_peer: int = 10_000


class ListenersShard(Struct, frozen=True):
    listeners: list[Listener]
    workers: int = 1
    settings: NodeSettings = NodeSettings()


class ListenerStatus(Struct, frozen=True):
    """`error` says why the address could not be bound; binding is tried again until it succeeds."""

    id: str
    host: str
    port: int
    bound: bool
    error: str | None = None


class ListenersReport(Struct, frozen=True):
    """`gateway/status/listeners.json`. `version` is the manifest the supervisor acted on."""

    version: int
    supervisor_pid: int
    workers: int
    listeners: list[ListenerStatus]
    snapshot_error: str | None = None
