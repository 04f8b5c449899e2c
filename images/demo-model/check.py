"""Check a trained demo model: every memorised question must be answered exactly, greedily.

    python check.py DIR

Exit status 0 when all answers are exact, 1 otherwise; prints each answer that is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from corpus import Pair, load_pairs
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging


def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """The model's greedy answer to one question."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, do_sample=False, top_k=None, max_new_tokens=64)
    text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(text)


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
