"""Machine code is only run if it is of the sources that are there."""

import json
import shutil
from pathlib import Path

import pytest

from appliance.gateway.plane.compiled import FOLDER, MODULES, RECORD, Stale, digests, is_compiled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sources, as a compiler left them that has just recorded what it compiled."""
    for name in MODULES:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(FOLDER / f"{name}.py", path)
    (tmp_path / RECORD).write_text(json.dumps({"sources": digests(tmp_path), "files": []}))
    (tmp_path / "admit.cpython-311-x86_64-linux-gnu.so").touch()
    return tmp_path


def test_sources_alone_are_interpreted(folder: Path) -> None:
    (folder / RECORD).unlink()
    next(folder.glob("*.so")).unlink()
    assert not is_compiled(folder)


def test_what_was_compiled_from_these_sources_runs(folder: Path) -> None:
    assert is_compiled(folder)


@pytest.mark.parametrize("name", ["head", "limits/limiter"])
def test_a_source_that_changed_since_is_refused_with_the_remedy(folder: Path, name: str) -> None:
    with (folder / f"{name}.py").open("a") as source:
        source.write("\n")
    with pytest.raises(Stale, match="make compile"):
        is_compiled(folder)


def test_machine_code_without_its_record_is_refused(folder: Path) -> None:
    (folder / RECORD).unlink()
    with pytest.raises(Stale, match="make interpreted"):
        is_compiled(folder)


def test_no_class_that_msgspec_decodes_is_compiled() -> None:
    """mypyc drops the types of their members."""
    assert [name for name in MODULES if "(msgspec.Struct" in (FOLDER / f"{name}.py").read_text()] == []
