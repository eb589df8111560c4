"""Do words that no text joins belong together? Learnt from the words that texts do join.

together = Cooccurrence.learn(texts)
pmi_n = together(new_texts)   # NaN where a text joins no new pair of words
pmi_n < together.least        # its new pairs are against what is known
"""

# Shapes: N texts, n texts asked about, W words, P pairs of words, R components.
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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

    Few principal components of pointwise mutual information (the logarithm of texts that join two
    words over those that would by chance) fill in what the corpus leaves open, as in word vectors
    (Levy & Goldberg 2014): words that keep the same company get each other's. The limit is set on
    copies of real texts with a word swapped, most of which are wrong.
    """

    counter: Any  # scikit-learn's CountVectorizer
    never_WW: Mask  # pairs that no text joins, though chance would
    axis_WR: Floats64  # principal components of the pairs' mutual information
    value_R: Floats64
    least: float  # what PASS of the copies have more than

    @cached_property
    def pmi_WW(self) -> Floats64:
        """What the components give a pair."""
        return np.asarray((self.axis_WR * self.value_R) @ self.axis_WR.T)

    @classmethod
    def learn(cls, texts: Sequence[str]) -> Cooccurrence | None:
        """From real texts; None where it cannot tell texts of hidden pairs from swapped copies."""
        counter = _counter(max_features=WORDS)
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
        has_WN, found = has_NW.T.tocsr(), []
        for _ in range(FOLDS):
            gone_N = _joining(has_WN, rng.permutation(pairs_P2))
            kept = [text for text, gone in zip(texts, gone_N, strict=True) if not gone]
            copies = table.copies(kept, COPIES // FOLDS, rng)
            part = cls._limited(counter, has_NW[~gone_N], copies)
            if part is None:
                return None
            pmi_n = part.of_words(has_NW[gone_N])
            found.append(pmi_n[np.isfinite(pmi_n)] >= part.least)
        passed_n = np.concatenate(found)
        if not len(passed_n):
            return None
        log.info("%.0f %% of real texts with unseen pairs of words pass, as %.0f %% of copies with "
                 "a word swapped do", 100 * passed_n.mean(), 100 * PASS)  # fmt: skip
        if passed_n.mean() < GRANTED:
            return None
        return cls._limited(counter, has_NW, table.copies(texts, COPIES, rng))

    @classmethod
    def _limited(cls, counter: Any, has_NW: Any, copies: Sequence[str]) -> Cooccurrence | None:  # noqa: ANN401
        """Fitted to texts' words, its limit to swapped copies; None where none joins a new pair."""
        alone = cls(counter, *_fitted(has_NW), -np.inf)
        pmi_n = alone(copies)
        pmi_n = pmi_n[np.isfinite(pmi_n)]
        return replace(alone, least=float(np.quantile(pmi_n, 1 - PASS))) if len(pmi_n) else None

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, to be kept in a file."""
        return {
            "words": self.counter.get_feature_names_out().astype(str),
            "never": np.packbits(self.never_WW),
            "axis_WR": self.axis_WR, "value_R": self.value_R, "least": np.array(self.least),
        }  # fmt: skip

    @classmethod
    def of_arrays(cls, kept: Mapping[str, NDArray[Any]]) -> Cooccurrence:
        """What `arrays` were of."""
        words = kept["words"].tolist()  # in the order of their columns
        never_P = np.unpackbits(kept["never"], count=len(words) ** 2).astype(bool)
        never_WW = never_P.reshape(len(words), len(words))
        counter, least = _counter(vocabulary=words), float(kept["least"])
        return cls(counter, never_WW, kept["axis_WR"], kept["value_R"], least)

    def __call__(self, texts: Sequence[str]) -> Floats64:
        """Mean mutual information of each text's new pairs of words, (n,); NaN without any."""
        return self.of_words(self.counter.transform(texts))

    def of_words(self, has_nW: Any) -> Floats64:  # noqa: ANN401
        """The same of rows of a sparse matrix of words."""
        pmi_n = np.full(has_nW.shape[0], np.nan)
        for number, has_W in enumerate(has_nW):
            pairs = np.ix_(has_W.indices, has_W.indices)
            new_WW = self.never_WW[pairs]
            if new_WW.any():
                pmi_n[number] = self.pmi_WW[pairs][new_WW].mean()
        return pmi_n


def _counter(**words: Any) -> Any:  # noqa: ANN401 - scikit-learn's
    """Counts which words a text has."""
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(binary=True, token_pattern=r"[^\W\d_]+", dtype=np.float32, **words)


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


def _counts(has_NW: Any) -> tuple[Floats64, Floats64]:  # noqa: ANN401
    """Texts that join two words, and those that would by chance, (W, W)."""
    joint_WW = (has_NW.T @ has_NW).toarray().astype(np.float64)
    often_W = joint_WW.diagonal()
    return joint_WW, np.outer(often_W, often_W) / has_NW.shape[0]


def _fitted(has_NW: Any) -> tuple[Mask, Floats64, Floats64]:  # noqa: ANN401
    """Pairs (W, W) that no text joins though chance would; components of mutual information.

    Components are (W, R) and (R,); none where there is no such pair.
    """
    from scipy.sparse.linalg import eigsh

    joint_WW, chance_WW = _counts(has_NW)
    known_WW = chance_WW >= EXPECTED
    np.fill_diagonal(known_WW, False)
    # half a text, so that pairs that never occur have a logarithm as well
    pmi_WW = np.where(known_WW, np.log((joint_WW + 0.5) / (chance_WW + 0.5)), 0.0)
    never_WW = known_WW & (joint_WW == 0)
    if not never_WW.any():
        return never_WW, np.zeros((len(pmi_WW), 0)), np.zeros(0)
    ranks = [rank for rank in RANKS if rank < len(pmi_WW) - 1]
    start_W = np.ones(len(pmi_WW))  # the same every time
    value_R, axis_WR = eigsh(pmi_WW, k=max(ranks), which="LM", v0=start_W)
    order_R = np.argsort(np.argsort(-np.abs(value_R)))
    share_R = np.mean([order_R < rank for rank in ranks], axis=0)  # of the ranks that have it
    return never_WW, axis_WR, value_R * share_R
