"""Names of files inside a model: checked at the border, whether they come from a folder, a request or an archive.

A good name is a plain relative POSIX path: no `..`, no absolute path, nothing that a shell, a terminal or another
file system would read as something else. A set of names is good when it can exist as one tree.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from appliance.models.errors import Refusal

LONGEST_PATH: Final = 512
LONGEST_PART: Final = 200
DEEPEST: Final = 8
MOST_FILES: Final = 4096


def path_problem(path: str) -> str | None:
    """Why `path` cannot name a file of a model, or None."""
    return next(_path_problems(path), None)


def _path_problems(path: str) -> Iterator[str]:
    if len(path) > LONGEST_PATH:
        yield f"the name has {len(path)} characters, at most {LONGEST_PATH} are allowed"
    if not path.isprintable():
        yield "the name has control characters or characters that are not printable"
    if not unicodedata.is_normalized("NFC", path):
        yield "the name is not in Unicode's normal form C"
    if "\\" in path:
        yield "the name has a backslash; folders are separated by /"
    if path.startswith("/"):
        yield "the name is absolute; give it relative to the model's folder"
    parts = path.split("/")
    if len(parts) > DEEPEST:
        yield f"the file lies {len(parts)} folders deep, at most {DEEPEST} are allowed"
    yield from filter(None, map(_part_problem, parts))


def _part_problem(part: str) -> str | None:
    if part in ("", ".", ".."):
        return f"the name has the part {part!r}"
    if len(part.encode()) > LONGEST_PART:
        return f"a part of the name has more than {LONGEST_PART} bytes"
    if part != part.strip():
        return "a part of the name begins or ends with a blank"
    return None


def tree_problems(paths: Iterable[str]) -> Iterator[Refusal]:
    """Names that cannot stand in one tree: twice the same (letter case aside), or a file where a folder is."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        if folded in seen:
            yield Refusal(path, f"the name is given twice (also as {seen[folded]!r})")
        seen.setdefault(folded, path)
    for folded, path in seen.items():
        parents = folded.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            if (parent := "/".join(parents[:depth])) in seen:
                yield Refusal(path, f"{seen[parent]!r} is a file and cannot be a folder too")
    if len(seen) > MOST_FILES:
        yield Refusal("", f"there are {len(seen)} files, at most {MOST_FILES} are allowed")
