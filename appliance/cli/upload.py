"""Resumable uploads of a model's files, from announcing them to a version that is normal.

The appliance keeps what has arrived; an upload that was cut is found again by its files, and only what is missing is
sent. So the way to resume is to give the same command again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from appliance.cli.connection import Connection, segment
from appliance.cli.errors import CommandFailed, Refused, Unreachable
from appliance.cli.output import tell
from appliance.cli.progress import Progress

CHUNK: Final = 64 << 20
"""Bytes of one request: what a cut connection costs at most is less, since the server keeps what arrived."""
_READ: Final = 1 << 20
_ATTEMPTS: Final = 6
_FIRST_PAUSE_S: Final = 0.5
_ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".zip")
_BYTES: Final = "application/offset+octet-stream"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """`path` is the name within the model, `file` where its bytes are."""

    path: str
    file: Path
    size: int
    sha256: str

    @property
    def announced(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


def read_source(source: Path) -> tuple[str, list[LocalFile]]:
    """What to announce of a folder (`files`) or of one archive (`archive`); hashing takes the time of reading.

    Files and folders whose names begin with a dot stay out: they are tools' notes, not the model's.
    """
    if source.is_file():
        if not source.name.endswith(_ARCHIVES):
            raise CommandFailed(f"{source} is neither a folder nor an archive ({', '.join(_ARCHIVES)})")
        return "archive", list(_hashed([(source.name, source)]))
    found = sorted((path.relative_to(source), path) for path in source.rglob("*") if path.is_file())
    plain = [(name.as_posix(), path) for name, path in found if not any(part.startswith(".") for part in name.parts)]
    if left_out := len(found) - len(plain):
        tell(f"{left_out} hidden files are left out")
    if not plain:
        raise CommandFailed(f"{source} has no files")
    return "files", list(_hashed(plain))


def _hashed(files: Sequence[tuple[str, Path]]) -> Iterator[LocalFile]:
    sizes = [path.stat().st_size for _, path in files]
    progress, done = Progress("reading", sum(sizes)), 0
    for (name, path), size in zip(files, sizes, strict=True):
        digest = hashlib.sha256()
        for block in _blocks(path, 0, size):
            digest.update(block)
            done += len(block)
            progress.update(done)
        yield LocalFile(name, path, size, digest.hexdigest())
    progress.close(done)


def _blocks(path: Path, offset: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while length > 0:
            block = file.read(min(_READ, length))
            if not block:
                raise CommandFailed(f"{path} became shorter while it was read")
            length -= len(block)
            yield block


def open_or_resume(
    connection: Connection, model: str, version: str, kind: str, content: str, files: Sequence[LocalFile]
) -> dict[str, Any]:
    """The open upload of just these files, or a new one."""
    wanted = sorted((file.path, file.size, file.sha256) for file in files)
    path = f"models/{segment(model)}/uploads"
    looks_alike = (content, "open", len(files), sum(file.size for file in files))
    for found in connection.pages(path):
        if (found["content"], found["state"], found["files"], found["size"]) != looks_alike:
            continue
        upload = connection.get(f"{path}/{found['id']}")
        held = sorted((file["path"], file["size"], file["sha256"]) for file in upload["files"])
        if held == wanted and _is_for(connection, model, upload, version):
            arrived = sum(file["received"] for file in upload["files"])
            tell(f"resuming {upload['id']}: {arrived} bytes are there")
            return dict(upload)
    body = {"files": [file.announced for file in files], "version": version, "kind": kind, "content": content}
    made: dict[str, Any] = connection.create(path, body)
    return made


def _is_for(connection: Connection, model: str, upload: dict[str, Any], version: str) -> bool:
    found = connection.get(f"models/{segment(model)}/versions/{upload['version_id']}")
    return bool(found["name"] == version)


def send(connection: Connection, model: str, upload: dict[str, Any], files: Sequence[LocalFile]) -> dict[str, Any]:
    """Send what is missing, then finish; the version, which is being checked."""
    path = f"models/{segment(model)}/uploads/{upload['id']}"
    arrived = {file["path"]: file for file in upload["files"]}
    done = sum(file["received"] for file in upload["files"])
    progress = Progress("sending", sum(file.size for file in files))
    progress.update(done)
    for file in files:
        state = arrived[file.path]
        if not state["complete"]:
            sender = _Sender(connection, f"{path}/files/{quote(file.path)}", file, progress, done - state["received"])
            sender.send(state["received"])
            done += file.size - state["received"]
    progress.close(done)
    finished: dict[str, Any] = connection.create(f"{path}/finish", None)
    return finished


class _Sender:
    """Sends one file from an offset on, going on after a connection that broke.

    `before` is how many bytes of other files are done, for the progress.
    """

    def __init__(self, connection: Connection, path: str, file: LocalFile, progress: Progress, before: int) -> None:
        self._connection, self._path, self._file = connection, path, file
        self._progress, self._before = progress, before

    def send(self, offset: int) -> None:
        failures = 0
        while True:
            try:
                end = self._send_chunk(offset)
            except (Unreachable, Refused) as error:
                failures += 1
                if not _is_passing(error) or failures >= _ATTEMPTS:
                    raise
                time.sleep(_FIRST_PAUSE_S * 2 ** (failures - 1))
                offset = self._offset(offset)
                continue
            failures, offset = 0, end
            if offset >= self._file.size:
                return

    def _send_chunk(self, offset: int) -> int:
        length = min(CHUNK, self._file.size - offset)
        answer = self._connection.raw(
            "PATCH",
            self._path,
            content=self._told(offset, length),
            headers={"Upload-Offset": str(offset), "Content-Length": str(length), "Content-Type": _BYTES},
        )
        return int(answer.headers["Upload-Offset"])

    def _told(self, offset: int, length: int) -> Iterator[bytes]:
        for block in _blocks(self._file.file, offset, length):
            yield block
            offset += len(block)
            self._progress.update(self._before + offset)

    def _offset(self, last: int) -> int:
        """Where the server's copy ends; while nobody answers, where it did."""
        try:
            return int(self._connection.raw("HEAD", self._path).headers["Upload-Offset"])
        except Unreachable:
            return last


def _is_passing(error: CommandFailed) -> bool:
    """Whether trying again may help: a broken connection, a busy file, an offset that another request moved."""
    if isinstance(error, Refused):
        return error.code in ("upload-busy", "upload-offset-mismatch", "upload-stalled", "database-unavailable")
    return True
