"""One look at all files of a version: each is acceptable, they fit together, and what they say of the model.

Files are added one by one, in any order, as they arrive, so that a bad one is met early; `finish` checks what can
only be seen of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.models.card import Card, read_card
from appliance.models.contents import JsonRefused, check_vocabulary, plain_problem, read_index, read_json
from appliance.models.errors import ModelRefused, Refusal
from appliance.models.kinds import FileKind, kind_of, kind_problem
from appliance.models.metadata import ModelMetadata, Weights, detect
from appliance.models.paths import path_problem, tree_problems
from appliance.models.safetensors import MOST_TENSORS, SafetensorsInvalid, read_header

INDEX_SUFFIX: Final = ".safetensors.index.json"
VOCABULARIES: Final = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
"""Any word may be a key in these, `auto_map` too, and no engine looks for code in them."""
MOST_LEFT_OUT: Final = 100
_CARD_BYTES: Final = 256 * 1024


def check_names(paths: Iterable[str]) -> None:
    """Raise `ModelRefused` with every name that cannot be part of a model."""
    names = list(paths)
    refusals = [Refusal(path, why) for path in names if (why := path_problem(path) or kind_problem(path))]
    refusals.extend(tree_problems(names))
    if not any(kind_of(path) is FileKind.weights for path in names):
        refusals.append(Refusal("", "there is no .safetensors file; a model needs its weights"))
    if refusals:
        raise ModelRefused(refusals)


class Inspection:
    """Holds what was found; the names must have passed `check_names`."""

    def __init__(self) -> None:
        self._weights = Weights()
        self._paths: set[str] = set()
        self._objects: dict[str, Mapping[str, Any]] = {}
        self._shards: dict[str, set[str]] = {}
        self._card = Card()
        self._has_chat_template = False

    def add(self, path: str, file: Path) -> None:
        """Check one file; raise `ModelRefused` for it."""
        if problem := self._examine(path, file):
            raise ModelRefused([Refusal(path, problem)])
        self._paths.add(path)

    def finish(self, *, left_out: Iterable[str] = ()) -> ModelMetadata:
        """Check what concerns the whole, and tell what was detected."""
        if refusals := list(self._missing_shards()):
            raise ModelRefused(refusals)
        tokenizer = self._objects.get("tokenizer_config.json", {})
        metadata = detect(
            self._objects.get("config.json", {}),
            self._weights,
            card=self._card,
            generation=self._objects.get("generation_config.json", {}),
            has_chat_template=self._has_chat_template or bool(tokenizer.get("chat_template")),
        )
        return msgspec.structs.replace(metadata, left_out=sorted(left_out)[:MOST_LEFT_OUT])

    def _examine(self, path: str, file: Path) -> str | None:
        match kind_of(path):
            case FileKind.weights:
                return self._examine_weights(file)
            case FileKind.json:
                return self._examine_json(path, file)
            case None:
                return kind_problem(path)
            case kind:
                self._note_text(path, file)
                return plain_problem(kind, file)

    def _examine_weights(self, file: Path) -> str | None:
        try:
            with file.open("rb") as opened:
                self._weights.add(read_header(opened, file.stat().st_size))
        except SafetensorsInvalid as error:
            return f"it is not a valid safetensors file: {error}"
        if self._weights.tensors > MOST_TENSORS:
            return f"with it the model has more than {MOST_TENSORS} tensors"
        return None

    def _examine_json(self, path: str, file: Path) -> str | None:
        folder, _, name = path.rpartition("/")
        try:
            if name in VOCABULARIES:
                check_vocabulary(file)
            elif name.endswith(INDEX_SUFFIX):
                shards = read_index(file).weight_map.values()
                self._shards[path] = {f"{folder}/{shard}" if folder else shard for shard in shards}
            else:
                return self._note_object(path, read_json(file))
        except JsonRefused as error:
            return str(error)
        return None

    def _note_object(self, path: str, value: Any) -> str | None:
        if path in ("config.json", "generation_config.json", "tokenizer_config.json"):
            if not isinstance(value, dict):
                return "it is not a JSON object"
            self._objects[path] = value
        return None

    def _note_text(self, path: str, file: Path) -> None:
        if path == "README.md":
            with file.open("rb") as opened:
                self._card = read_card(opened.read(_CARD_BYTES).decode("utf-8", errors="ignore"))
        self._has_chat_template |= path == "chat_template.jinja"

    def _missing_shards(self) -> Iterator[Refusal]:
        for index, shards in sorted(self._shards.items()):
            for shard in sorted(shards - self._paths):
                yield Refusal(index, f"it names {shard[:200]!r}, which is not among the files")
