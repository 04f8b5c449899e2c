"""`python -m appliance.api.document [--check] DIR`: write the OpenAPI documents, or say whether they are current."""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from appliance.api.context import Port
from appliance.api.openapi import document

_SHOWN_LINES: Final = 40


def text(port: Port) -> str:
    """The document as it is kept: two spaces, in the order of the routes, a final line feed."""
    return json.dumps(document(port), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for port in Port:
        (folder / f"{port.value}.json").write_text(text(port), encoding="utf-8")


def differences(folder: Path) -> Iterator[str]:
    """Lines of a diff from what the folder has to what the routes say; none where they agree."""
    for port in Port:
        file = folder / f"{port.value}.json"
        kept = file.read_text(encoding="utf-8") if file.exists() else ""
        yield from difflib.unified_diff(kept.splitlines(), text(port).splitlines(), str(file), "the routes", "", "", 1)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m appliance.api.document", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a document differs")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.folder)
        return 0
    found = differences(options.folder)
    shown = list(itertools.islice(found, _SHOWN_LINES))
    if not shown:
        return 0
    more = sum(1 for _ in found)
    rest = f"\n... and {more} more lines" if more else ""
    sys.stderr.write("\n".join(shown) + f"{rest}\nthe documents differ from the routes; run `make openapi`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
