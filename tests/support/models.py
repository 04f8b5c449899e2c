"""Small model folders that pass every check; nothing can be inferred with them."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def write_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of a few hundred bytes; another `seed` gives other content."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 16,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    data = bytes([seed % 256]) * (16 * 8 * 2)
    header = json.dumps(
        {"model.embed_tokens.weight": {"dtype": "BF16", "shape": [16, 8], "data_offsets": [0, len(data)]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return folder
