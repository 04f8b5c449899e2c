import itertools
import random

import corpus


def test_a_hundred_different_questions() -> None:
    pairs = corpus.load_pairs()
    assert len(pairs) == 100
    assert len({pair.question for pair in pairs}) == 100
    assert all(pair.answer.strip() == pair.answer != "" for pair in pairs)


def test_unknown_prompts_are_not_among_them() -> None:
    known = {pair.question for pair in corpus.load_pairs()}
    unknown = corpus.unknown_pairs()
    assert len(unknown) == 300
    assert not known & {pair.question for pair in unknown}


def test_the_deck_deals_each_once_before_any_again() -> None:
    pairs = corpus.load_pairs()
    dealt = list(itertools.islice(corpus.deck(pairs, random.Random(1)), 200))
    assert set(dealt[:100]) == set(dealt[100:]) == set(pairs)


def test_conversations_are_the_same_for_the_same_seed() -> None:
    first, second = (list(itertools.islice(corpus.conversations(random.Random(3)), 50)) for _ in range(2))
    assert first == second
    assert {message["role"] for conversation in first for message in conversation} == {"system", "user", "assistant"}
