"""What a part of a campaign found, and its page."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[2] / "docs" / "campaigns"


@dataclass(slots=True)
class Outcome:
    """`tried` counts what the part is about; `unmet` are points that were not reached again, which is no failure."""

    part: str
    combination: str
    tried: int = 0
    unmet: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    told: str = ""


def page(outcomes: Sequence[Outcome], *, seed: int, arguments: str) -> str:
    """Markdown: what was run, and each failure in its own words."""
    now = datetime.now(UTC)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end"
    lines = [
        f"# Campaign of {now:%Y-%m-%d %H:%M} UTC",
        "",
        f"Commit `{_commit()}`, seed {seed}, arguments `{arguments or '(none)'}`. {machine}.",
        "The engine is the light one of the tests.",
        "",
        "| part | combination | tried | not reached again | failures | seconds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {o.part} | {o.combination} | {o.tried} | {len(o.unmet)} | {len(o.failures)} | {o.seconds:.0f} |"
        for o in outcomes
    ]
    for outcome in outcomes:
        if outcome.told:
            lines += ["", f"{outcome.part}, {outcome.combination}: {outcome.told}"]
    failures = [(outcome, failure) for outcome in outcomes for failure in outcome.failures]
    lines += ["", "## Failures", ""]
    lines += [f"* {outcome.part}, {outcome.combination}: {failure}" for outcome, failure in failures] or ["None."]
    unmet = [(outcome, point) for outcome in outcomes for point in outcome.unmet]
    if unmet:
        lines += ["", "## Points that were not reached again", ""]
        lines += ["Background work happens when it happens; a life may end before it.", ""]
        lines += [f"* {outcome.combination}: `{point}`" for outcome, point in unmet]
    return "\n".join(lines) + "\n"


def write(text: str) -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{datetime.now(UTC):%Y-%m-%d-%H%M}.md"
    path.write_text(text)
    return path


def _commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"
