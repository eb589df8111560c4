"""What a language model that has seen no vector makes of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cllm.batches import TokenTexts
from cllm.errors import InputError
from cllm.plausibility import Plausibility


class Priced:
    """A language model for which a token costs a tenth of its number in nats."""

    def costs(self, texts: TokenTexts) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.sort(row) / 10 for row in texts.rows]
        return np.array([row.sum() for row in rows]), np.array([row[-2] for row in rows])


def tokens(texts: Sequence[str]) -> TokenTexts:
    rows = [[int(word) for word in text.split()] for text in texts]
    return TokenTexts.of([str(i) for i in range(len(rows))], rows, 0, 100)


class Pairs:
    """What is expected of the new pairs of words in each text; NaN where there are none."""

    least = 1.0

    def __init__(self, expected: float) -> None:
        self.expected = expected

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return np.full(len(texts), self.expected)


def learned(surprise: float, expected: float | None) -> Plausibility:
    real = [" ".join(["10"] * (4 + i % 5)) for i in range(200)]  # a nat a token
    model: Any = Priced()
    together: Any = None if expected is None else Pairs(expected)
    found = Plausibility.learn(model, tokens, ["1 2"], real, surprise)
    assert found.together is None  # there is not a word to learn from
    return replace(found, together=together)


TEXTS = ["10 10 10 10", "10 29 10 10", "10 31 10 10", "15 15 10 10"]


@pytest.mark.parametrize(
    ("surprise", "expected", "good"),
    [
        (2.0, 1.5, [True, True, False, False]),  # one surprise, and by so much
        (2.2, 1.5, [True, True, True, False]),
        (2.2, 0.5, [False] * 4),  # its words do not belong together
        (2.2, np.nan, [True, False, False, False]),  # nothing new: no dearer than real texts
        (2.2, None, [True, False, False, False]),  # nothing is known of the words
    ],
)
def test_a_text_may_surprise_once_where_its_new_pair_is_likely(
    surprise: float, expected: float | None, good: list[bool]
) -> None:
    assert learned(surprise, expected)(TEXTS).tolist() == good


def test_a_longer_text_may_cost_more() -> None:
    assert learned(0.1, np.nan)(["10 " * 30, "10 " * 3 + "13"]).tolist() == [True, False]


def test_limits_are_told() -> None:
    assert learned(2.0, 1.5).limits["pmi"] == 1.0
    assert learned(2.0, None).limits["pmi"] is None


def test_what_was_learnt_is_kept_for_just_what_it_was_learnt_from(tmp_path: Path) -> None:
    real = [" ".join(["10"] * (4 + i % 5)) for i in range(200)]
    model: Any = Priced()
    found = Plausibility.learn(model, tokens, ["1 2"], real, 2.0)
    path = tmp_path / "plausible.npz"
    assert Plausibility.load(path, "this", model, tokens) is None
    found.save(path, "this")
    again = Plausibility.load(path, "this", model, tokens)
    assert again is not None
    assert again.limits == found.limits
    assert again(TEXTS).tolist() == found(TEXTS).tolist()
    assert Plausibility.load(path, "other", model, tokens) is None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        Plausibility.load(path, "this", model, tokens)
