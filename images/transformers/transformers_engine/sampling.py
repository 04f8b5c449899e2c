"""How the next token is chosen: a request's parameters over the model's defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing logits by them would overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The defaults are neutral: plain sampling from the model's distribution.

    temperature         0 is greedy
    top_k               0 keeps the whole vocabulary, 1 is greedy
    top_p, min_p        keep the smallest set reaching `top_p`; drop what is under `min_p` times the best
    repetition_penalty  over 1 makes tokens of the prompt and the answer less likely
    presence_penalty, frequency_penalty    subtracted from logits of tokens of the answer, once and per occurrence
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def overridden_by(self, values: Mapping[str, Any]) -> Sampling:
        """A copy with those of `values` that name a parameter here and are not None."""
        names = {field.name for field in fields(self)}
        return replace(self, **{k: v for k, v in values.items() if k in names and v is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When generation ends."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()


DEFAULTABLE = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def model_defaults(folder: Path) -> Sampling:
    """The sampling defaults in a model folder's `generation_config.json`, neutral ones where it says nothing.

    `do_sample` is not read: as in vLLM, a model without a temperature of its own is sampled at 1.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return Sampling()
    document = json.loads(path.read_text(encoding="utf-8"))
    return Sampling().overridden_by({name: document.get(name) for name in DEFAULTABLE})
