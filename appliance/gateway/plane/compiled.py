"""Which modules of the data plane `make compile` turns into machine code, and whether that is of these sources.

mypyc compiles modules as they are; without it the same code is interpreted, at about 1.4 times the CPU time a request.
A compiled module is imported in place of its source, so one that was compiled from another source would run code that
nobody sees: then the sources run. That is so after each edit and each upgrade, until `make compile`.

Not in the list: what defines `msgspec.Struct` classes (mypyc drops the types of their members, which msgspec goes by),
and what does not lie in a request's way.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
RECORD: Final = "compiled.json"
"""Written by the compiler into the folder: `{"sources": {module: SHA-256}, "files": [paths from the root]}`."""

MODULES: Final = (
    "admission",
    "admit",
    "admitted",
    "affinity",
    "answering",
    "answers",
    "backends",
    "balance",
    "body",
    "chunked",
    "client_answers",
    "client_protocol",
    "connection",
    "defaults",
    "directory",
    "ejection",
    "errors",
    "familiar",
    "fast_path",
    "forward",
    "guards",
    "head",
    "histograms",
    "identifiers",
    "infer",
    "ledger",
    "limits/charge",
    "limits/counter",
    "limits/grant",
    "limits/limiter",
    "limits/peer",
    "limits/periods",
    "limits/rate",
    "limits/shared",
    "limits/subjects",
    "limits/tally",
    "limits/telling",
    "limits/windows",
    "media",
    "meter",
    "metrics",
    "own_answers",
    "prepared",
    "principal",
    "relay",
    "request",
    "response_head",
    "route",
    "routes",
    "sse",
    "tables",
    "upstream",
    "usage",
)


def digests(folder: Path = FOLDER) -> dict[str, str]:
    """SHA-256 of each module's source; `OSError` where one is missing."""
    return {name: hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest() for name in MODULES}


def libraries(folder: Path = FOLDER) -> list[Path]:
    """The machine code in place, but for the library that the modules share."""
    return sorted([*folder.glob("*.so"), *folder.glob("limits/*.so")])


def is_compiled(folder: Path = FOLDER) -> bool:
    """Whether there is machine code, and of these sources. A record that is not whole, as a full disk may leave one,
    says nothing of any.
    """
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(record, dict) and record.get("sources") == digests(folder)


def choose(folder: Path = FOLDER) -> bool:
    """Have the modules of `folder` imported as machine code if it is of their sources, and from these if not; whether
    it is. To be called before the first of them is imported.
    """
    compiled = is_compiled(folder)
    if not compiled and libraries(folder):
        for path in (folder, folder / "limits"):
            finder = FileFinder(str(path), (SourceFileLoader, SOURCE_SUFFIXES))
            sys.path_importer_cache[str(path)] = finder
    return compiled
