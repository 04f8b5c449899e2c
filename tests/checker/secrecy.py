"""I7: no secret in logs, in the database, in `docker inspect`, or in a process's arguments or environment."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.checker.evidence import Evidence
from tests.checker.violations import Violation

_BLOCK: Final = 1 << 20
_LOGS: Final = ("logs/**/*", "run/e/*/*.json", "run/e/*/*.log", "gateway/**/*")


def anywhere(evidence: Evidence) -> Iterator[Violation]:
    secrets = evidence.secrets
    longest = max((len(value) for value in secrets.values()), default=0)
    if not longest:
        return
    for place, content in _texts(evidence):
        for name in _found(content, secrets):
            yield Violation("I7", place, f"contains the secret {name}")
    for path in _files(evidence.home):
        for name in _found_in_file(path, secrets, longest):
            yield Violation("I7", str(path.relative_to(evidence.home)), f"contains the secret {name}")


def _texts(evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    for process in evidence.processes:
        if evidence.is_ours(process):
            yield f"arguments of process {process.pid}", "\0".join(process.arguments).encode(errors="replace")
            entries = "\0".join(f"{name}={value}" for name, value in process.environ.items())
            yield f"environment of process {process.pid}", entries.encode(errors="replace")
    for container in evidence.our_containers.values():
        yield f"docker inspect {container.name}", str(container.inspected).encode(errors="replace")
    for table, rows in evidence.tables.items():
        for row in rows:
            for column, value in row.items():
                if isinstance(value, str | bytes):
                    place = f"table {table}, column {column}"
                    yield place, value.encode(errors="replace") if isinstance(value, str) else value


def _files(home: Path) -> Iterator[Path]:
    for pattern in _LOGS:
        for path in home.glob(pattern):
            if path.is_file() and not path.is_symlink():
                yield path


def _found(content: bytes, secrets: Mapping[str, bytes]) -> Iterable[str]:
    return [name for name, value in secrets.items() if value in content]


def _found_in_file(path: Path, secrets: Mapping[str, bytes], longest: int) -> set[str]:
    """Block by block with an overlap, since logs may be large; a file that is rotated away meanwhile is empty."""
    found: set[str] = set()
    tail = b""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(_found(tail + block, secrets))
                tail = block[-longest:]
    except FileNotFoundError:
        pass
    return found
