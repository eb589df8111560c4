"""Does a space know what it has not seen? Of built-in recipes, which withhold combinations.

If recipes of withheld combinations lie in emptier places than held-out ones of combinations that
were trained on, voids can find them; the AUROC of the void score says how surely.

    notices(model, corpus, latents.select("train").vectors_ND, k=8, rng=rng)
"""

# Shapes: N training texts, M held-out texts, D coordinates.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cllm.corpus import Corpus
from cllm.model import CLLM
from cllm.sphere import prefix
from cllm.voids import void_scores

RECIPES = 500


def notices(
    model: CLLM, corpus: Corpus, train_ND: NDArray[np.float32], k: int, rng: np.random.Generator
) -> float | None:
    """AUROC of the void score on the sphere of `k` coordinates, withheld against held-out texts.

    Held-out ones are of the validation split. None for a corpus that withholds nothing.
    """
    if "withheld" not in corpus.info:
        return None
    from cllm.recipes.grammar import Grammar

    grammar = Grammar(corpus.info["richness"], corpus.info.get("fold", 0))
    withheld = [grammar.sample(rng, withheld=True) for _ in range(RECIPES)]
    emitted = corpus.select("validation").sample(RECIPES).texts
    cloud_NK = prefix(train_ND, k)
    seen_M, unseen_M = (
        void_scores(cloud_NK, prefix(model.encode(texts), k))[0] for texts in (emitted, withheld)
    )
    return auroc(seen_M, unseen_M)


def auroc(lower: NDArray[np.float64], higher: NDArray[np.float64]) -> float:
    """The chance that a value of the second kind is above one of the first (Mann & Whitney's U)."""
    a, b = len(lower), len(higher)
    ranks = rankdata(np.concatenate([lower, higher]))[a:].sum()
    # a bootstrap has no time for scikit-learn's checks
    return float((ranks - b * (b + 1) / 2) / (a * b))
