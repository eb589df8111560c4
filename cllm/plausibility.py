"""Which texts are worth writing: those that surprise a language model at most once.

A language model that has seen the training texts only, and no vector, finds what is new dearer
than what is not; what is dear in more than one place is nonsense, or against all it knows.

    plausible = Plausibility.learn(reference, model.tokens, held_out_texts)
    plausible(texts)
"""

# Shapes: n texts, M held-out texts.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cllm.batches import TokenTexts
from cllm.reference import ReferenceLM

Tokens = Callable[[Sequence[str]], TokenTexts]
SURPRISE = 2.25  # nats that a text may cost above what 99 % of held-out ones do
REAL = 0.99  # share of held-out texts within the limits, less what SURPRISE adds


@dataclass(frozen=True)
class Plausibility:
    """Limits on what a text and its second most surprising token cost, set on held-out texts."""

    reference: ReferenceLM
    tokens: Tokens
    a_token: float  # nats that held-out texts cost more for each token of theirs
    limit: float  # nats, of a text without tokens
    limit_second: float  # nats

    @classmethod
    def learn(
        cls,
        reference: ReferenceLM,
        tokens: Tokens,
        held_out_texts: Sequence[str],
        surprise: float = SURPRISE,
    ) -> Plausibility:
        """`surprise`: nats allowed above the limit of held-out texts."""
        texts = tokens(held_out_texts)
        nats_M, second_M = reference.costs(texts)
        tokens_M = _lengths(texts)
        a_token = float(np.polyfit(tokens_M, nats_M, 1)[0]) if np.ptp(tokens_M) else 0.0
        limit = float(np.quantile(nats_M - a_token * tokens_M, REAL)) + surprise
        return cls(reference, tokens, a_token, limit, float(np.quantile(second_M, REAL)))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which texts are plausible, (n,)."""
        known = self.tokens(texts)
        nats_n, second_n = self.reference.costs(known)
        within_n = nats_n - self.a_token * _lengths(known) <= self.limit
        return np.asarray(within_n & (second_n <= self.limit_second))


def _lengths(texts: TokenTexts) -> NDArray[np.float64]:
    return np.array([len(row) for row in texts.rows], dtype=float)
