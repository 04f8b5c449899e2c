"""All that the control plane uses of the data plane: schemas, and the readers and writers of the shared files.

The directories, under `APPLIANCE_HOME`: `gateway/snapshot` (`SnapshotWriter`), `gateway/spool`
(`sealed_segments`, `read_frames`), `gateway/status` (`read_status`, `listeners.json`).
"""

from appliance.gateway.plane.frames import read_frames, sealed_segments
from appliance.gateway.plane.metrics import merge_expositions, scrape
from appliance.gateway.plane.paths import (
    listeners_report_path,
    pid_path,
    snapshot_directory,
    status_path,
    supervisor_pid_path,
    worker_indexes,
)
from appliance.gateway.plane.publish import SnapshotWriter
from appliance.gateway.plane.schemas import (
    KEY_BUCKETS,
    LISTENERS_SHARD,
    OUTCOMES,
    SCOPE_INFERENCE,
    Deployment,
    KeyEntry,
    KeysShard,
    Listener,
    ListenersReport,
    ListenersShard,
    ListenerStatus,
    Manifest,
    Outcome,
    Replica,
    SamplingDefaults,
    ServiceShard,
    Timeouts,
    TlsFiles,
    UsageRecord,
    key_shard,
    service_shard,
)
from appliance.gateway.plane.status import WorkerStatus, read_status, start_ticks

__all__ = [
    "KEY_BUCKETS",
    "LISTENERS_SHARD",
    "OUTCOMES",
    "SCOPE_INFERENCE",
    "Deployment",
    "KeyEntry",
    "KeysShard",
    "Listener",
    "ListenerStatus",
    "ListenersReport",
    "ListenersShard",
    "Manifest",
    "Outcome",
    "Replica",
    "SamplingDefaults",
    "ServiceShard",
    "SnapshotWriter",
    "Timeouts",
    "TlsFiles",
    "UsageRecord",
    "WorkerStatus",
    "key_shard",
    "listeners_report_path",
    "merge_expositions",
    "pid_path",
    "read_frames",
    "read_status",
    "scrape",
    "sealed_segments",
    "service_shard",
    "snapshot_directory",
    "start_ticks",
    "status_path",
    "supervisor_pid_path",
    "worker_indexes",
]
