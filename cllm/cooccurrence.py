"""Do words that no text joins belong together? Learnt from the words that texts do join.

together = Cooccurrence.learn(texts)
lift_n = together(new_texts)  # NaN where a text joins no new pair of words
lift_n < together.least       # its new pairs are against what is known
"""

# Shapes: N texts, n texts asked about, W words, P pairs of words, R ranks.
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.swaps import SwapTable

log = logging.getLogger(__name__)

Floats64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

TEXTS, WORDS = 50_000, 2_000  # looked at, at most; words: the most frequent ones
EXPECTED = 3.0  # texts that would join two words by chance, for a pair to count
RANKS = (20, 30, 40, 50)  # numbers of components, averaged over: nothing hangs on one of them
COPIES = 8_000  # of real texts with a word swapped, which set the limit
PASS = 0.15  # share of them that may pass
OPENING = 8  # words that name a text's subject: pairs of them are hidden
RARE = 0.02  # of all texts join a pair that is hidden, at most
FOLDS, HIDDEN = 4, 0.15  # times pairs are hidden, until that share of texts is gone
GRANTED = 0.3  # share of texts of hidden pairs that must pass, for it to say anything


@dataclass(frozen=True)
class Cooccurrence:
    """How often two words should stand together, for pairs that never do.

    Lift: texts that join two words, over those that would by chance. Few principal components of
    its logarithm fill in what the corpus leaves open, as in latent semantic analysis (Deerwester
    et al. 1990): words that keep the same company get each other's. The limit is set on copies of
    real texts with a word swapped, most of which are wrong.
    """

    counter: Any  # scikit-learn's CountVectorizer
    never_WW: Mask  # pairs that no text joins, though chance would
    expected_WW: Floats64  # logarithm of the lift that components give a pair
    least: float  # what PASS of the copies have more than
    granted: float  # share of real texts that have more, where their pairs are hidden from it

    @classmethod
    def learn(cls, texts: Sequence[str]) -> Cooccurrence | None:
        """From real texts; None where it cannot tell texts of hidden pairs from swapped copies."""
        from sklearn.feature_extraction.text import CountVectorizer

        counter = CountVectorizer(
            binary=True, token_pattern=r"[^\W\d_]+", max_features=WORDS, dtype=np.float32
        )
        texts = texts[:: max(1, -(-len(texts) // TEXTS))]
        try:
            has_NW = counter.fit_transform(texts)
        except ValueError:  # texts without words
            return None
        pairs_P2 = _opening_pairs(counter, texts, has_NW)
        if has_NW.shape[1] < min(RANKS) + 2 or len(pairs_P2) < FOLDS:
            return None
        rng = np.random.default_rng(0)  # the same every time
        table = SwapTable.learn(texts, rng)
        has_WN, passed = has_NW.T.tocsr(), []
        for _ in range(FOLDS):
            gone_N = _joining(has_WN, rng.permutation(pairs_P2))
            kept = [text for text, gone in zip(texts, gone_N, strict=True) if not gone]
            learnt = _limited(counter, kept, has_NW[~gone_N], table, rng, COPIES // FOLDS)
            if learnt is None:
                return None
            lift_n = _of_new(has_NW[gone_N], *learnt[:2])
            passed.append(lift_n[np.isfinite(lift_n)] > learnt[2])
        granted = float(np.concatenate(passed).mean())
        log.info("%.0f %% of real texts with unseen pairs of words pass, and %.0f %% of copies "
                 "with a word swapped", 100 * granted, 100 * PASS)  # fmt: skip
        learnt = _limited(counter, texts, has_NW, table, rng, COPIES)
        if learnt is None or not granted >= GRANTED:
            return None
        return cls(counter, *learnt, granted)

    def __call__(self, texts: Sequence[str]) -> Floats64:
        """Mean expected (logarithm of) lift of each text's new pairs, (n,); NaN without any."""
        return _of_new(self.counter.transform(texts), self.never_WW, self.expected_WW)


def _opening_pairs(counter: Any, texts: Sequence[str], has_NW: Any) -> NDArray[np.int64]:  # noqa: ANN401
    """Pairs of words (P, 2) that openings join, rare enough to be hidden without losing either."""
    split: Callable[[str], list[str]] = counter.build_analyzer()
    row_of = counter.vocabulary_
    opening_WW = np.zeros((len(row_of), len(row_of)), dtype=bool)
    for text in texts:
        rows = [row_of[word] for word in dict.fromkeys(split(text)[:OPENING]) if word in row_of]
        opening_WW[np.ix_(rows, rows)] = True
    joint_WW, chance_WW = _counts(has_NW)
    often_W = joint_WW.diagonal()
    most_WW = np.minimum(RARE * has_NW.shape[0], np.minimum.outer(often_W, often_W) / 2)
    return np.argwhere(np.triu(opening_WW & (joint_WW <= most_WW) & (chance_WW >= EXPECTED), 1))


def _joining(has_WN: Any, pairs_P2: NDArray[np.int64]) -> Mask:  # noqa: ANN401
    """Texts that join one of the first pairs, (N,): as many pairs as HIDDEN of the texts take."""
    gone_N = np.zeros(has_WN.shape[1], dtype=bool)
    for a, b in pairs_P2:
        gone_N[has_WN[a].multiply(has_WN[b]).indices] = True
        if gone_N.mean() > HIDDEN:
            break
    return gone_N


def _limited(
    counter: Any, texts: Sequence[str], has_NW: Any, table: SwapTable, rng: np.random.Generator,  # noqa: ANN401
    count: int,
) -> tuple[Mask, Floats64, float] | None:  # fmt: skip
    """What is expected of pairs, and the limit that PASS of `count` swapped copies are above.

    None where no copy joins a new pair.
    """
    never_WW, expected_WW = _fitted(has_NW)
    copies = [table.swap(texts[row], rng) for row in rng.integers(len(texts), size=count)]
    lift_n = _of_new(counter.transform(copies), never_WW, expected_WW)
    lift_n = lift_n[np.isfinite(lift_n)]
    return (never_WW, expected_WW, float(np.quantile(lift_n, 1 - PASS))) if len(lift_n) else None


def _counts(has_NW: Any) -> tuple[Floats64, Floats64]:  # noqa: ANN401
    """Texts that join two words, and those that would by chance, (W, W)."""
    joint_WW = (has_NW.T @ has_NW).toarray().astype(np.float64)
    often_W = joint_WW.diagonal()
    return joint_WW, np.outer(often_W, often_W) / has_NW.shape[0]


def _fitted(has_NW: Any) -> tuple[Mask, Floats64]:  # noqa: ANN401
    """Pairs that no text joins though chance would, and the low-rank logarithm of lift."""
    from scipy.sparse.linalg import eigsh

    joint_WW, chance_WW = _counts(has_NW)
    known_WW = chance_WW >= EXPECTED
    np.fill_diagonal(known_WW, False)
    # half a text, so that pairs that never occur have a logarithm as well
    lift_WW = np.where(known_WW, np.log((joint_WW + 0.5) / (chance_WW + 0.5)), 0.0)
    ranks = [rank for rank in RANKS if rank < len(lift_WW) - 1]
    start_W = np.ones(len(lift_WW))  # the same every time
    value_R, axis_WR = eigsh(lift_WW, k=max(ranks), which="LM", v0=start_W)
    order_R = np.argsort(np.argsort(-np.abs(value_R)))
    share_R = np.mean([order_R < rank for rank in ranks], axis=0)  # of the ranks that have it
    return known_WW & (joint_WW == 0), (axis_WR * (value_R * share_R)) @ axis_WR.T


def _of_new(has_nW: Any, never_WW: Mask, expected_WW: Floats64) -> Floats64:  # noqa: ANN401
    """Mean of what is expected of each text's new pairs, (n,); NaN without any."""
    lift_n = np.full(has_nW.shape[0], np.nan)
    for number, has_W in enumerate(has_nW):
        pairs = np.ix_(has_W.indices, has_W.indices)
        new_WW = never_WW[pairs]
        if new_WW.any():
            lift_n[number] = expected_WW[pairs][new_WW].mean()
    return lift_n
