"""From options to a service that answers.

Importing this module imports torch and transformers, which takes seconds; the HTTP side is up before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .chat import Prompts
from .cpus import usable_cpus
from .engine import Engine
from .generation import ModelFacts
from .loading import Loaded, UnsupportedModel, load
from .metrics import Metrics
from .options import Options
from .phases import report
from .runner import ModelRunner
from .sampling import model_defaults
from .scheduler import Bounds, Scheduler
from .service import ModelService

logger = logging.getLogger(__name__)
CPU_KV_BYTES = 1024**3
DEVICE_KV_SHARE = 0.85
"""Of the memory that is free after loading; the rest is for activations and fragmentation."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """`kv_tokens`: how many tokens' keys and values there is memory for."""

    loaded: Loaded
    runner: ModelRunner
    kv_tokens: int


def prepare(options: Options) -> Prepared:
    """Load the model and warm it up.

    Blocks for as long as it takes. Raises `UnsupportedModel`, or what torch and transformers raise for a damaged
    folder.
    """
    if options.threads is not None or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(options.threads or usable_cpus())
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load(options.model, device=device, dtype=options.dtype)
    report("warming_up")
    runner = ModelRunner(loaded.model, prefill_tokens=options.max_prefill_tokens)
    return Prepared(loaded, runner, kv_bytes(options, device) // runner.measure())


def kv_bytes(options: Options, device: str) -> int:
    """Memory for keys and values, summed over devices."""
    if options.kv_cache_memory_bytes is not None:
        return options.kv_cache_memory_bytes
    if device == "cpu":
        return CPU_KV_BYTES
    free = sum(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))
    return int(free * DEVICE_KV_SHARE)


def context_length(options: Options, prepared: Prepared) -> int:
    """Longest prompt and answer together; raises `UnsupportedModel` when asked for more than there can be."""
    bounds = {"memory for keys and values": prepared.kv_tokens}
    if prepared.loaded.context is not None:
        bounds["the model's own context"] = prepared.loaded.context
    asked = options.max_model_len
    if asked is None:
        return min(bounds.values())
    for name, bound in bounds.items():
        if asked > bound:
            raise UnsupportedModel(f"--max-model-len {asked} is more than {name} allows: {bound}")
    return asked


def serve(options: Options, prepared: Prepared, *, metrics: Metrics, on_death: Callable[[], None]) -> ModelService:
    """Start the engine's thread; called on the event loop that consumes its results."""
    bounds = Bounds(
        concurrency=options.max_concurrency if options.batching else 1,
        prefill_tokens=options.max_prefill_tokens,
        kv_tokens=prepared.kv_tokens,
    )
    loaded = prepared.loaded
    facts = ModelFacts(
        name=options.served_model_name,
        max_model_len=context_length(options, prepared),
        vocabulary=loaded.vocabulary,
        end_tokens=loaded.end_tokens,
        sampling=model_defaults(options.model),
    )
    logger.info("serving %s: context %d tokens, %s", facts.name, facts.max_model_len, bounds)
    engine = Engine(Scheduler(prepared.runner, bounds), metrics, on_death=on_death)
    return ModelService(facts=facts, prompts=Prompts(loaded.tokenizer), engine=engine)
