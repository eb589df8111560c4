"""How various texts are, and how far from real ones, in a space that no model has a part in.

space = TextSpace.of(real_texts)
spread_of(space, texts, held_out)["vendi"]
"""

# Shapes: n and M texts, L of the space.
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.words import WORD

Floats = NDArray[np.float64]

DIMS = 64  # of the independent space
COMPARED = 100  # texts that a Vendi score is taken of: it grows with their number
DRAWS = 20  # of a smaller number of them


@dataclass(frozen=True)
class TextSpace:
    """Latent semantic analysis of real texts (Deerwester et al. 1990): words, not their order."""

    pipeline: Any  # of scikit-learn

    @classmethod
    def of(cls, texts: Sequence[str]) -> TextSpace:
        """Fitted on these."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD.pattern)
        counts = words.fit_transform(texts)
        dims = max(1, min(DIMS, min(counts.shape) - 1))
        found = make_pipeline(words, TruncatedSVD(dims, random_state=0), Normalizer())
        found.fit(texts)
        return cls(found)

    def places(self, texts: Sequence[str]) -> Floats:
        """Unit vectors (n, L)."""
        return np.asarray(self.pipeline.transform(texts), np.float64)


def spread_of(space: TextSpace, texts: Sequence[str], real: Sequence[str]) -> dict[str, float]:
    """How various texts are and how far from real ones; nothing of fewer than two.

    `distinct_n`: share of their runs of n words that are different ones, of COMPARED texts at
    most, as `vendi` (Friedman & Dieng 2023), the effective number of them. `distance`: squared
    maximum mean discrepancy to real texts, unbiased, cubic kernel (Bińkowski et al. 2018).
    """
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2:
        return {}
    chosen = np.random.default_rng(0).permutation(len(texts))[:COMPARED]
    some = [texts[row] for row in chosen]
    found = {f"distinct_{n}": distinct(some, n) for n in (1, 2, 4)}
    found |= {"vendi": vendi(space.places(some)), "vendi_of": float(len(some))}
    if len(real) > 1:
        found["distance"] = discrepancy(space.places(texts), space.places(real))
    return found


def even_spread(space: TextSpace, texts: Sequence[str], count: int) -> dict[str, float]:
    """`distinct_n` and `vendi` of exactly so many texts, over draws; nothing of fewer texts.

    Numbers of different texts do not compare otherwise.
    """
    texts = [text for text in texts if text.strip()]
    if len(texts) < max(2, count):
        return {}
    places_nL, drawn = space.places(texts), list[dict[str, float]]()
    for draw in range(DRAWS):
        rows = np.random.default_rng(draw).permutation(len(texts))[:count]
        some = [texts[row] for row in rows]
        drawn.append({f"distinct_{n}": distinct(some, n) for n in (1, 2, 4)}
                     | {"vendi": vendi(places_nL[rows])})  # fmt: skip
    return {name: float(np.mean([one[name] for one in drawn])) for name in drawn[0]}


def distinct(texts: Sequence[str], n: int) -> float:
    """Different runs of `n` words over all of them (Li et al. 2016); 0 where there is none."""
    runs: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = WORD.findall(text.lower())
        runs.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return len(runs) / max(1, runs.total())


def vendi(places_nL: Floats) -> float:
    """Effective number of different texts, 1..n: exp of the entropy of their likeness' spectrum."""
    likeness_nn = places_nL @ places_nL.T
    np.fill_diagonal(likeness_nn, 1.0)  # a text without a known word is like itself alone
    values_n = np.linalg.eigvalsh(likeness_nn / len(places_nL))
    share_n = values_n[values_n > 1e-12]
    return float(np.exp(-(share_n * np.log(share_n)).sum()))


def discrepancy(places_nL: Floats, others_ML: Floats) -> float:
    """Squared maximum mean discrepancy of two samples of 2 or more, without bias: may be < 0."""

    def mean(a: Floats, b: Floats, *, same: bool) -> float:
        kernel = (a @ b.T + 1) ** 3
        if not same:
            return float(kernel.mean())
        return float((kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1)))

    own, other = mean(places_nL, places_nL, same=True), mean(others_ML, others_ML, same=True)
    return own + other - 2 * mean(places_nL, others_ML, same=False)
