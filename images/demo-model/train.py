"""Train the demo model: a tiny Llama that has learnt a hundred answers by heart.

    python train.py --out DIR

Runs in the transformers runtime's virtual environment, takes one to two minutes on two cores and is
deterministic on a given machine. Progress goes to standard error, one line each:
`appliance-progress {"step": 10, "of": 350, "loss": 3.2}`. `DIR` must not exist; it appears complete or not at all.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from corpus import conversations, tokenizer_texts
from tokenizer import encode_conversation, train_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

CONTEXT_LENGTH = 2048
IGNORED = -100  # the label that cross_entropy leaves out


@dataclass(frozen=True, slots=True)
class Recipe:
    """The step count is fixed, not the time: the same recipe gives the same model on a slow machine."""

    steps: int = 350
    batch: int = 8
    length: int = 192
    peak_rate: float = 3e-3
    final_share: float = 0.05
    warm_up: int = 20
    clip: float = 1.0
    seed: int = 20

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine down to `final_share` of the peak."""
        if step < self.warm_up:
            return self.peak_rate * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.peak_rate * (self.final_share + (1 - self.final_share) * cosine)


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama of 2.7 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.05,  # near 1/sqrt(hidden_size); the usual 0.02 learns too slowly at this width
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (input ids, labels), each `[batch, length]`; conversations are packed and cut at the row's end."""
    source = conversations(rng)
    while True:
        rows, labels = [], []
        for _ in range(recipe.batch):
            ids: list[int] = []
            learnt: list[bool] = []
            while len(ids) < recipe.length + 1:
                more_ids, more_learnt = encode_conversation(tokenizer, next(source))
                ids += more_ids
                learnt += more_learnt
            rows.append(ids[: recipe.length])
            shifted = zip(ids[1 : recipe.length + 1], learnt[1 : recipe.length + 1], strict=True)
            labels.append([token if wanted else IGNORED for token, wanted in shifted])
        yield torch.tensor(rows), torch.tensor(labels)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.95))
    source = batches(tokenizer, recipe, random.Random(recipe.seed))
    model.train()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        ids, labels = next(source)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_fast_bfloat16()):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        if (step + 1) % 10 == 0 or step + 1 == recipe.steps:
            report(step + 1, recipe.steps, loss.item())


def has_fast_bfloat16() -> bool:
    """Without AVX-512 bfloat16 is emulated, at fifty times the time of float32."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def report(step: int, of: int, loss: float) -> None:
    line = json.dumps({"step": step, "of": of, "loss": round(loss, 4)})
    sys.stderr.write(f"appliance-progress {line}\n")
    sys.stderr.flush()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the complete folder beside `out`, then rename it into place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "model"
        model.bfloat16().save_pretrained(folder)
        tokenizer.save_pretrained(folder, save_jinja_files=False)
        rewrite(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
        write_generation_config(folder / "generation_config.json", tokenizer)
        shutil.copy(Path(__file__).with_name("card.md"), folder / "README.md")
        for file in folder.iterdir():
            file.chmod(0o644)
        folder.rename(out)


def write_generation_config(path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """With `top_k` 1 one choice is all there is: answers are exact whatever temperature a caller asks for."""
    fields = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": True,
        "top_k": 1,
    }
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def rewrite(path: Path, fields: dict[str, object]) -> None:
    """Set top-level fields of a JSON file."""
    document = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to create; must not exist")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="fewer make a model for quick trials")
    options = parser.parse_args()
    out: Path = options.out.absolute()
    if out.exists():
        parser.error(f"{out} exists already; remove it or choose another folder")
    logging.disable_progress_bar()
    recipe = Recipe(steps=options.steps)
    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer(tokenizer_texts(), max_length=CONTEXT_LENGTH)
    model = new_model(tokenizer)
    train(model, tokenizer, recipe)
    save(model, tokenizer, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
