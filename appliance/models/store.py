"""The content-addressed store: each content once, read-only, and a plain tree of hard links for each version.

```
blobs/sha256/ab/abcd...     mode 0444; the name is the SHA-256 of the content
versions/<version id>/      what an engine mounts: hard links into blobs/
verified/abcd...            what the blob of that SHA-256 looked like when it was last read and had it
uploads/<upload id>/        parts of unfinished uploads
incoming/<version id>/      copies and half-made trees of a running import
```

A blob or a tree is there whole or not at all: it is made beside its place, synced, and renamed. Every step may be
repeated after a crash. All methods block; they belong into a thread.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from appliance.kernel.crashpoints import reached
from appliance.kernel.files import sync_directory
from appliance.models.claims import Claims

BLOB_MODE = 0o444
FOLDER_MODE = 0o755
"""Whatever the umask: engines run as another user."""
FOLDERS = ("blobs/sha256", "versions", "verified", "uploads", "incoming")


class StoredFile(NamedTuple):
    """A file of a version: its path in the tree and its content."""

    path: str
    sha256: str
    size: int


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.claims = Claims()

    def prepare(self) -> None:
        """Make the folders; safe to repeat."""
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / "sha256" / sha256[:2] / sha256

    def tree(self, version_id: str) -> Path:
        return self.root / "versions" / version_id

    def verified(self, sha256: str) -> Path:
        return self.root / "verified" / sha256

    def upload(self, upload_id: str) -> Path:
        return self.root / "uploads" / upload_id

    def incoming(self, version_id: str) -> Path:
        return self.root / "incoming" / version_id

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def place(self, file: Path, sha256: str, size: int) -> None:
        """Make `file` the blob of `sha256`, which it is known to have; where the blob is there, drop `file`.

        A blob of the wrong length, which only a damaged disk leaves, is replaced.
        """
        blob = self.blob(sha256)
        if self.has(sha256, size):
            file.unlink()
            return
        _make_folder(blob.parent)
        _sync(file, mode=BLOB_MODE)
        reached("model.blob.synced")
        file.rename(blob)
        sync_directory(blob.parent)
        reached("model.blob.placed")

    def has(self, sha256: str, size: int) -> bool:
        try:
            return self.blob(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def materialise(self, version_id: str, files: Iterable[StoredFile]) -> None:
        """Make the version's tree, which is not there yet, from blobs that are."""
        tree, draft = self.tree(version_id), self.incoming(version_id) / "tree"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for file in files:
            path = draft / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(self.blob(file.sha256), path)
        for folder, _, _ in os.walk(draft):
            Path(folder).chmod(FOLDER_MODE)
            sync_directory(Path(folder))
        reached("model.tree.drafted")
        draft.rename(tree)
        sync_directory(tree.parent)
        reached("model.tree.placed")

    def stored_blobs(self) -> Iterator[str]:
        """The hashes that are on disk."""
        for folder in (self.root / "blobs" / "sha256").iterdir():
            yield from (blob.name for blob in folder.iterdir())

    def names_in(self, folder: str) -> list[str]:
        """What lies in `versions`, `uploads` or `incoming`."""
        return sorted(path.name for path in (self.root / folder).iterdir())

    def discard(self, folder: str, name: str) -> None:
        """Remove one entry of such a folder; renamed first, so that no one meets half of it."""
        path = self.root / folder / name
        doomed = self.root / "incoming" / f".{folder}-{name}"
        if folder == "incoming":
            shutil.rmtree(path, ignore_errors=True)
            return
        shutil.rmtree(doomed, ignore_errors=True)
        try:
            path.rename(doomed)
        except FileNotFoundError:
            return
        reached(f"model.{folder}.doomed")
        shutil.rmtree(doomed)


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sync_directory(folder.parent)


def _sync(file: Path, *, mode: int) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(blob: Path, path: Path) -> None:
    try:
        path.hardlink_to(blob)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        shutil.copyfile(blob, path)  # a content that has more names than the file system can count
        _sync(path, mode=BLOB_MODE)
