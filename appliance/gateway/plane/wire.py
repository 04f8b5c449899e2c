"""All that the control plane uses of the data plane: schemas, and the readers and writers of the shared files.

The directories, under `APPLIANCE_HOME`: `gateway/snapshot` (`SnapshotWriter`), `gateway/spool`
(`sealed_segments`, `read_frames`), `gateway/status` (`read_status`, `listeners.json`), `gateway/demand`
(`read_demands`).
"""

from appliance.gateway.plane.demands import Demand, clear_demand, demand_directory, forget_demand, read_demands
from appliance.gateway.plane.exposition import merge_expositions
from appliance.gateway.plane.frames import claim, read_captures, read_frames, read_records, sealed_segments, whole_bytes
from appliance.gateway.plane.histograms import RELATIVE_ERROR, Histogram, quantile
from appliance.gateway.plane.local import scrape
from appliance.gateway.plane.paths import (
    listeners_report_path,
    pid_path,
    snapshot_directory,
    status_path,
    supervisor_pid_path,
    worker_indexes,
)
from appliance.gateway.plane.publish import SnapshotWriter
from appliance.gateway.plane.schemas.limits import Budget, Limits, Period, Priority
from appliance.gateway.plane.schemas.listeners import (
    Listener,
    ListenersReport,
    ListenersShard,
    ListenerStatus,
    NodeSettings,
    TlsFiles,
)
from appliance.gateway.plane.schemas.manifest import (
    KEY_BUCKETS,
    LISTENERS_SHARD,
    TENANTS_SHARD,
    Manifest,
    key_shard,
    service_shard,
)
from appliance.gateway.plane.schemas.records import (
    OUTCOMES,
    CaptureRecord,
    Durations,
    LatencyRecord,
    Outcome,
    SpoolRecord,
    UsageRecord,
    UsageRollup,
)
from appliance.gateway.plane.schemas.services import (
    Affinity,
    Capture,
    Deployment,
    Mirror,
    Replica,
    SamplingDefaults,
    ServiceShard,
    Timeouts,
)
from appliance.gateway.plane.schemas.tenants import SCOPE_INFERENCE, KeyEntry, KeysShard, TenantEntry, TenantsShard
from appliance.gateway.plane.status import WorkerStatus, read_status, start_ticks

__all__ = [
    "KEY_BUCKETS",
    "LISTENERS_SHARD",
    "OUTCOMES",
    "RELATIVE_ERROR",
    "SCOPE_INFERENCE",
    "TENANTS_SHARD",
    "Affinity",
    "Budget",
    "Capture",
    "CaptureRecord",
    "Demand",
    "Deployment",
    "Durations",
    "Histogram",
    "KeyEntry",
    "KeysShard",
    "LatencyRecord",
    "Limits",
    "Listener",
    "ListenerStatus",
    "ListenersReport",
    "ListenersShard",
    "Manifest",
    "Mirror",
    "NodeSettings",
    "Outcome",
    "Period",
    "Priority",
    "Replica",
    "SamplingDefaults",
    "ServiceShard",
    "SnapshotWriter",
    "SpoolRecord",
    "TenantEntry",
    "TenantsShard",
    "Timeouts",
    "TlsFiles",
    "UsageRecord",
    "UsageRollup",
    "WorkerStatus",
    "claim",
    "clear_demand",
    "demand_directory",
    "forget_demand",
    "key_shard",
    "listeners_report_path",
    "merge_expositions",
    "pid_path",
    "quantile",
    "read_captures",
    "read_demands",
    "read_frames",
    "read_records",
    "read_status",
    "scrape",
    "sealed_segments",
    "service_shard",
    "snapshot_directory",
    "start_ticks",
    "status_path",
    "supervisor_pid_path",
    "whole_bytes",
    "worker_indexes",
]
