from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cllm.corpus import Corpus
from cllm.curve import DECODED, Curve, curve_lengths, measure_curve
from cllm.losses import null_nats, text_nats
from cllm.model import CLLM
from cllm.pretrain import token_texts


@given(st.integers(2, 300))
def test_lengths_rise_to_the_whole_by_a_half_at_most(dim: int) -> None:
    lengths = curve_lengths(dim)
    assert lengths[-1] == dim
    assert list(lengths) == sorted(set(lengths))
    assert all(b <= 1.5 * a for a, b in pairwise(lengths))


def test_the_curve_of_a_model_is_its_gain_by_prefix(
    tiny_cllm: CLLM, corpus: Corpus, tmp_path: Path
) -> None:
    train_ND = tiny_cllm.encode(corpus.select("train").texts)
    unknown = Corpus(*corpus._columns, {})
    curve = measure_curve(tiny_cllm, None, unknown, train_ND, (2, 8))
    part = unknown.select("validation")
    tokens = token_texts(tiny_cllm.base, part, tiny_cllm.config.context)
    gain_N = null_nats(tiny_cllm, tokens) - text_nats(tiny_cllm, tokens, 2)
    assert np.allclose(curve.gain_LN[0], gain_N, atol=1e-3)
    assert curve.moved_LN.shape == (2, min(DECODED, len(part)))
    assert (curve.round_trip_L >= 0).all()

    curve.save(tmp_path / "curve.json", "model a")
    again = Curve.load(tmp_path / "curve.json", "model a")
    assert again is not None
    assert np.allclose(again.gain_LN, curve.gain_LN, atol=1e-4)
    assert Curve.load(tmp_path / "curve.json", "model b") is None


def test_no_text_is_said_to_cost_more_than_its_exact_entropy(
    tiny_cllm: CLLM, corpus: Corpus
) -> None:
    train_ND = tiny_cllm.encode(corpus.select("train").texts)
    curve = measure_curve(tiny_cllm, None, corpus, train_ND, (8,), limit=5)
    tokens = token_texts(
        tiny_cllm.base, corpus.select("validation").sample(5), tiny_cllm.config.context
    )
    expected_N = corpus.info["entropy_nats"] - text_nats(tiny_cllm, tokens)
    assert np.allclose(curve.gain_LN[0], expected_N, atol=1e-3)
