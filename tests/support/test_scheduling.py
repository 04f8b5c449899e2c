from pathlib import Path

import pytest

from tests.support.scheduling import ENGINES, FIRST, PACKAGES, SINGLE, place_of, unit_of


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/kernel/test_children.py::test_output[a::b]", "tests/kernel/test_children.py"),
        ("tests/kernel/test_children.py::TestGroup::test_output", "tests/kernel/test_children.py"),
        ("tests/api/test_openapi.py::test_order_is_stable[admin]", "tests/api"),
        ("tests/e2e/test_real_engines.py::test_answers[vllm]", "engines"),
        ("tests/images/test_engines.py::test_answers[vllm]", "engines"),
        ("tests/e2e/test_crash_points.py::test_a_sample", "tests/e2e/test_crash_points.py::test_a_sample"),
    ],
)
def test_what_shares_fixtures_stays_together(nodeid: str, unit: str):
    assert unit_of(nodeid) == unit


def test_the_modules_that_are_named_exist():
    assert [path for path in (*PACKAGES, *ENGINES, *SINGLE, *FIRST) if not Path(path).exists()] == []


def test_what_takes_longest_begins_first():
    modules = ["tests/plane/test_life.py", "tests/e2e/test_usage.py", "tests/cli/test_help.py"]
    assert sorted([*modules, "tests/e2e/test_crash_points.py"], key=place_of) == [
        "tests/e2e/test_crash_points.py",
        "tests/cli/test_help.py",
        "tests/e2e/test_usage.py",
        "tests/plane/test_life.py",
    ]
