"""A file of an upload on disk: `<number>.part` while it grows, `<number>.done` once its SHA-256 was found right.

How much has arrived is the length of the part, so there is nothing that could disagree with it after a crash. One
writer at a time holds the part's lock, which the kernel releases with the process. All of this blocks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.kernel.crashpoints import reached
from appliance.kernel.files import sync_directory
from appliance.models.copying import BLOCK, out_of_space
from appliance.models.errors import UploadBusy, UploadDigestMismatch, UploadOffsetMismatch, UploadTooLarge

if TYPE_CHECKING:
    from hashlib import _Hash

EMPTY_SHA256: Final = hashlib.sha256().hexdigest()
_BUSY: Final = "another request is sending this file; wait until it ends, then ask for the offset"


class Part:
    def __init__(self, folder: Path, number: int, size: int) -> None:
        self.growing = folder / f"{number}.part"
        self.done = folder / f"{number}.done"
        self.size = size

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there and were found right; nothing has to be sent of an empty file."""
        return self.size == 0 or self.done.exists()

    @property
    def received(self) -> int:
        """Bytes that are there."""
        try:
            return self.growing.stat().st_size
        except FileNotFoundError:
            return self.size if self.is_complete else 0


class Arrived:
    """What of all files of an upload is there, as one look into its folder shows it."""

    def __init__(self, folder: Path) -> None:
        self._lengths: dict[str, int] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # it is complete by now: `.done`
                        self._lengths[entry.name] = entry.stat().st_size
        except FileNotFoundError:
            return

    def is_complete(self, number: int, size: int) -> bool:
        return size == 0 or f"{number}.done" in self._lengths

    def received(self, number: int, size: int) -> int:
        """Bytes that are there."""
        growing = self._lengths.get(f"{number}.part")
        if growing is not None:
            return growing
        return size if self.is_complete(number, size) else 0


class PartWriter:
    """Appends to one part from `offset` on, which must be its end; close it in any case."""

    def __init__(self, part: Part, offset: int) -> None:
        if part.is_complete:
            raise UploadOffsetMismatch(f"the file is complete with {part.size} bytes; nothing more is to be sent")
        part.growing.parent.mkdir(parents=True, exist_ok=True)
        self._part = part
        self._file = part.growing.open("ab", buffering=0)
        try:
            self._lock()
            self.offset = self._checked(offset)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        """Hold the part; one that was emptied or finished since it was opened is someone else's."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._part.growing.stat().st_ino == os.fstat(self._file.fileno()).st_ino:
                return
        except (BlockingIOError, FileNotFoundError) as error:
            raise UploadBusy(_BUSY) from error
        raise UploadBusy(_BUSY)

    def _checked(self, offset: int) -> int:
        end = os.fstat(self._file.fileno()).st_size
        if offset != end:
            raise UploadOffsetMismatch(f"the file ends at {end}, not at {offset}; go on from there")
        return end

    def append(self, block: bytes, state: _Hash | None) -> None:
        """Write `block` and feed it to `state`; raise `UploadTooLarge` rather than pass the announced size."""
        if self.offset + len(block) > self._part.size:
            raise UploadTooLarge(f"the file was announced with {self._part.size} bytes and more were sent")
        with out_of_space():
            written = memoryview(block)
            while written:
                count = self._file.write(written)
                self.offset += count
                if state is not None:
                    state.update(written[:count])
                written = written[count:]

    def sync(self) -> None:
        """Make what was appended survive a power failure."""
        with out_of_space():
            os.fsync(self._file.fileno())
        reached("model.upload.synced")

    def complete(self, sha256: str, state: _Hash | None) -> None:
        """Take the full part for done if its SHA-256 is right; otherwise begin it anew and raise
        `UploadDigestMismatch`. Without a running `state` the part is read.
        """
        found = (state or _hash_of(self._part.growing)).hexdigest()
        if found != sha256:
            self._part.growing.unlink()
            raise UploadDigestMismatch(
                f"the bytes have the SHA-256 {found}, announced was {sha256}; the file was emptied, send it again"
            )
        self._part.growing.rename(self._part.done)
        sync_directory(self._part.done.parent)
        reached("model.upload.file_done")

    def close(self) -> None:
        self._file.close()


def _hash_of(path: Path) -> _Hash:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state
