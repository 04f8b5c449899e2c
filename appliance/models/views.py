"""From rows to what the API shows."""

from __future__ import annotations

import msgspec

from appliance.models.metadata import ModelMetadata
from appliance.models.schemas import File, ImportFailure, ImportProgress, Model, Version
from appliance.models.states import Source, VersionKind, VersionState
from appliance.models.tables import ModelFileRow, ModelImportRow, ModelRow, ModelVersionRow


def model_view(row: ModelRow) -> Model:
    return Model(
        id=row.id,
        tenant_id=row.tenant_id,
        shared=row.tenant_id is None,
        name=row.name,
        description=row.description,
        task_type=row.task_type or row.detected_task_type,
        framework=row.framework or row.detected_framework,
        detected_task_type=row.detected_task_type,
        detected_framework=row.detected_framework,
        default_version=row.default_version,
        revision=row.version,
        created_at=row.created_at,
    )


def metadata_of(row: ModelVersionRow) -> ModelMetadata:
    return msgspec.convert(row.details or {}, ModelMetadata)


def version_view(row: ModelVersionRow, running: ModelImportRow | None = None) -> Version:
    return Version(
        id=row.id,
        model_id=row.model_id,
        name=row.name,
        kind=VersionKind(row.kind),
        state=VersionState(row.state),
        current=row.is_current,
        total_bytes=row.total_bytes,
        metadata=metadata_of(row),
        error=msgspec.convert(row.error, ImportFailure) if row.error else None,
        progress=_progress(running) if running is not None else None,
        verified_at=row.verified_at,
        created_at=row.created_at,
    )


def file_view(row: ModelFileRow) -> File:
    return File(path=row.path, size=row.size, sha256=row.sha256)


def _progress(row: ModelImportRow) -> ImportProgress:
    return ImportProgress(Source(row.source), row.phase, row.bytes_done, row.bytes_total)
