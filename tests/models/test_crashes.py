"""SIGKILL between any two steps that the outside can see; the same work begun again reaches the same end.

The points are discovered by running, not listed. By default each point is tried once and a seeded sample
of the others; `APPLIANCE_TEST_CRASH_POINTS=all` tries every one.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from appliance.models.storage import size_of
from tests.models.builders import read_tree, sha256
from tests.models.crashing import ONE, TWO

SAMPLE = 8


def run(home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    (home / "shelf").mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "tests.models.crashing", str(home)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every time that an undisturbed run reached a point, in order, as `APPLIANCE_CRASH_AT` takes it."""
    home = tmp_path_factory.mktemp("undisturbed")
    finished = run(home, APPLIANCE_CRASH_TRACE=str(home / "trace"))
    assert finished.returncode == 0, finished.stderr
    assert problems(home) == []
    seen: Counter[str] = Counter()
    found = []
    for point in (home / "trace").read_text().splitlines():
        seen[point] += 1
        found.append(f"{point}#{seen[point]}")
    return found


def chosen(points: list[str]) -> list[str]:
    if os.environ.get("APPLIANCE_TEST_CRASH_POINTS") == "all":
        return points
    sample = set(random.Random(1).sample(points, SAMPLE))
    return [point for point in points if point in sample or point.endswith("#1")]


@pytest.mark.timeout(600)
def test_work_that_was_killed_anywhere_is_finished_by_the_next_process(points: list[str], tmp_path: Path):
    steps = {point.partition("@")[0] for point in points}
    assert {"model.blob.placed", "model.tree.placed", "model.upload.file_done", "model.blob.unlinked"} <= steps
    found: dict[str, list[str]] = {}
    for number, point in enumerate(chosen(points)):
        home = tmp_path / str(number)
        killed = run(home, APPLIANCE_CRASH_AT=point)
        # what runs beside the imports may reach a point once less than in the undisturbed run
        assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
        finished = run(home)
        found[point] = problems(home) if finished.returncode == 0 else [finished.stderr[-2000:]]
    assert {point: what for point, what in found.items() if what} == {}


def problems(home: Path) -> list[str]:
    """What is not as it must be, read by other means than the repository's own."""
    with sqlite3.connect(f"file:{home}/db.sqlite?mode=ro", uri=True) as database:
        versions = dict(database.execute("SELECT name, id FROM model_versions").fetchall())
        states = database.execute("SELECT name, state, is_current FROM model_versions ORDER BY name").fetchall()
        rows = {sha for (sha,) in database.execute("SELECT sha256 FROM blobs")}
        used, counted = database.execute(
            "SELECT (SELECT used FROM quotas), (SELECT SUM(counted_bytes) FROM model_versions)"
        ).fetchone()
        left = [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in LEFT_EMPTY]
    store = home / "models"
    wanted = {"main": TWO, "v1": ONE}
    blobs = {path.name for path in (store / "blobs").rglob("*") if path.is_file()}
    checks = {
        "versions": states == [("main", "normal", 1), ("v1", "normal", 1)],
        "trees": {path.name for path in (store / "versions").iterdir()} == set(versions.values()),
        "contents": {name: read_tree(store / "versions" / versions[name]) for name in wanted if name in versions}
        == wanted,
        "blobs and rows": blobs == rows,
        "blobs": blobs == {sha256(content) for files in wanted.values() for content in files.values()},
        "names": all(sha256(path.read_bytes()) == path.name for path in (store / "blobs").rglob("*") if path.is_file()),
        "storage quota": used == counted == size_of(len(file) for files in wanted.values() for file in files.values()),
        "rows of work": left == [0] * len(LEFT_EMPTY),
        "leftovers": not any((store / "uploads").iterdir()) and not any((store / "incoming").iterdir()),
    }
    return [f"{name}: {states} {sorted(blobs)} {sorted(rows)} {left}" for name, right in checks.items() if not right]


LEFT_EMPTY = ("model_imports", "model_uploads", "model_upload_files")
