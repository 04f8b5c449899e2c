"""Which files may be part of a model, by name; everything that is not listed is refused with the reason.

Weights are safetensors and nothing else: every other common format can carry code (pickle, HDF5 lambdas, ONNX
custom operators) or is not read by the engines. Python files are code.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final


class FileKind(StrEnum):
    weights = "weights"
    json = "json"
    text = "text"
    tokenizer = "tokenizer"
    picture = "picture"


KINDS: Final[dict[str, FileKind]] = {
    ".safetensors": FileKind.weights,
    ".json": FileKind.json,
    **dict.fromkeys((".txt", ".md", ".jinja", ".yaml", ".yml", ".jsonl", ".cff", ".rst"), FileKind.text),
    **dict.fromkeys((".model", ".tiktoken", ".spm", ".bpe", ".vocab"), FileKind.tokenizer),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp"), FileKind.picture),
}
PLAIN_NAMES: Final = frozenset(
    {"license", "licence", "notice", "readme", "copying", "authors", "contributors", "use_policy", "version"}
)
"""Text files that usually have no suffix."""

_PICKLED: Final = "may run code when it is loaded; convert the weights to safetensors"
_OTHER_WEIGHTS: Final = "is not a weights format that is served; convert the weights to safetensors"
_CODE: Final = "is code; models run with the engines' own code only"
REASONS: Final[dict[str, str]] = {
    **dict.fromkeys((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".nemo", ".mar"), _PICKLED),
    **dict.fromkeys((".h5", ".hdf5", ".keras", ".npy", ".npz", ".msgpack", ".pb", ".onnx"), _PICKLED),
    **dict.fromkeys((".gguf", ".ggml", ".tflite", ".ot", ".mlmodel", ".engine", ".plan"), _OTHER_WEIGHTS),
    **dict.fromkeys((".py", ".pyc", ".pyi", ".pyx", ".ipynb", ".so", ".dll", ".sh", ".cu", ".js", ".whl"), _CODE),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".xz", ".7z"), "is an archive; unpack it, or upload it as one"),
}
_LEFT_OUT_FOLDERS: Final = frozenset({".git", ".cache", ".locks", "__MACOSX"})
_LEFT_OUT_NAMES: Final = frozenset({".gitattributes", ".gitignore", ".DS_Store", "Thumbs.db"})


def kind_of(path: str) -> FileKind | None:
    name = PurePosixPath(path)
    if name.name.lower() in PLAIN_NAMES:
        return FileKind.text
    return KINDS.get(name.suffix.lower())


def kind_problem(path: str) -> str | None:
    """Why a file of this name cannot be part of a model, or None."""
    if kind_of(path) is not None:
        return None
    suffix = PurePosixPath(path).suffix.lower()
    if reason := REASONS.get(suffix):
        return f"a {suffix} file {reason}"
    what = f"files ending in {suffix}" if suffix else "files without an ending"
    return f"{what} are not part of a model; allowed are {', '.join(KINDS)} and LICENSE, NOTICE, README"


def is_left_out(path: str) -> bool:
    """Whether a folder or an archive may hold this file without it becoming part of the model (`.git/...`)."""
    *folders, name = path.split("/")
    return name in _LEFT_OUT_NAMES or not _LEFT_OUT_FOLDERS.isdisjoint(folders)
