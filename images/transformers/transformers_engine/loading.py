"""A model folder to a model, a tokenizer and the facts about them.

Only safetensors weights are read, and no code from the folder ever runs. Progress is reported as phase lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from .phases import report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCHABLE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
PROGRESS_INTERVAL = 0.5
"""Seconds."""


class UnsupportedModel(Exception):
    """This engine cannot serve the folder; the message says why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def context(self) -> int | None:
        """Longest context the model was made for, where its configuration tells."""
        length = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return int(length) if length else None

    @property
    def vocabulary(self) -> int:
        return int(next(self.model.get_input_embeddings().parameters()).shape[0])

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer: those of generation_config.json and the tokenizer's own."""
        configured = self.model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        return frozenset(end for end in (*ends, self.tokenizer.eos_token_id) if end is not None)


def load(folder: Path, *, device: str, dtype: str) -> Loaded:
    """Read the folder; raises `UnsupportedModel` for what this engine cannot serve.

    `device` is "cpu" or "cuda", which takes all visible devices; `dtype` a key of `DTYPES`, or "auto" for the
    checkpoint's own.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _check_supported(config, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModel("the tokenizer has no tokenizer.json and cannot be converted to one")
    spread = device == "cuda" and torch.cuda.device_count() > 1  # takes accelerate, which costs a second to import
    with _reported_progress(sum(file.stat().st_size for file in folder.glob("*.safetensors"))):
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES.get(dtype, "auto"),
            device_map="auto" if spread else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    _check_placed(model)
    if not spread:
        torch.nn.Module.to(model, device)
    return Loaded(model.eval().requires_grad_(requires_grad=False), tokenizer)


def _check_supported(config: Any, folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise UnsupportedModel("the folder has no .safetensors file; other weight formats are not read")
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel("the model is quantised; use a runtime of high-performance mode")
    text = config.get_text_config(decoder=True)
    other = set(getattr(text, "layer_types", None) or ()) - BATCHABLE_LAYERS
    if other or getattr(config, "is_encoder_decoder", False):
        kind = ", ".join(sorted(other)) or "encoder-decoder"
        raise UnsupportedModel(f"models with {kind} layers are not supported; decoders with attention layers are")


def _check_placed(model: PreTrainedModel) -> None:
    """All weights on devices: spilling to memory or disk would be slower by orders of magnitude, silently."""
    places = set(getattr(model, "hf_device_map", {}).values())
    if places & {"cpu", "disk"}:
        raise UnsupportedModel("the model does not fit the memory of the visible devices")


@contextmanager
def _reported_progress(total_bytes: int) -> Iterator[None]:
    """Turn transformers' own progress bar over tensors into phase lines, scaled to the files' size."""
    report("loading_weights", done_bytes=0, total_bytes=total_bytes)

    def hook(_: Callable[..., Any], args: tuple[Any, ...], __: dict[str, Any]) -> Iterable[Any]:
        return _counted(args[0], total_bytes)

    previous = transformers_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
    report("loading_weights", done_bytes=total_bytes, total_bytes=total_bytes)


def _counted(items: Iterable[Any], total_bytes: int) -> Iterator[Any]:
    count = len(items) if isinstance(items, Sized) else 0
    reported = time.monotonic()
    for done, item in enumerate(items):
        if count and time.monotonic() - reported >= PROGRESS_INTERVAL:
            reported = time.monotonic()
            report("loading_weights", done_bytes=total_bytes * done // count, total_bytes=total_bytes)
        yield item
