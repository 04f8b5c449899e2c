"""All tests in two passes, and what failed once more by itself: `run_tests.py [--workers N] [--passes P...] [PATH...]`.

The passes are those of docs/ci.md: side by side, then those marked `alone`. If a few tests failed, each is run again,
three times, with nothing beside it. One that fails again has failed. One that passes each time is *unsteady*: it is
named in the last lines, for whoever works next to find its cause, and the run passes. More failures than a few are
no coincidence and are not run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

MOST_UNSTEADY: Final = 3
AGAIN: Final = 3
_FAILED: Final = 1
"""pytest's exit status when tests failed; any other than it and 0 is an error of the run itself."""
_NOTHING: Final = 5
"""pytest's exit status when there was no test to run."""


@dataclass
class Outcome:
    """`ran`: there were tests; `broken`: a pass did not run as it should, and nothing is run again."""

    failed: list[str] = field(default_factory=list)
    ran: bool = False
    broken: bool = False

    def add(self, other: Outcome) -> None:
        self.failed += [each for each in other.failed if each not in self.failed]
        self.ran |= other.ran
        self.broken |= other.broken


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--workers", default="2", help="tests at a time in the first pass")
    parser.add_argument("--passes", nargs="*", choices=["beside", "alone"], default=["beside", "alone"])
    parser.add_argument("--report", type=Path, default=Path(".pytest_cache/report.xml"))
    parser.add_argument("paths", nargs="*")
    given = parser.parse_args(arguments)
    passes = {"beside": ["-m", "not alone", "--numprocesses", given.workers], "alone": ["-m", "alone"]}
    whole = Outcome()
    for name in given.passes:
        whole.add(_run([*passes[name], *given.paths], given.report))
    if whole.broken or not whole.ran:
        return 1
    if not whole.failed:
        return 0
    return _again(whole.failed, given.report)


def _again(failed: list[str], report: Path) -> int:
    if len(failed) > MOST_UNSTEADY:
        _tell(f"{len(failed)} tests failed: too many to be run again")
        return 1
    for time in range(AGAIN):
        _tell(f"\n=== Run again, alone ({time + 1} of {AGAIN}): {', '.join(failed)}")
        found = _run(failed, report)
        if found.broken or found.failed:
            return 1
    for name in failed:
        _tell(f"UNSTEADY: {name} failed once and passed {AGAIN} times by itself")
    return 0


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(arguments: list[str], report: Path) -> Outcome:
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-o", "junit_family=xunit1", *arguments]
    status = subprocess.run(command, check=False).returncode  # noqa: S603 - pytest, with what the caller said
    if status in (0, _NOTHING):
        return Outcome(ran=status == 0)
    return Outcome(broken=True) if status != _FAILED else read_failed(report)


def read_failed(report: Path) -> Outcome:
    """The node ids of the tests that failed, or whose set-up or clean-up did, in a report of pytest's (xunit1)."""
    try:
        cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest has just written it
    except (OSError, ET.ParseError):
        return Outcome(broken=True)
    found = Outcome(ran=True)
    for case in cases:
        if case.find("failure") is None and case.find("error") is None:
            continue
        path, name = case.get("file"), case.get("name")
        if path is None or name is None:  # a module that could not be read
            return Outcome(broken=True)
        found.add(Outcome([f"{path}::{name}"]))
    return found if found.failed else Outcome(broken=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
