"""Choice of the next token from logits."""

from __future__ import annotations

import torch

from .sampling import Sampling
from .sequence import Sequence


class Sampler:
    """Chooses for a whole batch; keeps one random generator for each sequence that samples.

    A row's choice depends on its own logits, parameters and generator only, never on its neighbours.
    """

    def __init__(self) -> None:
        self._generators: dict[str, torch.Generator] = {}

    def choose(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
        """The next token of each row of `logits` (`[rows, vocabulary]`)."""
        plain = all(s.sampling.greedy and not s.sampling.penalised for s in sequences)
        if plain:
            greedy: list[int] = logits.argmax(dim=-1).tolist()
            return greedy
        return [self._choose_one(row.float(), s) for row, s in zip(logits, sequences, strict=True)]

    def forget(self, sequence_id: str) -> None:
        self._generators.pop(sequence_id, None)

    def _choose_one(self, logits: torch.Tensor, sequence: Sequence) -> int:
        sampling = sequence.sampling
        if sampling.penalised:
            logits = penalise(logits, sequence)
        if sampling.greedy:
            return int(logits.argmax())
        probabilities = torch.softmax(restrict(logits / sampling.temperature, sampling), dim=-1)
        generator = self._generators.get(sequence.id)
        if generator is None:
            generator = self._generators[sequence.id] = torch.Generator(device=logits.device)
            if sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sampling.seed)
        return int(torch.multinomial(probabilities, 1, generator=generator))


def penalise(logits: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """A copy of `logits` with the three penalties applied.

    Repetition (Keskar et al. 2019, CTRL): logits of tokens seen in prompt or answer are divided by the penalty when
    positive and multiplied when negative. Presence and frequency: OpenAI's formula, over the answer only.
    """
    sampling, logits = sequence.sampling, logits.clone()
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor([*sequence.prompt, *sequence.output], device=logits.device).unique()
        scores = logits[seen]
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    if sequence.output and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = torch.tensor(sequence.output, device=logits.device).unique(return_counts=True)
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return logits


def restrict(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """`logits` with minus infinity where top-k, top-p or min-p excludes a token, applied in this order."""
    if 0 < sampling.top_k < logits.numel():
        least = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p < 1.0:
        ordered, indices = logits.sort(descending=True)
        before = torch.softmax(ordered, dim=-1).cumsum(dim=-1).roll(1)
        before[0] = 0.0  # the most likely token always stays
        logits = logits.masked_fill(
            torch.zeros_like(logits, dtype=torch.bool).scatter(0, indices, before >= sampling.top_p), float("-inf")
        )
    if sampling.min_p > 0.0:
        probabilities = torch.softmax(logits, dim=-1)
        logits = logits.masked_fill(probabilities < sampling.min_p * probabilities.max(), float("-inf"))
    return logits
