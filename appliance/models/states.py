"""The states of a version and of an upload, and the one table of what may be done in each."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class VersionKind(StrEnum):
    """A branch may be given new content; a tag never."""

    branch = "branch"
    tag = "tag"


class VersionState(StrEnum):
    """`importing` ends in one of the other two by itself or by its deadline; both are final."""

    importing = "importing"
    normal = "normal"
    failed = "failed"


class VersionAction(StrEnum):
    settle = "settle"
    deploy = "deploy"
    tag = "tag"
    delete = "delete"


class Source(StrEnum):
    """Where the content of a version comes from."""

    directory = "directory"
    upload = "upload"
    archive = "archive"
    version = "version"


class UploadKind(StrEnum):
    """`files` are the version's own; an `archive` is one file whose members are."""

    files = "files"
    archive = "archive"


class UploadState(StrEnum):
    """`open` takes bytes; `finishing` is being checked. An upload that ends is gone, its version tells how."""

    open = "open"
    finishing = "finishing"


ALLOWED: Final[dict[VersionState, frozenset[VersionAction]]] = {
    VersionState.importing: frozenset({VersionAction.settle, VersionAction.delete}),
    VersionState.normal: frozenset({VersionAction.deploy, VersionAction.tag, VersionAction.delete}),
    VersionState.failed: frozenset({VersionAction.delete}),
}


def can(state: VersionState, action: VersionAction) -> bool:
    return action in ALLOWED[state]
