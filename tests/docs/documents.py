"""The project's documents for people, and what can be read off their Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)


def markdown() -> list[Path]:
    """Every Markdown file that is the project's own."""
    folders = (ROOT / name for name in ("docs", "images", "config"))
    return sorted([*ROOT.glob("*.md"), *(file for folder in folders for file in folder.rglob("*.md"))])


def texts() -> list[Path]:
    """What is read by people or copied by administrators."""
    return [*markdown(), *sorted(file for file in (ROOT / "config").rglob("*") if file.is_file())]


def prose(file: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCED.sub("", file.read_text(encoding="utf-8"))


def links(file: Path) -> Iterator[str]:
    yield from _LINK.findall(prose(file))


def anchors(file: Path) -> set[str]:
    """The fragments that the headings give, in the form that Markdown's viewers agree on."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(file))}


def rows(file: Path) -> Iterator[list[str]]:
    """The cells of every row of the file's tables, without back-ticks; headings and rules are among them."""
    for line in _ROW.findall(prose(file)):
        yield [cell.strip().replace("`", "") for cell in line.split(" | ")]
