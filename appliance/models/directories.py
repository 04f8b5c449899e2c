"""Import from a folder of the server: only below the folders that the settings name, whatever links say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from appliance.models.copying import Staged, copy_file, free_bytes, open_regular, require_space
from appliance.models.errors import ImportNotAllowed, ModelRefused, Refusal
from appliance.models.inspection import Inspection, check_names
from appliance.models.kinds import is_left_out
from appliance.models.progress import Phase, Progress


def allowed_directory(directory: str, roots: Sequence[Path]) -> Path:
    """The real path of `directory`; raise `ImportNotAllowed` unless it lies in one of `roots`."""
    real = Path(directory).resolve()
    if not Path(directory).is_absolute() or not _is_below(real, roots):
        named = ", ".join(map(str, roots)) or "none; set models.import_roots"
        raise ImportNotAllowed(f"{directory!r} is not below a folder that models may come from ({named})")
    if not real.is_dir():
        raise ModelRefused([Refusal("", f"{directory!r} is not a folder of the server")])
    return real


class Directory(NamedTuple):
    """A folder of the server, and those below which everything has to lie."""

    path: Path
    roots: Sequence[Path]


def stage_directory(
    found: Directory,
    incoming: Path,
    inspection: Inspection,
    progress: Progress,
    *,
    reserve: Callable[[Sequence[int]], None],
) -> tuple[list[Staged], list[str]]:
    """Copy the folder's files into `incoming`, hashed and inspected one by one, the small ones first.

    Gives the files, and the names of what is not part of a model and was left out. Before anything is written `reserve`
    is told the files' sizes.
    """
    directory, roots = found
    sizes, left_out = _walk(directory)
    check_names(sizes)
    total = sum(sizes.values())
    reserve(list(sizes.values()))
    require_space(free_bytes(incoming), total)
    progress.begin(Phase.copying, total)
    staged = []
    for number, path in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        target = incoming / f"{number:04d}"
        try:
            with open_regular(directory / path) as source:
                if not _is_below(Path(f"/proc/self/fd/{source.fileno()}").resolve(), roots):
                    raise ModelRefused([Refusal(path, "it is a link that leads out of the allowed folders")])
                sha256, size = copy_file(source, target, progress)
        except FileNotFoundError as error:
            raise ModelRefused([Refusal(path, "it went away while the folder was read")]) from error
        inspection.add(path, target)
        staged.append(Staged(path, target, sha256, size))
    return staged, left_out


def _walk(directory: Path) -> tuple[dict[str, int], list[str]]:
    """Sizes by relative name, and the names that are left out; links to files are followed, to folders refused."""
    sizes: dict[str, int] = {}
    left_out: list[str] = []
    refusals: list[Refusal] = []
    for folder, folders, names in os.walk(directory, onerror=_raise):
        here = Path(folder)
        for name in [*names, *(name for name in folders if (here / name).is_symlink())]:
            path = (here / name).relative_to(directory).as_posix()
            if is_left_out(path):
                left_out.append(path)
            elif (here / name).is_file():
                sizes[path] = (here / name).stat().st_size
            else:
                refusals.append(Refusal(path, "it is neither a file nor a link to one"))
    if refusals:
        raise ModelRefused(refusals)
    return sizes, left_out


def _raise(error: OSError) -> None:
    raise ModelRefused([Refusal("", f"the folder cannot be read: {error.strerror}: {error.filename}")]) from error


def _is_below(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root.resolve()) for root in roots)
