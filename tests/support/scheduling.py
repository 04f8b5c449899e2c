"""Which tests run beside one another when pytest-xdist has several workers (`pytest --numprocesses 2`).

A worker takes a unit at a time: a module, since its fixtures are its tests' in common; a package whose appliance all
of its modules use; the modules that start real engines, of which two at once would have more threads than cores; or a
single test, where the tests of a module share nothing and are long. What takes longest begins first, so that no worker
is alone at the end. Without workers nothing of this has an effect.

What asserts a time, a ratio of times, or a wait of the product that ends with a refusal is marked `alone`: two runs,
`-m "not alone"` with workers and `-m alone` without, are every test (`make test-all`).
"""

from __future__ import annotations

from typing import Final

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

PACKAGES: Final = ("tests/api", "tests/cli")
"""Units as a whole."""

ENGINES: Final = (
    "tests/e2e/test_real_engines.py",
    "tests/e2e/test_vllm_bench.py",
    "tests/images/test_engines.py",
    "tests/images/test_transformers_process.py",
)
"""Modules that are one unit: each of their engines keeps all cores busy."""

SINGLE: Final = ("tests/e2e/test_crash_points.py",)
"""Modules of which each test is a unit."""

FIRST: Final = (
    "tests/e2e/test_crash_points.py",
    *ENGINES,
    "tests/api",
    "tests/cli",
    "tests/e2e",
    "tests/gateway/test_ingest.py",
)
"""Paths, the longest first; the others follow in their own order."""


class Units(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out units in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    module = nodeid.partition("::")[0]
    if module in SINGLE:
        return nodeid
    if module in ENGINES:
        return "engines"
    package = module.rpartition("/")[0]
    return package if package in PACKAGES else module


def place_of(nodeid: str) -> int:
    """What the collected tests are sorted by."""
    places = (place for place, path in enumerate(FIRST) if nodeid.startswith(path))
    return next(places, len(FIRST))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Units:
    config.option.loadscopereorder = False  # by the number of tests, which says nothing of their length
    return Units(config, log)
