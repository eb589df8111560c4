"""The judge: verdicts with their evidence, and false alarms at the promised rate."""

import re

import numpy as np
import pytest

from cllm.errors import InputError
from cllm.judge import Judge
from cllm.recipes import Grammar

FOODS = [f"{a}{b}" for a in ("bar", "tol", "mir", "sen", "kup") for b in ("ley", "nut", "root")]


def shopping(rng, count):
    """Lists of quantities and foods, drawn independently."""
    texts = []
    for _ in range(count):
        foods = rng.choice(FOODS, 5, replace=False)
        texts.append("; ".join(f"{rng.integers(1, 90)} g {food}" for food in foods))
    return texts


def ids(texts):
    return [f"t{row}" for row in range(len(texts))]


def noisy_cost(texts):
    """Stands in for a language model: nats per token, spread over 2..3."""
    return np.array([2 + (sum(map(ord, text)) % 97) / 97 for text in texts])


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    return {name: shopping(rng, count) for name, count in [("train", 800), ("held", 400)]}


@pytest.fixture(scope="module")
def judge(corpus):
    return Judge.calibrate(ids(corpus["train"]), corpus["train"], corpus["held"])


# --- duplicates --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_fresh_texts_are_flagged_at_the_promised_rate(corpus, alpha):
    judge = Judge.calibrate(ids(corpus["train"]), corpus["train"], corpus["held"], alpha=alpha)
    fresh = judge.judge(shopping(np.random.default_rng(1), 800))
    assert np.mean([verdict.duplicate for verdict in fresh]) == pytest.approx(alpha, abs=0.035)


def test_a_training_text_is_a_duplicate_whatever_its_white_space(corpus, judge):
    (verdict,) = judge.judge(["  " + corpus["train"][7].replace(" ", "\n ")])
    assert (verdict.label, verdict.duplicate, verdict.valid) == ("duplicate", True, True)
    assert verdict.reasons == ("the same text as training text t7",)
    assert verdict.nearest[0] == ("t7", pytest.approx(1.0, abs=1e-5))
    assert verdict.novelty == 0.0


def test_a_near_copy_is_a_duplicate_with_similarity_and_limit(corpus, judge):
    first, *rest = corpus["train"][3].split("; ")
    (verdict,) = judge.judge(["; ".join([f"91 g {first.split()[-1]}", *rest])])
    assert verdict.label == "duplicate"
    assert verdict.nearest[0][0] == "t3"
    assert f"{verdict.nearest[0][1]:.3f}" in verdict.reasons[0]
    assert f"above the limit {judge.duplicate_above:.3f}" in verdict.reasons[0]


def test_exact_copies_count_even_where_real_texts_repeat():
    train = ["1 g salt", "2 g salt", "3 g pepper"] * 10
    judge = Judge.calibrate(ids(train), train, train)
    assert judge.judge(["2 g salt"])[0].label == "duplicate"
    assert judge.judge(["2 g pepper"])[0].label == "novel"
    assert judge.judge(["2 g salt"])[0].reasons == ("the same text as training text t1",)


def test_novelty_is_a_percentile_of_held_out_texts(corpus, judge):
    novelty = [verdict.novelty for verdict in judge.judge(corpus["held"])]
    assert np.mean(novelty) == pytest.approx(0.5, abs=0.01)
    assert np.quantile(novelty, [0.1, 0.9]) == pytest.approx([0.1, 0.9], abs=0.02)
    far, near = judge.judge(["nothing of that kind", corpus["train"][0] + " twice"])
    assert (far.novelty, near.novelty) == (1.0, 0.0)


def test_nearest_texts_come_best_first(judge, corpus):
    (verdict,) = judge.judge(corpus["held"][:1])
    similarities = [similarity for _, similarity in verdict.nearest]
    assert len(similarities) == 3
    assert similarities == sorted(similarities, reverse=True)


# --- validity ----------------------------------------------------------------------------------


def test_blank_texts_are_nonsense(judge):
    for verdict in judge.judge(["", " \n\t "]):
        assert (verdict.label, verdict.valid, verdict.reasons) == ("nonsense", False, ("empty",))
        assert (verdict.validity, verdict.novelty, verdict.nearest) == (0.0, 0.0, ())


def test_a_checker_decides_validity_and_gives_the_reasons(corpus):
    def checker(text):
        lines = text.count("\n")
        return [f"line {n} is not wanted" for n in range(1, lines + 1)]

    judge = Judge.calibrate(ids(corpus["train"]), corpus["train"], corpus["held"], checker=checker)
    good, bad, copy = judge.judge(
        ["fresh words only", "a\nb\nc\nd\ne\nf", corpus["train"][0] + "\n"]
    )
    assert (good.label, good.validity) == ("novel", 1.0)
    assert (bad.label, bad.validity) == ("nonsense", 0.0)
    assert bad.reasons[:4] == (
        *(f"line {n} is not wanted" for n in (1, 2, 3)),
        "and 2 more violations",
    )
    assert (copy.label, copy.valid, copy.duplicate) == ("nonsense", False, True)


