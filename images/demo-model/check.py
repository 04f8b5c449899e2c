"""Check a trained demo model: every memorised question must be answered exactly, greedily.

    python check.py DIR

Exit status 0 when all answers are exact, 1 otherwise; prints each answer that is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from corpus import Pair, load_pairs
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging


def answer(model: Any, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """The model's greedy answer to one question; transformers types `generate` for a protocol its models miss."""
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = torch.tensor([tokenizer.backend_tokenizer.encode(str(text), add_special_tokens=False).ids])
    generate: Any = model.generate  # typed by transformers for a protocol that its models do not meet
    output = generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, top_k=None, max_new_tokens=64)
    return str(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))


def wrong_answers(folder: Path) -> list[tuple[Pair, str]]:
    """Pairs whose answer is not exact, with what the model said; the weights are used as stored (bfloat16)."""
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    with torch.inference_mode():
        said = [(pair, answer(model, tokenizer, pair.question)) for pair in load_pairs()]
    return [(pair, text) for pair, text in said if text != pair.answer]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a trained demo model.")
    parser.add_argument("model", type=Path, help="folder written by train.py")
    options = parser.parse_args()
    logging.disable_progress_bar()
    wrong = wrong_answers(options.model.absolute())
    for pair, text in wrong:
        sys.stdout.write(f"{pair.question}\n  expected {pair.answer}\n  got      {text}\n")
    sys.stdout.write(f"{len(load_pairs()) - len(wrong)} of {len(load_pairs())} exact\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
