"""Each code with which the data plane refuses is documented with its status, and nothing else is."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance.gateway import plane
from tests.docs.documents import ROOT, rows

PAGE: Final = ROOT / "docs" / "data-plane.md"
_MAKERS: Final = {"Refusal": (1, 0, None), "unavailable": (0, None, 503), "engine_failed": (1, 0, None)}
"""Which argument is the code, which is the status, or what status it always is."""
_WRAPPERS: Final = {"unavailable", "engine_failed"}
"""Functions that pass on a code of their caller's."""


def refusals() -> Iterator[tuple[str, int | None, str]]:
    """Code, status (None if it is computed) and place of everything that makes a refusal."""
    folder = Path(next(iter(plane.__path__)))
    for file in sorted(folder.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        wrapped = {
            inner
            for outer in ast.walk(tree)
            if isinstance(outer, ast.FunctionDef) and outer.name in _WRAPPERS
            for inner in ast.walk(outer)
        }
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _MAKERS:
                if call in wrapped:
                    continue
                yield *_read(call, call.func.id), f"{file.relative_to(folder)}:{call.lineno}"


def _read(call: ast.Call, maker: str) -> tuple[str, int | None]:
    code_at, status_at, always = _MAKERS[maker]
    code = call.args[code_at]
    assert isinstance(code, ast.Constant), f"{ast.unparse(call)}: the code is to be written out"
    assert isinstance(code.value, str)
    status = None if status_at is None else call.args[status_at]
    if isinstance(status, ast.Constant) and isinstance(status.value, int):
        return code.value, status.value
    return code.value, always


def documented() -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for row in rows(PAGE):
        if len(row) == 4 and row[1].replace(", ", "").isdigit():
            assert row[0] not in found, f"{row[0]} has two rows"
            found[row[0]] = {int(status) for status in row[1].split(", ")}
    return found


def test_every_code_is_documented_with_its_status() -> None:
    page = documented()
    made: dict[str, set[int]] = defaultdict(set)
    for code, status, place in refusals():
        assert code in page, f"{place}: {code} has no row in {PAGE.name}"
        assert status is None or status in page[code], f"{place}: {code} is documented with {page[code]}"
        made[code] |= set() if status is None else {status}
    assert set(page) == set(made), "a documented code that nothing makes"
    assert len(page) > 25