def test_without_a_checker_real_texts_pass_and_odd_ones_fail(corpus):
    judge = Judge.calibrate(
        ids(corpus["train"]), corpus["train"], corpus["held"], log_likelihood=noisy_cost
    )
    fresh = judge.judge(shopping(np.random.default_rng(2), 800))
    assert np.mean([not verdict.valid for verdict in fresh]) == pytest.approx(0.02, abs=0.02)
    validity = [verdict.validity for verdict in fresh]
    assert np.mean(validity) == pytest.approx(0.5, abs=0.05)  # a tail probability is uniform
    assert {verdict.validity for verdict in fresh if not verdict.valid} == {0.0}


def test_a_critic_finds_what_is_nearly_real(corpus):
    def critic(texts):
        """How real a text seems: less with every zero in it."""
        return np.array([5.0 - text.count("0") for text in texts])

    judge = Judge.calibrate(ids(corpus["train"]), corpus["train"], corpus["held"], critic=critic)
    fresh = shopping(np.random.default_rng(2), 300)
    assert np.mean([verdict.valid for verdict in judge.judge(fresh)]) > 0.95
    (verdict,) = judge.judge([re.sub(r"\d+", "2000000", fresh[0])])
    assert not verdict.valid
    assert "a critic gives it" in verdict.reasons[0]


def test_the_band_rejects_both_unlikely_and_too_predictable(corpus):
    held = noisy_cost(corpus["held"])

    def shifted(texts):
        shift = {"odd": 5.0, "dull": -5.0}
        return noisy_cost(texts) + [shift.get(text.split()[0], 0.0) for text in texts]

    judge = Judge.calibrate(
        ids(corpus["train"]), corpus["train"], corpus["held"], log_likelihood=shifted
    )
    odd, dull = judge.judge(["odd barley with tolnut soup", "dull barley with tolnut soup"])
    assert odd.label == dull.label == "nonsense"
    assert odd.reasons[0].startswith("too unlikely")
    assert dull.reasons[0].startswith("too predictable")
    assert f"{np.quantile(held, 0.99):.2f}" in odd.reasons[0]


def test_loops_and_empty_phrases_are_nonsense(judge):
    loop, bare = judge.judge(["10 g barley; " * 8, "2 3 4 5"])
    assert loop.label == bare.label == "nonsense"
    assert loop.reasons[0].startswith("repeats itself")
    assert bare.reasons[0].startswith("too little content")


def test_non_finite_costs_are_told(corpus):
    def broken(texts):
        return np.array([np.nan if text == "odd barley tolnut" else 1.0 for text in texts])

    train, held = corpus["train"], corpus["held"]
    judge = Judge.calibrate(ids(train), train, held, log_likelihood=broken)
    assert not judge.judge(["odd barley tolnut"])[0].valid
    with pytest.raises(InputError, match="non-finite"):
        Judge.calibrate(ids(train), train, ["odd barley tolnut"], log_likelihood=broken)
    with pytest.raises(ValueError, match="shape"):
        Judge.calibrate(ids(train), train, held, log_likelihood=lambda texts: np.ones(1))


# --- the whole ---------------------------------------------------------------------------------


def test_verdicts_do_not_depend_on_the_batch(corpus, judge):
    texts = [*corpus["held"][:20], "", corpus["train"][0], "10 g barley; " * 8]
    together = judge.judge(texts)
    assert together == [judge.judge([text])[0] for text in texts]
    assert judge.judge([]) == []


def test_calibration_needs_texts(corpus):
    with pytest.raises(InputError, match="held-out"):
        Judge.calibrate(["a"], ["one text"], ["", "  "])
    with pytest.raises(InputError, match="training texts"):
        Judge.calibrate([], [], ["one text"])


def test_plain_recipes_fresh_is_novel_and_a_changed_quantity_is_a_duplicate():
    grammar = Grammar("plain")
    samples = [(5000, 0), (600, 1), (600, 2)]
    train, held, fresh = (grammar.generate(n, seed) for n, seed in samples)
    judge = Judge.calibrate(ids(train), train, held)
    labels = [verdict.label for verdict in judge.judge(fresh)]
    assert labels.count("novel") / len(labels) == pytest.approx(0.95, abs=0.03)
    swapped = [re.sub(r"\d+", lambda m: str(int(m[0]) + 5), text, count=1) for text in train[:200]]
    verdicts = judge.judge(swapped)
    assert {verdict.label for verdict in verdicts} == {"duplicate"}
    assert [verdict.nearest[0][0] for verdict in verdicts] == ids(swapped)
