"""Scores on known answers; intervals by their coverage on simulated data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from cllm.metrics import (
    METRICS,
    bootstrap,
    of_few,
    paired_difference,
    rep_4,
    score_texts,
    share_draws,
    token_accuracy,
    wilson,
)

WORDS = ["flour", "butter", "sugar", "stir", "bake", "the", "oven", "pan", "salt", "onion"]


def sphere(rng, count, dim):
    points = rng.standard_normal((count, dim))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def sentences(rng, count):
    return [" ".join(rng.choice(WORDS, size=rng.integers(4, 15))) for _ in range(count)]


def scored(references, hypotheses):
    tokens, others = (
        [[WORDS.index(word) for word in text.split()] for text in texts]
        for texts in (references, hypotheses)
    )
    return score_texts(references, hypotheses, tokens, others)


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "accuracy"),
    [
        ([5, 6, 7, 1], [5, 6, 7, 1], 1.0),
        ([5, 6, 7, 1], [5, 9, 7, 1], 0.75),
        ([5, 6, 7, 1], [5, 6], 0.5),
        ([5, 6], [5, 6, 7, 1], 0.5),
        ([5, 6, 7, 1], [6, 7, 1], 0.0),  # a shift loses every position
        ([], [], 1.0),
        ([], [1], 0.0),
    ],
)
def test_token_accuracy(reference, hypothesis, accuracy):
    assert token_accuracy(reference, hypothesis) == accuracy


def test_content_f1_compares_ingredients():
    pair = ["ingredients: 2 leeks, sliced; 300 g potatoes", "ingredients: 1 leek; 50 g butter"]
    scores = score_texts(pair[:1], pair[1:], [[1]], [[1]])
    assert scores.content_f1_N.tolist() == [0.5]
    assert scores.value("content_f1") == 0.5


def test_exact_match_ignores_white_space_only():
    scores = score_texts(["a  b\n", "a b", "a b"], [" a b", "a B", "ab"], [[1]] * 3, [[1]] * 3)
    assert scores.exact_match_N.tolist() == [1, 0, 0]


def test_corpus_scores_equal_sacrebleu():
    rng = np.random.default_rng(0)
    references, hypotheses = sentences(rng, 50), sentences(rng, 50)
    hypotheses[3], hypotheses[4] = references[3], ""
    scores = scored(references, hypotheses)
    assert scores.value("bleu") == pytest.approx(
        BLEU().corpus_score(hypotheses, [references]).score
    )
    assert scores.value("chrf") == pytest.approx(
        CHRF().corpus_score(hypotheses, [references]).score
    )
    assert "tok:13a" in scores.bleu_signature
    assert "nc:6" in scores.chrf_signature


def test_perfect_texts_score_full_with_no_width():
    texts = sentences(np.random.default_rng(1), 20)
    scores = scored(texts, texts)
    for metric in METRICS:
        full = pytest.approx(100.0 if metric in ("bleu", "chrf") else 1.0)
        interval = scores.interval(metric, np.random.default_rng(0))
        assert (interval.low, interval.mean, interval.high) == (full, full, full)


def test_corpus_interval_holds_the_score_and_narrows_with_texts():
    rng = np.random.default_rng(2)
    references = sentences(rng, 400)
    hypotheses = [
        text if rng.random() < 0.5 else other
        for text, other in zip(references, sentences(rng, 400), strict=True)
    ]
    widths = []
    for count in (50, 400):
        part = scored(references[:count], hypotheses[:count])
        interval = part.interval("bleu", np.random.default_rng(0))
        assert interval.low < interval.mean == part.value("bleu") < interval.high
        widths.append(interval.high - interval.low)
    assert 1.8 < widths[0] / widths[1] < 4.5  # about sqrt(8)


def test_pairing_finds_what_unpaired_intervals_miss():
    rng = np.random.default_rng(3)
    references, noise = sentences(rng, 150), sentences(rng, 150)
    worse = [n if i % 2 else r for i, (r, n) in enumerate(zip(references, noise, strict=True))]
    better = [
        r if i % 20 == 1 else w for i, (r, w) in enumerate(zip(references, worse, strict=True))
    ]
    a, b = scored(references, better), scored(references, worse)
    for metric in METRICS:
        difference = a.difference(metric, b, np.random.default_rng(0))
        assert difference.mean == pytest.approx(a.value(metric) - b.value(metric))
        assert difference.low > 0
        first = a.interval(metric, np.random.default_rng(0))
        second = b.interval(metric, np.random.default_rng(0))
        assert first.low < second.high  # apart, the two intervals overlap
    assert a.difference("bleu", a, rng).ci == [0.0, 0.0]


def test_scores_refuse_uneven_input():
    with pytest.raises(ValueError, match="equally many"):
        score_texts(["a"], ["a", "b"], [[1]], [[1]])
    with pytest.raises(ValueError, match="at least one"):
        score_texts([], [], [], [])


# --- intervals ---------------------------------------------------------------------------------


def coverage(draw, truth, trials=300):
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(trials):
        interval = bootstrap(draw(rng), rng, samples=200)
        inside += interval.low <= truth <= interval.high
    return inside / trials


@pytest.mark.parametrize("texts", [5, 20, 120])
def test_bootstrap_covers_the_mean(texts):
    assert 0.91 <= coverage(lambda rng: rng.normal(3, 2, texts), 3.0) <= 0.995


def test_bootstrap_over_seeds_covers_where_seeds_differ():
    def draw(rng):
        texts = rng.normal(0, 1, (1, 40))
        return 1 + rng.normal(0, 0.1, (5, 1)) + texts + rng.normal(0, 0.3, (5, 40))

    assert 0.91 <= coverage(draw, 1.0, trials=200) <= 0.998


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(0)
    texts = rng.normal(0, 1, (5, 200))
    apart = texts + np.array([[-1], [-0.5], [0], [0.5], [1]])
    narrow, wide = (bootstrap(v, np.random.default_rng(0)) for v in (texts, apart))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert narrow.n == 1000


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30),
    st.floats(-10, 10),
    st.floats(0.1, 10),
)
@settings(max_examples=40, deadline=None)
def test_bootstrap_moves_with_its_values(values, shift, scale):
    plain = bootstrap(np.array(values), np.random.default_rng(0), samples=50)
    moved = bootstrap(np.array(values) * scale + shift, np.random.default_rng(0), samples=50)
    assert moved.low == pytest.approx(plain.low * scale + shift, abs=1e-6)
    assert moved.high == pytest.approx(plain.high * scale + shift, abs=1e-6)
    assert plain.low <= plain.high


def test_bootstrap_level_and_seed():
    values = np.random.default_rng(0).normal(size=200)
    first, again = (bootstrap(values, np.random.default_rng(5)) for _ in range(2))
    assert first == again
    half = bootstrap(values, np.random.default_rng(5), level=0.5)
    assert half.high - half.low < 0.5 * (first.high - first.low)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], np.zeros((2, 2, 2))])
def test_bootstrap_refuses_bad_values(values):
    with pytest.raises(ValueError, match="finite values"):
        bootstrap(np.array(values), np.random.default_rng(0))


def test_paired_difference_is_exact_for_a_constant_gain():
    base = np.random.default_rng(0).normal(size=(3, 50))
    gain = paired_difference(base + 0.25, base, np.random.default_rng(1))
    assert gain.ci == pytest.approx([0.25, 0.25])
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(base, base[:, :-1], np.random.default_rng(1))


def test_wilson_known_values():
    assert wilson(8, 10).ci == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert wilson(0, 20).ci == pytest.approx([0.0, 0.1611], abs=1e-4)
    assert wilson(20, 20).high == 1.0
    with pytest.raises(ValueError, match="share"):
        wilson(3, 0)


# --- repetition --------------------------------------------------------------------------------


def test_repetition():
    assert rep_4("abcdabcd") == pytest.approx(1 / 5)
    assert rep_4("aaaaaa") == pytest.approx(2 / 3)
    assert rep_4(range(20)) == 0.0
    assert rep_4([1, 1, 1]) == 0.0


@pytest.mark.parametrize("share", [0.02, 0.4])
def test_drawn_shares_cover_the_true_one(share: float) -> None:
    """Twelve places of ten texts each, alike within a place: 95 % intervals hold nine in ten."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        hits_P = 10 * (rng.random(12) < share)
        draws = share_draws(np.stack([hits_P, np.full(12, 10)], axis=1), rng, 400)
        low, high = np.quantile(draws, (0.025, 0.975))
        held += low <= share <= high
    assert held >= 180


def test_the_mean_of_a_few_values_has_students_interval() -> None:
    found = of_few(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert found.low + found.high == pytest.approx(4)
    assert of_few(np.array([5.0])).ci == [5, 5]
