"""Bytes into the store's own folder, hashed on the way. Nothing here trusts a name or a length that it was given."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from appliance.models.errors import InsufficientStorage
from appliance.models.progress import Progress

BLOCK: Final = 4 * 1024 * 1024
RESERVE: Final = 1 << 30
"""Bytes that an import leaves free on the disk, for the database and the logs."""
_FICLONE: Final = 0x40049409  # linux/fs.h


class Staged(NamedTuple):
    """A file of the version to be, lying in a folder of ours under a name of ours."""

    path: str
    file: Path
    sha256: str
    size: int


def require_space(free: int, needed: int) -> None:
    """Raise `InsufficientStorage` unless `needed` bytes fit into `free` with the reserve left over."""
    if needed + RESERVE > free:
        raise InsufficientStorage(
            f"the model needs {_gib(needed)} and {_gib(RESERVE)} are kept free, but {_gib(free)} are there; "
            f"delete models that are not used or add storage"
        )


def free_bytes(folder: Path) -> int:
    """Of the disk that the folder is on."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@contextmanager
def out_of_space() -> Iterator[None]:
    """A full disk is an answer, not a crash."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InsufficientStorage("the disk is full; delete models that are not used or add storage") from error


def copy_stream(source: BinaryIO, target: Path, progress: Progress, *, limit: int) -> tuple[str, int]:
    """Write at most `limit` bytes of `source` to a new file; the SHA-256 and the length of what was written."""
    digest, size = hashlib.sha256(), 0
    with out_of_space(), target.open("xb") as out:
        while block := source.read(min(BLOCK, limit + 1 - size)):
            size += len(block)
            if size > limit:
                raise ValueError(f"more than the announced {limit} bytes")
            digest.update(block)
            out.write(block)
            progress.advance(len(block))
    return digest.hexdigest(), size


def copy_file(source: BinaryIO, target: Path, progress: Progress) -> tuple[str, int]:
    """Copy an open file of the server; on a file system that can, its blocks are shared and only hashed."""
    if _cloned(source, target):
        with target.open("rb") as clone:
            return hash_stream(clone, progress)
    return copy_stream(source, target, progress, limit=1 << 62)


def hash_stream(file: BinaryIO, progress: Progress) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := file.read(BLOCK):
        digest.update(block)
        size += len(block)
        progress.advance(len(block))
    return digest.hexdigest(), size


def _cloned(source: BinaryIO, target: Path) -> bool:
    with target.open("xb") as out, contextlib.suppress(OSError):
        fcntl.ioctl(out.fileno(), _FICLONE, source.fileno())
        return True
    target.unlink()
    return False


def open_regular(path: Path) -> BinaryIO:
    """Open for reading without waiting (a FIFO) and only a regular file; `OSError` otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb", buffering=0)
    if not _is_regular(descriptor):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _gib(amount: int) -> str:
    return f"{amount / (1 << 30):.1f} GiB"
