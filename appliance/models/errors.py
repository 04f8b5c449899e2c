"""What the model repository answers when it refuses.

`Refusal` is one file and the reason it cannot be part of a model; `ModelRefused` carries all that were found, so
that a person repairs them in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from appliance.kernel.errors import (
    ApplianceError,
    BadInput,
    Conflict,
    FieldError,
    Forbidden,
    InUse,
    NameTaken,
    NotFound,
    Unavailable,
)

SHOWN = 20
"""Refused files that a message lists; the rest are counted."""


class Refusal(NamedTuple):
    path: str
    reason: str


class ModelNotFound(NotFound):
    code = "model-not-found"
    title = "There is no such model"


class ModelNameTaken(NameTaken):
    code = "model-name-taken"
    title = "The model's name is in use"


class ModelNameAmbiguous(BadInput):
    """Only on the platform: names are unique within one tenant."""

    code = "model-name-ambiguous"
    title = "Several tenants have a model of this name"


class ModelShared(Forbidden):
    code = "model-shared"
    title = "The model is shared by the platform"


class ModelInUse(InUse):
    code = "model-in-use"
    title = "The model is in use"


class VersionNotFound(NotFound):
    code = "model-version-not-found"
    title = "There is no such version of the model"


class VersionNotReady(Conflict):
    code = "model-version-not-ready"
    title = "The version is not in the state normal"


class VersionImmutable(Conflict):
    code = "model-version-immutable"
    title = "A tag does not change"


class ImportRunning(Conflict):
    code = "model-import-running"
    title = "The version is being imported"


class ImportNotAllowed(Forbidden):
    code = "model-import-not-allowed"
    title = "The folder is not one that models may be imported from"


class ModelRefused(ApplianceError):
    code = "model-refused"
    title = "The content is not an acceptable model"
    status = 422

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        shown = "; ".join(f"{path}: {reason}" if path else reason for path, reason in self.refusals[:SHOWN])
        more = len(self.refusals) - SHOWN
        super().__init__(
            f"{shown}; and {more} more" if more > 0 else shown,
            errors=[FieldError(f"/files/{_escaped(path)}", reason) for path, reason in self.refusals[:SHOWN]],
        )


class ImportFailed(ApplianceError):
    code = "model-import-failed"
    title = "The model could not be imported"


class UploadExpired(Conflict):
    code = "upload-expired"
    title = "The upload was not finished in time"


class UploadNotFound(NotFound):
    code = "upload-not-found"
    title = "There is no such upload"


class UploadOffsetMismatch(Conflict):
    code = "upload-offset-mismatch"
    title = "The offset is not where the file ends"


class UploadBusy(Conflict):
    code = "upload-busy"
    title = "Another request is writing this file"
    retry_after_s = 1


class UploadDigestMismatch(ApplianceError):
    code = "upload-digest-mismatch"
    title = "The bytes do not have the declared SHA-256"
    status = 422


class UploadIncomplete(Conflict):
    code = "upload-incomplete"
    title = "Files of the upload are not complete"


class UploadClosed(Conflict):
    code = "upload-closed"
    title = "The upload takes no more bytes"


class UploadTooLarge(ApplianceError):
    code = "upload-too-large"
    title = "The upload is larger than allowed"
    status = 413


class UploadStalled(Unavailable):
    """Nothing arrived for a while; what had arrived is kept."""

    code = "upload-stalled"
    title = "The upload stalled"


class InsufficientStorage(Unavailable):
    code = "insufficient-storage"
    title = "There is not enough space for the model"
    status = 507
    retry_after_s = 60


def _escaped(path: str) -> str:
    return path.replace("~", "~0").replace("/", "~1")


class ModelDamaged(ApplianceError):
    """A file of a version on this node is not what was imported."""

    code = "model-damaged"
    title = "The model's files are not what was imported"
    status = 409
