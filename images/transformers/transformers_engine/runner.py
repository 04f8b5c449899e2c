"""Forwards of a transformers model over a batch of sequences."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from .cache import BatchCache
from .sampler import Sampler
from .sequence import Sequence


@dataclass(slots=True)
class Prefill:
    """Prompts that are being read: `ids` is `[rows, width]`, padded on the left; columns before `done` were read."""

    sequences: list[Sequence]
    ids: torch.Tensor
    cache: BatchCache
    done: int = 0


class ModelRunner:
    """Implements `scheduler.Runner`. All calls come from one thread."""

    def __init__(self, model: PreTrainedModel, *, prefill_tokens: int) -> None:
        self._model = model
        self._prefill_tokens = prefill_tokens
        self._layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
        self._device: torch.device = next(model.get_input_embeddings().parameters()).device
        self._accepts = set(inspect.signature(model.forward).parameters)
        self._sampler = Sampler()
        self._cache: BatchCache | None = None
        self._rows: list[Sequence] = []

    def begin(self, sequences: list[Sequence]) -> Prefill:
        width = max(len(sequence.prompt) for sequence in sequences)
        pads = [width - len(sequence.prompt) for sequence in sequences]
        rows = [[0] * pad + sequence.prompt for pad, sequence in zip(pads, sequences, strict=True)]
        return Prefill(sequences, torch.tensor(rows, device=self._device), BatchCache(self._layers, pads))

    @torch.inference_mode()
    def advance(self, prefill: Prefill) -> list[int] | None:
        width = prefill.ids.shape[1]
        # Several prompts are read in one piece (the scheduler sees to their size): a piece that holds nothing but
        # padding of some row would leave that row's attention without a single key.
        piece = self._prefill_tokens if len(prefill.sequences) == 1 else width
        end = min(width, prefill.done + piece)
        logits = self._forward(prefill.ids[:, prefill.done : end], prefill.cache)
        prefill.done = end
        if end < width:
            return None
        tokens = self._sampler.choose(logits, prefill.sequences)
        self._rows += prefill.sequences
        if self._cache is None:
            self._cache = prefill.cache
        else:
            self._cache.join(prefill.cache)
        return tokens

    @torch.inference_mode()
    def decode(self, sequences: list[Sequence]) -> list[int]:
        if self._cache is None:
            raise RuntimeError("decode without a row")
        last = torch.tensor([[sequence.output[-1]] for sequence in sequences], device=self._device)
        return self._sampler.choose(self._forward(last, self._cache), sequences)

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> None:
        kept = set(rows)
        for row, sequence in enumerate(self._rows):
            if row not in kept:
                self._sampler.forget(sequence.id)
        self._rows = [self._rows[row] for row in rows]
        if not rows:
            self._cache = None
        elif self._cache is not None:
            self._cache.keep(rows)

    def _forward(self, ids: torch.Tensor, cache: BatchCache) -> torch.Tensor:
        """Logits after the last column of `ids`, `[rows, vocabulary]`; `cache` grows by `ids`' columns."""
        start, end = cache.length, cache.length + ids.shape[1]
        pads = torch.tensor(cache.pads, device=self._device).unsqueeze(1)
        columns = torch.arange(end, device=self._device)
        arguments = {
            "input_ids": ids,
            "attention_mask": (columns >= pads).long(),
            "position_ids": (columns[start:] - pads).clamp(min=0),
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        output = self._model(**{name: value for name, value in arguments.items() if name in self._accepts})
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def measure(self) -> int:
        """Bytes of keys and values for one token, found by a forward of two tokens; also warms the model up."""
        cache = BatchCache(self._layers, [0])
        for width in (2, 1):
            self._forward(torch.zeros((1, width), dtype=torch.long, device=self._device), cache)
        return cache.bytes_per_token
