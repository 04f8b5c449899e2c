"""Archives taken apart by hand: tar, tar.gz and zip, whose members are only ever files under names of ours.

Nothing is extracted by a library. All members are listed first and refused as a whole for links, devices, bad names,
too many, too large, or a size out of proportion to the archive; what they come to is reserved; then each is copied to a
numbered file, and may not be longer than it said. No single read of a header is larger than `LARGEST_READ`, so a
hostile header costs nothing.
"""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final, NamedTuple, Protocol, cast

from appliance.models.copying import Staged, copy_stream, free_bytes, require_space
from appliance.models.errors import ModelRefused, Refusal
from appliance.models.inspection import Inspection, check_names
from appliance.models.kinds import is_left_out
from appliance.models.paths import MOST_FILES
from appliance.models.progress import Phase, Progress

LARGEST_READ: Final = 4 * 1024 * 1024
LARGEST_RATIO: Final = 100
"""Bytes that one byte of the archive may become; weights hardly compress, text does by about 10."""
RATIO_FREE: Final = 64 * 1024 * 1024
"""Bytes that any archive may hold, whatever the ratio."""
MOST_ENTRIES: Final = 4 * MOST_FILES
"""Of any kind, folders too: each that is met is kept in memory."""
SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".zip")


class Bounds(NamedTuple):
    """`most_bytes` are those that the members may come to; `reserve` is told the sizes of what will be there at once,
    the archive among them, and raises where there is no room for it.
    """

    most_bytes: int
    reserve: Callable[[Sequence[int]], None]


class Member(NamedTuple):
    path: str
    size: int
    handle: tarfile.TarInfo | zipfile.ZipInfo


class _Opened(Protocol):
    def members(self) -> Iterator[Member]: ...

    def open(self, member: Member) -> IO[bytes]: ...


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def stage_archive(
    archive: Path, incoming: Path, inspection: Inspection, progress: Progress, *, bounds: Bounds
) -> tuple[list[Staged], list[str]]:
    """Copy the members into `incoming`, hashed and inspected; gives them, and the names that were left out.

    `archive` keeps its suffix, which says what it is. A folder that holds everything is taken off the names.
    """
    with _opened(archive) as opened:
        size = archive.stat().st_size
        members, left_out = _accepted(opened, size, bounds.most_bytes)
        check_names(member.path for member in members)
        bounds.reserve([size, *(member.size for member in members)])
        require_space(free_bytes(incoming), sum(member.size for member in members))
        progress.begin(Phase.copying, sum(member.size for member in members))
        staged = []
        for number, member in enumerate(members):
            target = incoming / f"{number:04d}"
            with opened.open(member) as source:
                sha256, size = copy_stream(cast("BinaryIO", source), target, progress, limit=member.size)
            if size != member.size:
                raise ModelRefused([Refusal(member.path, f"it has {size} bytes instead of {member.size}")])
            inspection.add(member.path, target)
            staged.append(Staged(member.path, target, sha256, size))
    return staged, left_out


def _accepted(opened: _Opened, archive_bytes: int, most_bytes: int) -> tuple[list[Member], list[str]]:
    members: list[Member] = []
    left_out: list[str] = []
    total = 0
    cap = min(most_bytes, max(RATIO_FREE, LARGEST_RATIO * archive_bytes))
    for member in opened.members():
        total += member.size
        if member.size < 0 or total > cap:
            raise _refused(f"the archive would unpack to more than {cap} bytes")
        if is_left_out(member.path):
            left_out.append(member.path)
        else:
            members.append(member)
        if len(members) + len(left_out) > MOST_FILES:
            raise _refused(f"the archive has more than {MOST_FILES} members")
    return _without_common_folder(members), left_out


def _without_common_folder(members: list[Member]) -> list[Member]:
    folders = {member.path.partition("/")[0] for member in members if "/" in member.path}
    if len(folders) != 1 or any("/" not in member.path for member in members):
        return members
    return [member._replace(path=member.path.partition("/")[2]) for member in members]


@contextmanager
def _opened(archive: Path) -> Iterator[_Opened]:
    try:
        with archive.open("rb") as file:
            if archive.name.lower().endswith(".zip"):
                with zipfile.ZipFile(cast("IO[bytes]", _Measured(file))) as zipped:
                    yield _Zip(zipped)
            elif archive.name.lower().endswith(".tar"):
                with tarfile.open(fileobj=cast("IO[bytes]", _Measured(file)), mode="r:") as tar:
                    yield _Tar(tar)
            else:
                unpacked = cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))
                with tarfile.open(fileobj=cast("IO[bytes]", _Measured(unpacked)), mode="r:") as tar:
                    yield _Tar(tar)
    except _BROKEN as error:
        raise _refused(f"the archive is damaged or not what its name says: {error}") from error


_BROKEN: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    OverflowError,
    struct.error,
)


class _Measured:
    """A seekable file that gives at most `LARGEST_READ` bytes at a time: what asks for more has a hostile header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size <= LARGEST_READ else LARGEST_READ + 1)
        if len(data) > LARGEST_READ:
            raise ValueError(f"a header asks for more than {LARGEST_READ} bytes")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def members(self) -> Iterator[Member]:
        for number, info in enumerate(self._tar):
            if number >= MOST_ENTRIES:
                raise _refused(f"the archive has more than {MOST_ENTRIES} entries")
            if info.isdir():
                continue
            path = info.name.removeprefix("./")
            if not info.isreg() or info.issparse():
                raise ModelRefused([Refusal(path, "only plain files may be in the archive, no links or devices")])
            yield Member(path, info.size, info)

    def open(self, member: Member) -> IO[bytes]:
        opened = self._tar.extractfile(cast("tarfile.TarInfo", member.handle))
        if opened is None:
            raise ModelRefused([Refusal(member.path, "it is not a plain file")])
        return opened


class _Zip:
    def __init__(self, zipped: zipfile.ZipFile) -> None:
        self._zip = zipped

    def members(self) -> Iterator[Member]:
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ModelRefused([Refusal(info.orig_filename, "only plain files may be in the archive, no links")])
            if info.flag_bits & 0x1:
                raise ModelRefused([Refusal(info.orig_filename, "it is encrypted")])
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ModelRefused([Refusal(info.orig_filename, "it is compressed in another way than deflate")])
            yield Member(info.orig_filename.removeprefix("./"), info.file_size, info)

    def open(self, member: Member) -> IO[bytes]:
        return self._zip.open(cast("zipfile.ZipInfo", member.handle))


def _refused(reason: str) -> ModelRefused:
    return ModelRefused([Refusal("", reason)])
