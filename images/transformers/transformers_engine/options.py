"""The command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`None` means: decide from the model and the machine."""

    model: Path
    served_model_name: str
    uds: Path | None
    host: str
    port: int | None
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    max_concurrency: int
    max_model_len: int | None
    max_prefill_tokens: int
    kv_cache_memory_bytes: int | None
    threads: int | None
    batching: bool
    shutdown_timeout: int


def parse_options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="transformers_engine", description="Serve one model folder over an OpenAI-compatible HTTP API."
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder with config.json, tokenizer.json and *.safetensors")
    add("--served-model-name", help="name that requests use; default: the folder's name")
    add("--uds", type=Path, help="listen on this unix socket; a stale one is replaced")
    add("--host", default="127.0.0.1", help="address to listen on with --port (default: %(default)s)")
    add("--port", type=_positive, help="TCP port, where --uds is not given")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes devices if there are any")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: the checkpoint's")
    add("--max-concurrency", type=_positive, default=32, help="sequences in the batch (default: %(default)s)")
    add("--max-model-len", type=_positive, help="longest prompt and answer together; default: the model's own")
    add("--max-prefill-tokens", type=_positive, default=2048, help="prompt tokens read between two decode steps")
    add("--kv-cache-memory-bytes", type=_positive, help="default: most of the free memory, on a CPU 1 GiB")
    add("--threads", type=_positive, help="CPU threads; default: the cores this process may use")
    add("--batching", action=argparse.BooleanOptionalAction, default=True, help="run requests together")
    add("--shutdown-timeout", type=int, default=30, help="seconds for running requests after SIGTERM")
    values = vars(parser.parse_args(arguments))
    if (values["uds"] is None) == (values["port"] is None):
        parser.error("give either --uds or --port")
    values["model"] = values["model"].absolute()
    values["served_model_name"] = values["served_model_name"] or values["model"].name
    return Options(**values)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
