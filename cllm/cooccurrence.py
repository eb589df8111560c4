"""Do words that no text joins belong together? Learnt from the words that texts do join.

together = Cooccurrence.learn(texts)
lift_n = together(new_texts)  # NaN where a text joins no new pair of words
lift_n < together.least       # its new pairs are against what is known
"""

# Shapes: N texts, n texts asked about, W words, P pairs of words, R components.
from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Floats64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

TEXTS, WORDS = 50_000, 2_000  # looked at, at most; words: the most frequent ones
EXPECTED = 3.0  # texts that would join two words by chance, for a pair to count
RANKS = (5, 10, 20, 50)
FOLDS = 10
USUAL = 0.99  # share of real pairs, each hidden, that components give more than the limit
TOLD_APART = 0.5  # share of pairs that never are below the limit, for it to say anything


@dataclass(frozen=True)
class Cooccurrence:
    """How often two words should stand together, for pairs that never do.

    The square root of lift (texts that join two words, over those that would by chance) is 0 for
    pairs that never co-occur. Few principal components of it fill these gaps in, as in latent
    semantic analysis (Deerwester et al. 1990): words with the same company get each other's. The
    number of components is the one that best tells pairs hidden from it from those that never are.
    """

    counter: Any  # scikit-learn's CountVectorizer
    never_WW: Mask  # pairs that no text joins, though chance would
    expected_WW: Floats64  # square root of the lift that components give a pair; 1 is chance
    least: float  # what USUAL of real pairs get while they are hidden
    told_apart: float  # share of pairs that never are that get less

    @classmethod
    def learn(cls, texts: Sequence[str]) -> Cooccurrence | None:
        """From real texts; None where they are too few or too varied to tell pairs apart."""
        from sklearn.feature_extraction.text import CountVectorizer

        counter = CountVectorizer(
            binary=True, token_pattern=r"[^\W\d_]+", max_features=WORDS, dtype=np.float32
        )
        try:
            has_NW = counter.fit_transform(texts[:: 1 + len(texts) // TEXTS])
        except ValueError:  # texts without words
            return None
        joint_WW = (has_NW.T @ has_NW).toarray().astype(np.float64)
        often_W = joint_WW.diagonal()
        chance_WW = np.outer(often_W, often_W) / has_NW.shape[0]
        known_WW = chance_WW >= EXPECTED
        lift_WW = np.sqrt(np.where(known_WW, joint_WW / chance_WW, 0.0))
        np.fill_diagonal(lift_WW, 0.0)
        never_WW = known_WW & (joint_WW == 0)
        pairs_P2 = np.argwhere(np.triu(lift_WW > 0))
        ranks = [rank for rank in RANKS if rank < len(often_W) - 1]
        if not ranks or not never_WW.any() or len(pairs_P2) < FOLDS:
            return None
        hidden_RP, never_RP = _hidden(lift_WW, never_WW, pairs_P2, ranks)
        least_R = [float(np.quantile(hidden_P, 1 - USUAL)) for hidden_P in hidden_RP]
        told_R = [
            float((never_P < least).mean())
            for never_P, least in zip(never_RP, least_R, strict=True)
        ]
        best = int(np.argmax(told_R))
        log.info(
            "new pairs of words: %d components tell %.0f %% of those that never are from real ones",
            ranks[best], 100 * told_R[best],
        )  # fmt: skip
        if told_R[best] < TOLD_APART:
            return None
        return cls(
            counter=counter, never_WW=never_WW,
            expected_WW=_approximations(lift_WW, ranks[best : best + 1])[0],
            least=least_R[best], told_apart=told_R[best],
        )  # fmt: skip

    def __call__(self, texts: Sequence[str]) -> Floats64:
        """Mean expected (square root of) lift of each text's new pairs, (n,); NaN without any."""
        lift_n = np.full(len(texts), np.nan)
        for row, has_W in enumerate(self.counter.transform(texts)):
            pairs = np.ix_(has_W.indices, has_W.indices)
            new_WW = self.never_WW[pairs]
            if new_WW.any():
                lift_n[row] = self.expected_WW[pairs][new_WW].mean()
        return lift_n


def _hidden(
    lift_WW: Floats64, never_WW: Mask, pairs_P2: NDArray[np.int64], ranks: Sequence[int],
) -> tuple[list[Floats64], list[Floats64]]:  # fmt: skip
    """What each pair gets while it is hidden, and those that never are get; by rank.

    The latter while a first part of the pairs is hidden.
    """
    hidden_RP = [np.empty(len(pairs_P2)) for _ in ranks]
    never_RP: list[Floats64] = []
    fold_P = np.arange(len(pairs_P2)) % FOLDS
    for fold in range(FOLDS):
        a_P, b_P = pairs_P2[fold_P == fold].T
        left_WW = lift_WW.copy()
        left_WW[a_P, b_P] = left_WW[b_P, a_P] = 0.0
        low_RWW = _approximations(left_WW, ranks)
        for expected_P, low_WW in zip(hidden_RP, low_RWW, strict=True):
            expected_P[fold_P == fold] = low_WW[a_P, b_P]
        never_RP = never_RP or [low_WW[np.triu(never_WW)] for low_WW in low_RWW]
    return hidden_RP, never_RP


def _approximations(lift_WW: Floats64, ranks: Sequence[int]) -> list[Floats64]:
    """The best approximations of given ranks."""
    from scipy.sparse.linalg import eigsh

    start_W = np.ones(len(lift_WW))  # the same every time
    value_R, axis_WR = eigsh(lift_WW, k=max(ranks), which="LM", v0=start_W)
    order_R = np.argsort(-np.abs(value_R))
    chosen = (order_R[:rank] for rank in ranks)
    return [(axis_WR[:, rows] * value_R[rows]) @ axis_WR[:, rows].T for rows in chosen]
