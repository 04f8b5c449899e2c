"""What a run must have: `APPLIANCE_TEST_REQUIRE=docker,postgres,engines,...` turns those skips into failures.

Without the variable a test that lacks its server is skipped with the reason, so that `make test` works on a bare
machine. With it a run cannot be green without having tested what it names.
"""

import os
from collections import Counter
from collections.abc import Generator
from enum import StrEnum
from typing import NoReturn

import pytest

VARIABLE = "APPLIANCE_TEST_REQUIRE"


class Requirement(StrEnum):
    """The value is what `APPLIANCE_TEST_REQUIRE` lists."""

    DOCKER = "docker"
    POSTGRES = "postgres"
    ENGINES = "engines"
    NODE = "node"
    NGINX = "nginx"
    GPU = "gpu"

    @property
    def marker(self) -> str:
        """The pytest marker of the tests that need it."""
        return "engine" if self is Requirement.ENGINES else self.value


def required() -> frozenset[Requirement]:
    """The requirements of this run; an unknown name raises `pytest.UsageError`."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    try:
        return frozenset(Requirement(name) for name in names)
    except ValueError as error:
        known = ", ".join(Requirement)
        raise pytest.UsageError(f"{VARIABLE}: {error}; known are {known}") from error


def unavailable(requirement: Requirement, reason: str) -> NoReturn:
    """Skips the test, or fails it where the run requires what is not there."""
    if requirement in required():
        pytest.fail(f"{VARIABLE} names {requirement}, but {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_configure() -> None:
    required()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself in its own way is caught by its marker."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        missed = [need for need in required() if item.get_closest_marker(need.marker)]
        if missed:
            report.outcome = "failed"
            report.longrepr = f"{VARIABLE} names {', '.join(missed)}, but it was skipped: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each reason once, with the number of tests that were skipped for it; pytest's own list has a line a place."""
    skipped = (report.longrepr for report in terminalreporter.getreports("skipped"))
    reasons = Counter(told[2].removeprefix("Skipped: ") for told in skipped if isinstance(told, tuple))
    if reasons:
        terminalreporter.section("skipped")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5} {reason}")
