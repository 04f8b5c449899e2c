"""What the API takes and gives, and what other domains get."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from appliance.models.metadata import ModelMetadata
from appliance.models.states import Source, UploadKind, UploadState, VersionKind, VersionState
from gpu.estimate.estimate import Estimate

_END = r"(?![\s\S])"
"""The end of the text, in Python's regular expressions and in JSON Schema's; `$` would let a final newline pass."""

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=96,
        pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]*{_END}",
        description="letters, digits, `.`, `_` and `-`, beginning with a letter or a digit",
    ),
]
Description = Annotated[str, Meta(max_length=4000)]
Label = Annotated[str, Meta(min_length=1, max_length=96, pattern=rf"^[a-z0-9][a-z0-9-]*{_END}")]
"""A task type or framework, as model cards write them: `text-generation`, `transformers`."""
Digest = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{_END}", description="SHA-256, lower-case hexadecimal")]
Size = Annotated[int, Meta(ge=0, le=1 << 50, description="bytes")]


class NewModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shared`: every tenant may use the model; administrators only."""

    name: Name
    description: Description = ""
    task_type: Label | None = None
    framework: Label | None = None
    shared: bool = False


class ModelChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is absent stays. `task_type` and `framework` null: what was detected holds again."""

    description: Description | UnsetType = UNSET
    task_type: Label | UnsetType | None = UNSET
    framework: Label | UnsetType | None = UNSET
    default_version: Name | UnsetType = UNSET


class Model(msgspec.Struct, frozen=True):
    """`task_type` and `framework` are in force: edited, or else detected in the default version. `revision` is the
    counter in the ETag.
    """

    id: str
    tenant_id: str | None
    shared: bool
    name: str
    description: str
    task_type: str | None
    framework: str | None
    detected_task_type: str | None
    detected_framework: str | None
    default_version: str | None
    revision: int
    created_at: datetime


class ImportProgress(msgspec.Struct, frozen=True):
    source: Source
    phase: str
    bytes_done: int
    bytes_total: int


class FailedFile(msgspec.Struct, frozen=True):
    path: str
    reason: str


class ImportFailure(msgspec.Struct, frozen=True):
    """Why a version failed; `code` as in a problem document."""

    code: str
    detail: str
    files: list[FailedFile] = []


class Version(msgspec.Struct, frozen=True):
    """`current`: the name stands for this content; an older one stays while services run on it."""

    id: str
    model_id: str
    name: str
    kind: VersionKind
    state: VersionState
    current: bool
    total_bytes: int
    metadata: ModelMetadata
    error: ImportFailure | None
    progress: ImportProgress | None
    verified_at: datetime | None
    created_at: datetime


class File(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class NewTag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name


class NewImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`directory` is a folder of the server, absolute, below one of the folders in `models.import_roots`."""

    directory: Annotated[str, Meta(min_length=1, max_length=4096)]
    version: Name = "main"
    kind: VersionKind = VersionKind.branch


class UploadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Annotated[str, Meta(min_length=1, max_length=512)]
    size: Size
    sha256: Digest


class NewUpload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `content` `archive`, the one file is a .tar, .tar.gz, .tgz or .zip that holds the model."""

    files: Annotated[list[UploadFile], Meta(min_length=1, max_length=4096)]
    version: Name = "main"
    kind: VersionKind = VersionKind.branch
    content: UploadKind = UploadKind.files


class UploadProgress(msgspec.Struct, frozen=True):
    """`complete`: all bytes are there and have the announced SHA-256."""

    path: str
    size: int
    sha256: str
    received: int
    complete: bool


class UploadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`files` is how many were announced, `size` their bytes."""

    id: str
    model_id: str
    version_id: str
    content: UploadKind
    state: UploadState
    files: int
    size: int
    created_at: datetime
    expires_at: datetime


class Upload(msgspec.Struct, frozen=True):
    id: str
    model_id: str
    version_id: str
    content: UploadKind
    state: UploadState
    files: list[UploadProgress]
    created_at: datetime
    expires_at: datetime


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A version as a service needs it; `serving.folder_of` gives the folder that an engine mounts read-only.

    `tenant_id` is None for a model that the platform shares. `formats` are the weights' file formats,
    `quantised` tells whether the weights are compressed (then `metadata.quantisation` names the method).
    """

    version_id: str
    version_name: str
    model_id: str
    model_name: str
    tenant_id: str | None
    metadata: ModelMetadata
    task_type: str | None
    framework: str | None
    quantised: bool
    encrypted: bool
    formats: list[str]
    weight_bytes: int
    architectures: list[str]


def as_builtins(value: msgspec.Struct) -> Any:
    """The JSON-compatible form, for a JSON column."""
    return msgspec.to_builtins(value)


class MemoryEstimate(Estimate, frozen=True, kw_only=True):
    """What one replica takes on each of its `ranks` devices. `refused_devices` are the models of devices, of those that
    there are, which cannot compute in the model's quantisation, with the reason.
    """

    refused_devices: dict[str, str]
