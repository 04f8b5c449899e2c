"""The content of a file, checked against what its name promises.

A name is only a promise: a pickle may be called `tokenizer.model`. Each file is checked by its first bytes, and as
what it claims to be: JSON parses and asks for no code, text is UTF-8, a picture is one.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from appliance.models.kinds import FileKind

T = TypeVar("T")
LARGEST_JSON: Final = 8 * 1024 * 1024
"""Bytes of a JSON file that is built in memory, where a byte of text may cost twenty."""
LARGEST_VOCABULARY: Final = 128 * 1024 * 1024
LARGEST_INDEX: Final = 32 * 1024 * 1024
LARGEST_TEXT: Final = 128 * 1024 * 1024
_BLOCK: Final = 1024 * 1024
_MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    *((b"\x80" + bytes([protocol]), "a pickle") for protocol in range(2, 6)),
    (b"PK\x03\x04", "a zip archive (or a PyTorch file)"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"GGUF", "a GGUF file"),
)
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")
CODE_KEYS: Final = frozenset({"auto_map", "custom_pipelines"})


def magic_problem(head: bytes) -> str | None:
    """Why a file that begins so is refused whatever its name, or None."""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return f"the content is {what}"
    return "the content is a tar archive" if head[257:262] == b"ustar" else None


def plain_problem(kind: FileKind, file: Path) -> str | None:
    """Why the content of a file that is neither JSON nor weights is refused, or None."""
    with file.open("rb") as opened:
        head = opened.read(512)
    if problem := magic_problem(head):
        return problem
    if kind is FileKind.picture and head and not head.startswith(_PICTURES):
        return "the content is not a picture"
    return _text_problem(file) if kind is FileKind.text else None


def _text_problem(file: Path) -> str | None:
    if file.stat().st_size > LARGEST_TEXT:
        return f"the text has more than {LARGEST_TEXT} bytes"
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                if "\0" in decoder.decode(block):
                    return "the text has zero bytes"
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "the text is not UTF-8"
    return None


class JsonRefused(ValueError):
    """The message is the reason."""


class ShardIndex(msgspec.Struct, frozen=True):
    """`model.safetensors.index.json`: which file holds which tensor."""

    weight_map: dict[str, str]


def read_json(file: Path) -> Any:
    """The parsed content, by the same parser that the engines use; raise `JsonRefused`."""
    try:
        value = json.loads(_bounded(file, LARGEST_JSON).decode("utf-8"))
    except RecursionError as error:
        raise JsonRefused("the JSON is nested too deeply") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise JsonRefused(f"it is not valid JSON: {error}") from error
    if problem := code_problem(value):
        raise JsonRefused(problem)
    return value


def check_vocabulary(file: Path) -> None:
    """Raise `JsonRefused` unless it is JSON; nothing is built, and any word may be in it."""
    _decoded(file, LARGEST_VOCABULARY, msgspec.Raw)


def read_index(file: Path) -> ShardIndex:
    return _decoded(file, LARGEST_INDEX, ShardIndex)


def _decoded(file: Path, limit: int, as_type: type[T]) -> T:
    try:
        return msgspec.json.decode(_bounded(file, limit), type=as_type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise JsonRefused(f"it is not the JSON that is expected: {error}") from error


def _bounded(file: Path, limit: int) -> bytes:
    size = file.stat().st_size
    if size > limit:
        raise JsonRefused(f"it has {size} bytes, at most {limit} are allowed for it")
    return file.read_bytes()


def code_problem(value: Any) -> str | None:
    """Why an engine that reads this configuration might run foreign code, or None."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if found := sorted(CODE_KEYS & item.keys()):
                return f"{found[0]!r} loads Python code of the model's own; only the engines' architectures are served"
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return None
