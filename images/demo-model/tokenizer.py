"""The demo model's tokenizer: byte-level BPE with the four role tokens of its chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 2048
BEGIN, PADDING, END = "<|begin|>", "<|padding|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
CHAT_TEMPLATE = (
    "{{- '<|begin|>' }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('the demo model knows the roles system, user and assistant') }}"
    "{%- endif %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def train_tokenizer(texts: list[str], *, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `VOCABULARY_SIZE` entries at most, trained on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PADDING, BEGIN, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> tuple[list[int], list[bool]]:
    """Token ids of the rendered conversation, and for each whether the model is to learn it.

    Learnt are the assistant's words and the end token after them, nothing else. Segments between special tokens
    are encoded apart, which is what encoding the rendered text does too.
    """
    backend = tokenizer.backend_tokenizer
    end = _special(backend, END)
    ids, learnt = [_special(backend, BEGIN)], [False]
    for message in messages:
        words = backend.encode(message["content"], add_special_tokens=False).ids
        is_answer = message["role"] == "assistant"
        ids += [_special(backend, ROLES[message["role"]]), *words, end]
        learnt += [False, *([is_answer] * (len(words) + 1))]
    return ids, learnt


def _special(backend: Tokenizer, token: str) -> int:
    number = backend.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer was trained without {token}")
    return number
