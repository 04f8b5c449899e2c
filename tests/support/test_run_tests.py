"""What CI makes of failures: one that repeats fails the run, one that does not is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN_TESTS = Path(__file__).parents[2] / "tools" / "run_tests.py"

INI = "[pytest]\nmarkers = alone\naddopts = -p xdist\n"
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails(n):\n    assert n == 'never'\n"
PARAMETRIZED = "import pytest\n@pytest.mark.parametrize('n', ['a b', 'c'])\n"
ONCE = """
from pathlib import Path
import pytest

@pytest.mark.alone
def test_is_right_after_that():
    seen = Path(__file__).with_suffix(".seen")
    first = not seen.exists()
    seen.touch()
    assert not first
"""
TEAR_DOWN = """
import pytest

@pytest.fixture
def broken():
    yield
    raise RuntimeError

def test_is_cleaned_up_after(broken):
    pass
"""


def run(folder: Path, **modules: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(INI)
    for name, text in modules.items():
        (folder / f"test_{name}.py").write_text(text)
    command = [sys.executable, str(RUN_TESTS), "--workers", "1"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what this project's tests use takes seconds
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_all_that_pass_are_run_once(tmp_path: Path) -> None:
    done = run(tmp_path, a=PASSES)
    assert done.returncode == 0
    assert "again" not in done.stdout


def test_a_failure_that_does_not_repeat_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, a=PASSES, once=ONCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "UNSTEADY: test_once.py::test_is_right_after_that failed once and passed 3 times by itself"
    )


@pytest.mark.parametrize("module", [PARAMETRIZED + FAILS, TEAR_DOWN])
def test_a_failure_that_repeats_fails_the_run(tmp_path: Path, module: str) -> None:
    done = run(tmp_path, a=PASSES, once=ONCE, b=module)
    assert done.returncode == 1
    assert "Run again, alone (1 of 3)" in done.stdout
    assert "(2 of 3)" not in done.stdout
    assert "UNSTEADY" not in done.stdout


def test_many_failures_are_not_run_again(tmp_path: Path) -> None:
    done = run(tmp_path, **{f"m{number}": ONCE for number in range(4)})
    assert (done.returncode, "4 tests failed: too many" in done.stdout) == (1, True)


@pytest.mark.parametrize("module", ["import nothing_of_that_name", "raise KeyboardInterrupt"])
def test_a_run_that_breaks_is_not_run_again(tmp_path: Path, module: str) -> None:
    done = run(tmp_path, a=PASSES, broken=module)
    assert (done.returncode, "again" in done.stdout) == (1, False)


def test_no_tests_at_all_is_a_failure(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 1
