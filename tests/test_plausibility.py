"""What a language model that has seen no vector makes of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cllm.batches import TokenTexts
from cllm.plausibility import Plausibility


class Priced:
    """A language model for which a token costs a tenth of its number in nats."""

    def costs(self, texts: TokenTexts) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.sort(row) / 10 for row in texts.rows]
        return np.array([row.sum() for row in rows]), np.array([row[-2] for row in rows])


def tokens(texts: Sequence[str]) -> TokenTexts:
    rows = [[int(word) for word in text.split()] for text in texts]
    return TokenTexts.of([str(i) for i in range(len(rows))], rows, 0, 100)


def learned(surprise: float) -> Plausibility:
    real = [" ".join(["10"] * (4 + i % 5)) for i in range(200)]  # a nat a token
    model: Any = Priced()
    return Plausibility.learn(model, tokens, [], real, np.random.default_rng(0), surprise)


def test_a_text_may_surprise_once_and_by_so_much() -> None:
    texts = ["10 10 10 10", "10 29 10 10", "10 31 10 10", "15 15 10 10"]
    assert learned(2.0)(texts).tolist() == [True, True, False, False]
    assert learned(2.2)(texts).tolist() == [True, True, True, False]


def test_a_longer_text_may_cost_more() -> None:
    assert learned(0.1)(["10 " * 30, "10 " * 3 + "13"]).tolist() == [True, False]
