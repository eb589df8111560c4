"""Pairs of words that no text joins, told apart by the company the words keep."""

from __future__ import annotations

import numpy as np
import pytest

from cllm import cooccurrence
from cllm.cooccurrence import Cooccurrence
from cllm.corpus import built_in_corpus
from cllm.recipes import combination
from cllm.recipes.grammar import Grammar

KINDS = ("sweet", "salty", "sour")


def text(rng: np.random.Generator) -> str:
    """A dish, a part of its kind, and two words that go with everything."""
    kind = rng.choice(KINDS)
    dish, part = rng.choice(list("abcdefgh"), 2)
    if (kind, dish) == ("sweet", "a") and part == "b":
        part = "c"
    return (
        f"{kind}dish{dish} {kind}part{part} any{rng.integers(6)} {rng.choice(list('uvwxyz')) * 3}"
    )


def learned() -> Cooccurrence:
    rng = np.random.default_rng(1)
    found = Cooccurrence.learn([text(rng) for _ in range(3000)])
    assert found is not None
    return found


def test_a_new_pair_is_likely_where_the_words_keep_the_same_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cooccurrence, "RANKS", (4, 6))  # sixty words, of three kinds
    together = learned()
    likely, unlikely, none = together(
        ["sweetdisha sweetpartb uuu", "sweetdisha saltypartb uuu", "sweetdisha sweetpartc uuu"]
    )
    assert likely > unlikely + 1  # natural logarithms
    assert likely >= together.least > unlikely
    assert np.isnan(none)

    again = Cooccurrence.of_arrays(together.arrays)
    asked = ["sweetdisha sweetpartb uuu", "sweetdisha saltypartb uuu", "sweetdisha sweetpartc uuu"]
    np.testing.assert_array_equal(again(asked), together(asked))
    assert again.least == together.least


def test_a_withheld_combination_is_likelier_than_a_forbidden_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cooccurrence, "COPIES", 3000)
    train = built_in_corpus("plain", 5000, 0).select("train")
    grammar, rng = Grammar("plain"), np.random.default_rng(3)
    together = Cooccurrence.learn(train.texts)
    assert together is not None
    withheld = [grammar.sample(rng, withheld=True) for _ in range(200)]
    passed = together(withheld) >= together.least
    seen = {pair for each in train.texts if (pair := combination(each))}
    mains = sorted({main for _, main in seen})
    pairs = {(dish, main) for dish, _ in seen for main in mains} - seen - grammar.withheld
    forbidden = []
    for each in withheld:
        found = combination(each)
        assert found is not None
        others = [main for main in mains if (found[0], main) in pairs]
        forbidden.append(each.replace(found[1], others[int(rng.integers(len(others)))]))
    assert passed.mean() > 1.5 * (together(forbidden) >= together.least).mean()
    assert np.isnan(together(train.texts[:100])).all()


def test_words_that_meet_by_chance_are_told_apart_by_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    chance = np.arange(1, 151) ** -0.7
    texts = [
        " ".join(f"{chr(97 + w % 26)}{chr(97 + w // 26)}x" for w in row)
        for row in (rng.choice(150, 8, False, chance / chance.sum()) for _ in range(2000))
    ]
    assert Cooccurrence.learn(texts) is None
    monkeypatch.setattr(cooccurrence, "GRANTED", 0.0)  # it is this that says so
    assert Cooccurrence.learn(texts) is not None


@pytest.mark.parametrize("seed", [43, 44, 45])
def test_small_corpora_are_no_failure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = [f"{chr(97 + w % 26)}{chr(97 + w // 26)}x" for w in range(46)]
    Cooccurrence.learn([" ".join(rng.choice(words, 5, replace=False)) for _ in range(161)])


@pytest.mark.parametrize("texts", [[], ["one text"], ["12 34"] * 50, ["a b c d"] * 50])
def test_too_little_to_learn_from_is_told_by_none(texts: list[str]) -> None:
    assert Cooccurrence.learn(texts) is None
