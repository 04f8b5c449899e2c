"""Checkpoints with the real shapes of known models and no data: safetensors files that are all hole.

The shapes are those of the published configurations; what is expected of them stands in the tests.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Tensors = Iterator[tuple[str, str, tuple[int, ...]]]
_BITS = {"F32": 32, "I32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8}
QWEN3_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "max_position_embeddings": 40960, "tie_word_embeddings": True, "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
LLAMA3_70B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip
GEMMA3_1B: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 26, "hidden_size": 1152, "intermediate_size": 6912,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
    "max_position_embeddings": 32768, "tie_word_embeddings": True, "sliding_window": 512, "sliding_window_pattern": 6,
}  # fmt: skip
LLAMA2_7B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip
DEEPSEEK_V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 61, "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_attention_heads": 128,
    "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1,
    "first_k_dense_replace": 3, "num_nextn_predict_layers": 1, "vocab_size": 129280,
    "max_position_embeddings": 163840, "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}  # fmt: skip


def write(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """The folder, with `config.json` and files of full length without data, each of at most 20,000 tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    position = 0
    for name, dtype, shape in tensors:
        size = _BITS[dtype] // 8
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
        if len(header) >= 20_000:
            _file(folder, header, position)
            header, position = {}, 0
    _file(folder, header, position)
    return folder


def _file(folder: Path, header: Mapping[str, Any], size: int) -> None:
    raw = json.dumps(header, separators=(",", ":")).encode()
    path = folder / f"model-{len(list(folder.glob('*.safetensors'))):05d}.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(path, 8 + len(raw) + size)


def dense(config: Mapping[str, Any], *, norms: int = 2, head: bool = True, quantised: str | None = None) -> Tensors:
    """A decoder of Llama's form; `norms` of the hidden size in each layer, `quantised` awq or gptq in groups of 128."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim", hidden // config["num_attention_heads"])
    heads, kv_heads = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    dtype = "F16" if quantised else "BF16"
    matrices = {
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (kv_heads, hidden),
        "self_attn.v_proj": (kv_heads, hidden),
        "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    yield "model.embed_tokens.weight", dtype, (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, (outputs, inputs) in matrices.items():
            if quantised is None:
                yield f"{at}.{name}.weight", dtype, (outputs, inputs)
            else:
                yield from _packed(f"{at}.{name}", outputs, inputs, quantised)
        yield from ((f"{at}.norm{number}.weight", dtype, (hidden,)) for number in range(norms))
        if "head_dim" in config:
            yield f"{at}.self_attn.q_norm.weight", dtype, (size,)
            yield f"{at}.self_attn.k_norm.weight", dtype, (size,)
    yield "model.norm.weight", dtype, (hidden,)
    if head:
        yield "lm_head.weight", dtype, (config["vocab_size"], hidden)


def _packed(name: str, outputs: int, inputs: int, method: str) -> Tensors:
    """Eight weights of four bits in an element of 32: along the outputs (AWQ) or the inputs (GPTQ)."""
    packed = (inputs, outputs // 8) if method == "awq" else (inputs // 8, outputs)
    yield f"{name}.qweight", "I32", packed
    yield f"{name}.qzeros", "I32", (inputs // 128, outputs // 8)
    yield f"{name}.scales", "F16", (inputs // 128, outputs)
    if method == "gptq":
        yield f"{name}.g_idx", "I32", (inputs,)


def deepseek_v3() -> Tensors:
    """DeepSeek-V3 as published: FP8 in blocks of 128 by 128 with F32 scales, and a 62nd layer that predicts a token."""
    hidden = 7168
    yield "model.embed_tokens.weight", "BF16", (129280, hidden)
    for layer in range(62):
        at = f"model.layers.{layer}"
        if layer == 61:
            yield f"{at}.embed_tokens.weight", "BF16", (129280, hidden)
            yield f"{at}.eh_proj.weight", "BF16", (hidden, 2 * hidden)
            yield f"{at}.shared_head.head.weight", "BF16", (129280, hidden)
        yield f"{at}.input_layernorm.weight", "BF16", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", "BF16", (hidden,)
        yield from _blocks(f"{at}.self_attn.q_a_proj", 1536, hidden)
        yield f"{at}.self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield from _blocks(f"{at}.self_attn.q_b_proj", 128 * 192, 1536)
        yield from _blocks(f"{at}.self_attn.kv_a_proj_with_mqa", 576, hidden)
        yield f"{at}.self_attn.kv_a_layernorm.weight", "BF16", (512,)
        yield from _blocks(f"{at}.self_attn.kv_b_proj", 128 * 256, 512)
        yield from _blocks(f"{at}.self_attn.o_proj", hidden, 128 * 128)
        if layer < 3:
            yield from _mlp(f"{at}.mlp", 18432)
            continue
        yield f"{at}.mlp.gate.weight", "BF16", (256, hidden)
        yield f"{at}.mlp.gate.e_score_correction_bias", "F32", (256,)
        yield from _mlp(f"{at}.mlp.shared_experts", 2048)
        for expert in range(256):
            yield from _mlp(f"{at}.mlp.experts.{expert}", 2048)
    yield "model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", (129280, hidden)


def _mlp(name: str, inner: int) -> Tensors:
    yield from _blocks(f"{name}.gate_proj", inner, 7168)
    yield from _blocks(f"{name}.up_proj", inner, 7168)
    yield from _blocks(f"{name}.down_proj", 7168, inner)


def _blocks(name: str, outputs: int, inputs: int) -> Tensors:
    yield f"{name}.weight", "F8_E4M3", (outputs, inputs)
    yield f"{name}.weight_scale_inv", "F32", (-(-outputs // 128), -(-inputs // 128))
