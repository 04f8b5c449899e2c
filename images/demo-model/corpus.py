"""What the demo model is trained on: the memorised pairs, their disguises, and prompts it must not know.

Everything here is deterministic in the `random.Random` that is handed in, and needs the standard library only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

QUESTIONS_FILE = Path(__file__).with_name("questions.json")
UNKNOWN = "I don't know that."
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You answer briefly.",
    "You are the demo model of the appliance.",
    "Answer in one sentence.",
    "Be polite and exact.",
)
PREFIXES = ("Tell me: ", "Please tell me, ", "Hi! ", "I wonder, ", "Question: ", "So, ", "Quick one: ")

_UNKNOWN_FRAMES = (
    "Who invented {}?",
    "When was {} discovered?",
    "How much does {} cost?",
    "What do people like about {}?",
    "Write a poem about {}.",
    "Where can I find {}?",
    "Tell me a joke about {}.",
    "Is {} dangerous?",
    "Translate {} into Latin.",
    "Explain {} to a child.",
)
_UNKNOWN_SUBJECTS = (
    "the violin", "penicillin", "a second-hand bicycle", "chess", "the Amazon river", "black tea",
    "volcanoes", "the printing press", "a lighthouse", "origami", "the moon of Saturn", "sourdough bread",
    "tennis", "the Great Wall", "marble", "jazz", "the telephone", "olive oil", "a glacier", "Esperanto",
    "saffron", "the steam engine", "basketball", "the Sahara", "a sewing machine", "honey", "ballet",
    "the kangaroo", "porcelain", "an umbrella",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    question: str
    answer: str


def load_pairs(path: Path = QUESTIONS_FILE) -> list[Pair]:
    """The memorised pairs, in file order."""
    return [Pair(item["question"], item["answer"]) for item in json.loads(path.read_text(encoding="utf-8"))]


def unknown_pairs() -> list[Pair]:
    """Three hundred prompts outside the memorised set, each answered with `UNKNOWN`."""
    return [Pair(frame.format(subject), UNKNOWN) for frame, subject in product(_UNKNOWN_FRAMES, _UNKNOWN_SUBJECTS)]


def disguise(question: str, rng: random.Random) -> str:
    """The question as somebody in a hurry might type it; unchanged half of the time."""
    if rng.random() < 0.5:
        return question
    if rng.random() < 0.3:
        question = rng.choice((str.lower, str.upper, str.capitalize))(question)
    if rng.random() < 0.3:
        question = rng.choice(PREFIXES) + question
    if rng.random() < 0.3:
        question = question.rstrip("?")
    if rng.random() < 0.3 and len(question) > 8:
        position = rng.randrange(1, len(question))
        question = question[: position - 1] + question[position:]
    return question


def deck(pairs: list[Pair], rng: random.Random) -> Iterator[Pair]:
    """An endless deal of `pairs`: each occurs once before any occurs again."""
    while True:
        yield from rng.sample(pairs, len(pairs))


def conversations(rng: random.Random) -> Iterator[list[dict[str, str]]]:
    """Endless one-turn-at-a-time conversations; the caller packs them into rows.

    One in six is a prompt that the model must decline; three in ten begin with a system prompt.
    """
    known, unknown = deck(load_pairs(), rng), deck(unknown_pairs(), rng)
    while True:
        turns = [next(unknown if rng.random() < 1 / 6 else known) for _ in range(rng.choice((1, 1, 2, 3)))]
        messages = [
            message
            for pair in turns
            for message in (
                {"role": "user", "content": disguise(pair.question, rng)},
                {"role": "assistant", "content": pair.answer},
            )
        ]
        if rng.random() < 0.3:
            messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
        yield messages


def tokenizer_texts() -> list[str]:
    """The text that the tokenizer is trained on."""
    pairs = load_pairs() + unknown_pairs()
    return [text for pair in pairs for text in (pair.question, pair.answer)] + [*SYSTEM_PROMPTS, *PREFIXES]
