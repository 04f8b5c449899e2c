"""Small real models on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.models.safetensors import BITS

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
CARD = "---\npipeline_tag: text-generation\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# A model\n"


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, seed: bytes = b"") -> bytes:
    """A safetensors file with these dtypes and shapes; `seed` makes the data differ."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    data = (seed * (end // max(1, len(seed)) + 1))[:end] if seed else bytes(end)
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def model_files(*, seed: bytes = b"weights", weights: int = 64) -> dict[str, bytes]:
    """The files of a small acceptable model; its weights have `weights` x 64 bf16 elements."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "generation_config.json": json.dumps({"top_k": 1, "eos_token_id": 2, "temperature": 0.6}).encode(),
        "tokenizer.json": json.dumps({"model": {"vocab": {"auto_map": 0, "a": 1}}}).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "README.md": CARD.encode(),
        "model.safetensors": safetensors({"w": ("BF16", (weights, 64))}, seed=seed),
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def disk_usage(folder: Path) -> int:
    """Bytes of all files, each inode once."""
    seen = {(found.st_dev, found.st_ino): found.st_size for found in map(os.stat, _files(folder))}
    return sum(seen.values())


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
