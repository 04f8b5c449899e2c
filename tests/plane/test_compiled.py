"""Machine code is only run if it is of the sources that are there."""

import json
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from appliance.gateway.plane import COMPILED
from appliance.gateway.plane.compiled import FOLDER, MODULES, RECORD, digests, is_compiled, libraries


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sources, as a compiler left them that has just recorded what it compiled. The machine code is none."""
    for name in MODULES:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(FOLDER / f"{name}.py", path)
    (tmp_path / RECORD).write_text(json.dumps({"sources": digests(tmp_path), "files": []}))
    return tmp_path


def test_what_was_compiled_from_these_sources_is_current(folder: Path) -> None:
    assert is_compiled(folder)


@pytest.mark.parametrize("name", ["head", "limits/limiter"])
def test_what_was_compiled_from_another_source_is_not(folder: Path, name: str) -> None:
    with (folder / f"{name}.py").open("a") as source:
        source.write("\n")
    assert not is_compiled(folder)


def test_machine_code_without_its_record_is_of_no_known_source(folder: Path) -> None:
    (folder / RECORD).unlink()
    assert not is_compiled(folder)


@pytest.mark.parametrize("content", [b"", b'{"sources": {"hea', b"[]", b"{}", b"\xff"])
def test_record_that_is_not_whole_stops_nobody(folder: Path, content: bytes) -> None:
    (folder / RECORD).write_bytes(content)
    assert not is_compiled(folder)


@pytest.mark.parametrize("module", ["head", "limits.limiter"])
def test_sources_run_where_the_machine_code_is_not_of_them(tmp_path: Path, module: str) -> None:
    """A copy of the package with machine code that cannot even be loaded: an import that looks at it fails."""
    copy = tmp_path / "appliance" / "gateway" / "plane"
    shutil.copytree(FOLDER.parents[1], tmp_path / "appliance", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    broken = copy / (module.replace(".", "/") + EXTENSION_SUFFIXES[0])
    broken.write_bytes(b"not machine code")
    (copy / RECORD).write_text(json.dumps({"sources": {}, "files": []}))
    script = f"import appliance.gateway.plane.{module} as m; print(m.__file__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (str(copy / (module.replace(".", "/") + ".py")), 0), done.stderr


def test_what_was_compiled_here_is_what_is_tested() -> None:
    assert bool(libraries()) == COMPILED


def test_no_class_that_msgspec_decodes_is_compiled() -> None:
    """mypyc drops the types of their members."""
    assert [name for name in MODULES if "(msgspec.Struct" in (FOLDER / f"{name}.py").read_text()] == []
