from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cllm.corpus import Corpus
from cllm.model import CLLM
from cllm.unseen import auroc, notices


def test_auroc_is_what_scikit_learn_says() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 8, 40).astype(float), rng.integers(2, 10, 25).astype(float)
    labels = [0] * 40 + [1] * 25
    assert auroc(low, high) == pytest.approx(roc_auc_score(labels, np.concatenate([low, high])))


def test_an_untrained_space_notices_little_and_other_texts_withhold_nothing(
    tiny_cllm: CLLM, corpus: Corpus
) -> None:
    train_ND = tiny_cllm.encode(corpus.select("train").texts)
    found = notices(tiny_cllm, corpus, train_ND, 4, np.random.default_rng(0))
    assert found is not None
    assert 0.3 < found < 0.9
    other = replace(corpus, info={})
    assert notices(tiny_cllm, other, train_ND, 4, np.random.default_rng(0)) is None
