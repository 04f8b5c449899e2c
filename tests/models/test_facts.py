"""What a version's files tell of its memory is read once, and a few are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from appliance.models.estimation import FactsReader, read_facts
from appliance.models.repository import ModelRepository
from tests.models.builders import model_files, write_files
from tests.models.library import Library


async def test_facts_are_read_once_and_the_last_few_are_kept(library: Library, repository: ModelRepository) -> None:
    await library.create()
    version = await library.import_(model_files())
    reader = FactsReader(repository.store)
    first = await reader.facts(version.id)
    assert first.problem is None
    assert first.known_shape().layers == 3
    assert first.weights.total_bytes > 0
    shutil.rmtree(repository.store.tree(version.id))
    assert await reader.facts(version.id) is first
    for number in range(64):
        await reader.facts(f"ver_{number}")
    assert (await reader.facts(version.id)).weights.tensors == 0  # its turn is over: what is on disk counts again


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"config.json": b"{"}, "config.json"), ({"model.safetensors": b"short"}, "model.safetensors")],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, change: dict[str, bytes], problem: str) -> None:
    facts = read_facts(write_files(tmp_path / "m", model_files() | change))
    assert facts.problem is not None
    assert problem in facts.problem
