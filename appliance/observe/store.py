"""The history in a file of its own: an SQLite database beside the appliance's, whichever that is.

* `frames`: one row for each round of samples, of all series: written as they come, so that a crash loses none that
  was taken.
* `blocks`: what frames become when their ten minutes are over: for each series its samples (`raw`, of ten minutes),
  and its minutes (of an hour; count, mean and largest of each gauge). Packing and removing the frames are one
  transaction.

Samples are kept for a day, minutes for 30 days. `most_bytes` bounds the file: before it is reached the oldest go, and
the database itself refuses to grow beyond it. Nothing here is of use to anybody's traffic: whatever fails (a full
disk, a damaged file, which is set aside) raises `HistoryFailed`, costs samples, and nothing else.

Blocking, and safe to be used by several threads.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from appliance.observe.blocks import DamagedBlock, Values, pack, unpack

T = TypeVar("T")
Samples = dict[str, list[int | None]]
"""The values of each series, by its name."""

SLICE_S: Final = 600
HOUR_S: Final = 3600
MINUTE_S: Final = 60
DAY_S: Final = 24 * HOUR_S
KEPT_S: Final = {0: DAY_S, 1: 30 * DAY_S}
LEAST_BYTES: Final = 4 * 1024 * 1024
_WAL_BYTES: Final = 4 * 1024 * 1024
_FULL: Final = 0.9
"""The share of the bound above which the oldest goes."""
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS frames (at INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    series TEXT NOT NULL, kind INTEGER NOT NULL, start INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (series, kind, start)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blocks_start ON blocks (kind, start);
"""


class Kind(IntEnum):
    """`minutes` has three columns for each gauge: how many samples knew it, their mean, the largest."""

    raw = 0
    minutes = 1


class HistoryFailed(Exception):
    """The file cannot be read or written now; the text says why."""


