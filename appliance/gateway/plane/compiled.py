"""Which modules of the data plane `make compile` turns into machine code, and whether what it made is of these sources.

mypyc compiles modules as they are: without it the same code is interpreted, at about twice the CPU time a request.
A compiled module is imported in place of its source, so one that was compiled from another source would run code that
nobody sees; importing the data plane is refused then. Not in the list: what defines `msgspec.Struct` classes (mypyc
drops the types of their members), and what does not lie in a request's way.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
RECORD: Final = "compiled.json"
"""Written by the compiler into the folder: `{"sources": {module: SHA-256}, "files": [paths from the root]}`."""
_REMEDY: Final = "run `make compile`, or `make interpreted` to run the sources"

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
    "limits/grant",
    "limits/limiter",
    "limits/shared",
    "limits/subjects",
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
    "route",
    "routes",
    "sse",
    "upstream",
    "usage",
)


class Stale(ImportError):
    """What `make compile` made is not of these sources."""


def digests(folder: Path = FOLDER) -> dict[str, str]:
    """SHA-256 of each module's source; `OSError` where one is missing."""
    return {name: hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest() for name in MODULES}


def libraries(folder: Path = FOLDER) -> list[Path]:
    """The machine code in place, but for the library that the modules share."""
    return sorted([*folder.glob("*.so"), *folder.glob("limits/*.so")])


def is_compiled(folder: Path = FOLDER) -> bool:
    """Whether the modules run as machine code. `Stale` where they would run as another source's."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except FileNotFoundError:
        if libraries(folder):
            raise Stale(f"compiled modules without {RECORD} in {folder}: {_REMEDY}") from None
        return False
    if record["sources"] != digests(folder):
        raise Stale(f"the data plane in {folder} was compiled from other sources: {_REMEDY}")
    return True
