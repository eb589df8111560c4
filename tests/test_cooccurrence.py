"""Pairs of words that no text joins, told apart by the company the words keep."""

from __future__ import annotations

import numpy as np
import pytest

from cllm.cooccurrence import Cooccurrence

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


def learned(texts: int = 3000) -> Cooccurrence:
    rng = np.random.default_rng(1)
    found = Cooccurrence.learn([text(rng) for _ in range(texts)], rng)
    assert found is not None
    return found


def test_a_new_pair_is_likely_where_the_words_keep_the_same_company() -> None:
    together = learned()
    likely, unlikely, none = together(
        ["sweetdisha sweetpartb uuu", "sweetdisha saltypartb uuu", "sweetdisha sweetpartc uuu"]
    )
    assert likely > 1  # three kinds: three times chance
    assert likely >= together.least > unlikely
    assert np.isnan(none)
    assert together.told_apart > 0.8


def test_real_texts_have_no_pair_against_what_is_known() -> None:
    rng = np.random.default_rng(5)
    lift = learned()([text(rng) for _ in range(300)])
    assert np.mean(lift < learned().least) == 0


@pytest.mark.parametrize("texts", [[], ["one text"], ["12 34"] * 50, ["a b c d"] * 50])
def test_too_little_to_learn_from_is_told_by_none(texts: list[str]) -> None:
    assert Cooccurrence.learn(texts, np.random.default_rng(0)) is None
