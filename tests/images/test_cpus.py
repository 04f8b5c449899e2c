import os
from pathlib import Path

import pytest
from transformers_engine.cpus import usable_cpus


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def group(tmp_path: Path, line: str, files: dict[str, str]) -> tuple[Path, Path]:
    own, root = tmp_path / "own", tmp_path / "cgroup"
    own.write_text(line + "\n")
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root, own


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/", {}, 4),
        ("0::/a/b", {"a/b/cpu.max": "max 100000\n"}, 4),
        ("0::/a/b", {"a/b/cpu.max": "150000 100000\n"}, 2),
        ("0::/a/b", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),
        ("0::/a/b", {"cpu.max": "50000 100000\n"}, 1),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 4),
        ("4:cpu,cpuacct:/a", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ("7:memory:/a", {"cpu.max": "100000 100000\n"}, 4),
    ],
)
def test_the_tightest_bound_holds(tmp_path: Path, line: str, files: dict[str, str], expected: int) -> None:
    assert usable_cpus(*group(tmp_path, line, files)) == expected


def test_without_control_groups_the_affinity_holds(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path / "neither") == 4