class Store:
    def __init__(self, path: Path, *, most_bytes: int) -> None:
        self.path = path
        self.most_bytes = max(most_bytes, LEAST_BYTES)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def append(self, at: int, samples: Samples) -> None:
        """Those of one round, at Unix seconds; of two within a second the later stays."""
        body = zlib.compress(msgspec.msgpack.encode(samples), 1)
        self._run(lambda file: file.execute("INSERT OR REPLACE INTO frames VALUES (?, ?)", (at, body)))

    def keep_house(self, now: int) -> None:
        """Pack the slices that are over, and remove what is too old or too much."""
        while (start := self._run(lambda file: _oldest_slice(file, now))) is not None:
            self._run(lambda file, start=start: _pack_slice(file, start))  # type: ignore[misc] # mypy infers no default
        self._run(lambda file: _forget(file, now))
        while self._run(self._trim):
            pass

    def read(self, series: str, kind: Kind, since: int, until: int) -> dict[int, Values]:
        """The samples or minutes that begin in [since, until), by their times. What is not packed yet is in it.

        Only fetching is a transaction: who waits for one does not wait for what another decodes.
        """
        blocks, frames = self._run(lambda file: _fetch(file, series, kind, since, until))
        found: dict[int, Values] = {}
        for block in blocks:
            found |= _block(block)
        recent = {at: values for at, body in frames if (values := _of_series(body, series)) is not None}
        found |= recent if kind is Kind.raw else minutes(recent)
        return {at: values for at, values in found.items() if since <= at < until}

    def size(self) -> int:
        """Bytes on the disk."""
        files = (self.path, *self._beside())
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _run(self, task: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction."""
        with self._lock:
            try:
                file = self._connection = self._connection or self._open()
                with _transaction(file):
                    return task(file)
            except sqlite3.Error as error:
                if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED:
                    self._set_aside()
                    raise HistoryFailed(f"{error}: {self.path} is set aside as {self._aside().name}") from error
                raise HistoryFailed(str(error)) from error

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            (page,) = file.execute("PRAGMA page_size").fetchone()
            file.execute(f"PRAGMA max_page_count = {self.most_bytes // page}")
            file.executescript(_SCHEMA)
        except BaseException:
            file.close()
            raise
        return file

    def _trim(self, file: sqlite3.Connection) -> bool:
        """Remove the oldest stretch if too much is there; whether one was removed. Minutes go before samples, since
        the samples of the last day are what is looked at.
        """
        pages, free, page = (
            file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * page < _FULL * self.most_bytes:
            return False
        for kind in (Kind.minutes, Kind.raw):
            (start,) = file.execute("SELECT min(start) FROM blocks WHERE kind = ?", (kind,)).fetchone()
            if start is not None:
                file.execute("DELETE FROM blocks WHERE kind = ? AND start = ?", (kind, start))
                return True
        return bool(file.execute("DELETE FROM frames WHERE at = (SELECT min(at) FROM frames)").rowcount)

    def _set_aside(self) -> None:
        """The next use begins a new file. One damaged file is kept, for a person."""
        self._drop()
        for beside in self._beside():
            beside.unlink(missing_ok=True)
        if self.path.exists():
            self.path.replace(self._aside())

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _aside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.damaged")

    def _beside(self) -> tuple[Path, ...]:
        return tuple(self.path.with_name(f"{self.path.name}-{name}") for name in ("wal", "shm"))


@contextmanager
def _transaction(file: sqlite3.Connection) -> Iterator[None]:
    file.execute("BEGIN IMMEDIATE")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


def _oldest_slice(file: sqlite3.Connection, now: int) -> int | None:
    """Where a slice begins that is over and not packed."""
    (at,) = file.execute("SELECT min(at) FROM frames").fetchone()
    return None if at is None or at - at % SLICE_S + SLICE_S > now else at - at % SLICE_S


def _pack_slice(file: sqlite3.Connection, start: int) -> None:
    span = (start, start + SLICE_S)
    raw: dict[str, dict[int, Values]] = {}
    for at, body in file.execute("SELECT at, body FROM frames WHERE at >= ? AND at < ?", span):
        for series, values in _frame(body).items():
            raw.setdefault(series, {})[at] = values
    for series, samples in raw.items():
        _merge(file, series, Kind.raw, start, samples)
        _merge(file, series, Kind.minutes, start - start % HOUR_S, minutes(samples))
    file.execute("DELETE FROM frames WHERE at >= ? AND at < ?", span)


def _merge(file: sqlite3.Connection, series: str, kind: Kind, start: int, samples: Mapping[int, Values]) -> None:
    row = file.execute("SELECT body FROM blocks WHERE series = ? AND kind = ? AND start = ?", (series, kind, start))
    found = row.fetchone()
    before = _block(found[0]) if found else {}
    width = len(next(iter(samples.values())))
    known = {at: values for at, values in before.items() if len(values) == width}
    body = pack({**known, **samples})
    file.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", (series, kind, start, body))


def minutes(samples: Mapping[int, Values]) -> dict[int, Values]:
    """Count, mean (rounded) and largest of each gauge, by the minutes' beginnings."""
    grouped: dict[int, list[Values]] = {}
    for at, values in samples.items():
        grouped.setdefault(at - at % MINUTE_S, []).append(values)
    return {at: _summary(rows) for at, rows in grouped.items()}


def _summary(rows: list[Values]) -> Values:
    summary: list[int | None] = []
    for column in zip(*rows, strict=True):
        known = [value for value in column if value is not None]
        summary += [len(known), round(sum(known) / len(known)), max(known)] if known else [0, None, None]
    return summary


def _forget(file: sqlite3.Connection, now: int) -> None:
    for kind, kept in KEPT_S.items():
        file.execute("DELETE FROM blocks WHERE kind = ? AND start < ?", (kind, now - kept))


def _fetch(
    file: sqlite3.Connection, series: str, kind: Kind, since: int, until: int
) -> tuple[list[bytes], list[tuple[int, bytes]]]:
    """The series' blocks, and the frames of all series that are not packed yet, with their times."""
    length = SLICE_S if kind is Kind.raw else HOUR_S
    query = "SELECT body FROM blocks WHERE series = ? AND kind = ? AND start > ? AND start < ? ORDER BY start"
    blocks = [body for (body,) in file.execute(query, (series, kind, since - length, until))]
    span = (since - since % MINUTE_S, until)
    frames = file.execute("SELECT at, body FROM frames WHERE at >= ? AND at < ? ORDER BY at", span)
    return blocks, frames.fetchall()


def _of_series(body: bytes, series: str) -> list[int | None] | None:
    """From a frame; None where the series is not in it. What the others have is passed over."""
    try:
        found = msgspec.msgpack.decode(zlib.decompress(body), type=dict[str, msgspec.Raw]).get(series)
        return None if found is None else msgspec.msgpack.decode(found, type=list[int | None])
    except (zlib.error, msgspec.DecodeError):
        return None


def _frame(body: bytes) -> Samples:
    """Empty where it is damaged, which only a fault of the disk below SQLite's checks can do."""
    try:
        return msgspec.msgpack.decode(zlib.decompress(body), type=Samples)
    except (zlib.error, msgspec.DecodeError):
        return {}


def _block(body: bytes) -> dict[int, Values]:
    try:
        return unpack(body)
    except DamagedBlock:
        return {}
