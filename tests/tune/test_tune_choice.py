from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllm.curve import Curve, curve_lengths
from cllm.errors import InputError
from tune.choice import choose, enough_gain
from tune.curve_fit import fitted
from tune.pool import pooled

LENGTHS = (2, 4, 8, 16, 32, 64)


def curve_of(gains: list[float], trips: list[float], seed: int = 0, noise: float = 1.0) -> Curve:
    rng = np.random.default_rng(seed)
    gain_LN = np.array(gains)[:, None] + noise * rng.standard_normal((1, 200))
    moved_LN = np.array(trips)[:, None] * rng.uniform(0.9, 1.1, (1, 50))
    return Curve(LENGTHS, gain_LN, moved_LN)


GAINS = [2.0, 5.0, 12.0, 19.4, 19.9, 20.0]
TRIPS = [9.0, 3.0, 1.0, 0.3, 0.1, 0.1]


def test_both_gain_and_round_trip_have_to_be_enough() -> None:
    told = choose([curve_of(GAINS, TRIPS)], np.random.default_rng(0))
    assert 8 < told.gain_d <= 16
    assert told.d == 32
    assert told.gain_ci[0] <= told.gain_d <= told.gain_ci[1]
    assert told.undecided == 0


def test_where_texts_never_come_back_there_is_no_choice_but_the_gain_is_told() -> None:
    told = choose([curve_of(GAINS, [9.0, 3.0, 2.0, 1.5, 1.2, 0.9])], np.random.default_rng(0))
    assert told.d is None
    assert told.undecided == 1
    assert 8 < told.gain_d <= 16


def test_the_choice_is_the_smallest_length_that_is_enough_by_both() -> None:
    told = choose([curve_of(GAINS, [0.1, 3.0, 1.0, 0.2, 0.4, 0.1])], np.random.default_rng(0))
    assert told.d == 16
    back = choose([curve_of(GAINS, [0.1] * 6)], np.random.default_rng(0))
    assert back.d == back.gain_d
    late = choose([curve_of(GAINS, [9, 9, 9, 9, 9, 0.1])], np.random.default_rng(0))
    assert late.d == 64


def test_seeds_that_differ_make_the_interval_wider() -> None:
    one = [curve_of(GAINS, TRIPS, seed) for seed in range(3)]
    other = [5.0, 12.0, 17.0, 19.0, 19.5, 20.0]
    mixed = [one[0], one[1], curve_of(other, TRIPS, 2)]
    narrow, wide = (choose(some, np.random.default_rng(0)).gain_ci for some in (one, mixed))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_a_vector_that_carries_nothing_is_no_choice() -> None:
    with pytest.raises(InputError, match="nothing to choose from"):
        choose([curve_of([-1.0] * 6, TRIPS, noise=0.1)], np.random.default_rng(0))


@given(st.floats(1.0, 60.0), st.floats(1.0, 200.0))
def test_on_an_exact_curve_the_rule_is_the_formula(d0: float, limit: float) -> None:
    lengths = tuple(range(2, 129))
    gain_L = limit * (1 - np.exp(-np.array(lengths) / d0))
    fit = fitted(lengths, gain_L)
    assert fit.d0 == pytest.approx(d0, rel=0.01)
    assert fit.r2 > 0.999
    assert abs(enough_gain(lengths, gain_L) - max(2, fit.enough(128))) <= 1.05


@given(st.floats(0.5, 2.0), st.floats(5.0, 60.0))
def test_a_straight_curve_is_told_from_a_bent_one(slope: float, top: float) -> None:
    lengths = curve_lengths(256)
    straight = fitted(lengths, np.minimum(slope * np.array(lengths), top))
    assert straight.straight.r2 > 0.99
    assert straight.straight.limit == pytest.approx(top, rel=0.05)
    bent = fitted(lengths, top * (1 - np.exp(-np.array(lengths) / 30)))
    assert bent.r2 > bent.straight.r2


def test_a_curve_that_falls_again_counts_as_level() -> None:
    assert enough_gain(LENGTHS, np.array([1.0, 10.0, 20.0, 18.0, 15.0, 19.0])) <= 8


def told_apart(*gains: float, seed: int = 0) -> dict[str, Any]:
    """What one seed's command told of models of 8, 16 and 32 coordinates."""
    sizes = [
        {"d": d, "gain": gain, "ci": [gain - 0.1, gain + 0.1], "round_trip": 0.1}
        for d, gain in zip((8, 16, 32), gains, strict=True)
    ]
    return {"trained": [{"seed": seed}, {"seed": seed}], "check": {"sizes": sizes}}


def test_seeds_that_were_measured_apart_are_pooled() -> None:
    rng = np.random.default_rng(0)
    alike = pooled([told_apart(5, 10, 20), told_apart(5, 10, 20, seed=1)], rng)
    assert alike["d"] == enough_gain([8, 16, 32], np.array([5.0, 10.0, 20.0]))
    assert alike["ci"][0] <= alike["d"] <= alike["ci"][1] <= alike["ci"][0] + 2
    half = alike["sizes"][2]["ci"][1] - 20
    assert half == pytest.approx(0.1, rel=0.15), "the texts' part alone, the same of both seeds"
    apart = pooled([told_apart(5, 9, 20), told_apart(5, 11, 20, seed=1)], rng)
    assert apart["ci"][1] - apart["ci"][0] > alike["ci"][1] - alike["ci"][0]
    low, high = apart["sizes"][1]["ci"]
    assert low < 2 < 18 < high, "two seeds tell little"


@pytest.mark.parametrize(
    "others", [[], [told_apart(5, 10, 20)], [{}], [{"trained": [], "check": None}],
               [{"trained": [{"seed": 1}], "check": {"sizes": []}}]]
)  # fmt: skip
def test_only_single_seeds_of_the_same_sizes_are_pooled(others: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError):
        pooled([told_apart(5, 10, 20), *others], np.random.default_rng(0))
