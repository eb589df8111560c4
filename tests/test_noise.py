"""Noise belongs to the text: the same however a batch is made up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllm.noise import normal, text_keys, uniform

IDS = [f"recipe {i}" for i in range(500)]


@given(order=st.permutations(range(12)), split=st.integers(1, 11), seed=st.integers(0, 2**40))
def test_draws_do_not_depend_on_order_or_split(order: list[int], split: int, seed: int) -> None:
    keys_N = text_keys(IDS[:12])
    whole = uniform(seed, 7, keys_N, 5, stream=1)
    parts = [uniform(seed, 7, keys_N[rows], 5, 1) for rows in (order[:split], order[split:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


def test_longer_draws_begin_with_the_shorter_ones() -> None:
    keys_N = text_keys(IDS[:4])
    np.testing.assert_array_equal(uniform(0, 1, keys_N, 9, 2)[:, :4], uniform(0, 1, keys_N, 4, 2))


@pytest.mark.parametrize(
    ("seed", "step", "ids", "stream"),
    [(1, 0, IDS, 1), (0, 1, IDS, 1), (0, 0, [f"x{i}" for i in IDS], 1), (0, 0, IDS, 2)],
    ids=["seed", "step", "text", "stream"],
)
def test_everything_named_changes_the_draws(
    seed: int, step: int, ids: list[str], stream: int
) -> None:
    plain = uniform(0, 0, text_keys(IDS), 40, 1)
    other = uniform(seed, step, text_keys(ids), 40, stream)
    assert abs(np.corrcoef(plain.ravel(), other.ravel())[0, 1]) < 0.03
    assert (plain == other).mean() < 0.001


def test_seed_and_step_do_not_stand_in_for_each_other() -> None:
    keys_N = text_keys(IDS[:3])
    assert not np.array_equal(uniform(3, 4, keys_N, 8, 1), uniform(4, 3, keys_N, 8, 1))


def test_uniform_moments_and_independence() -> None:
    draws = uniform(3, 5, text_keys(IDS), 400, stream=3).astype(np.float64)
    assert draws.mean() == pytest.approx(0.5, abs=0.003)
    assert draws.var() == pytest.approx(1 / 12, abs=0.001)
    across_positions = np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]
    across_texts = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert max(abs(across_positions), abs(across_texts)) < 0.01


def test_uniform_lies_strictly_inside_the_unit_interval() -> None:
    draws = uniform(0, 0, text_keys(IDS), 4000, stream=1)
    assert draws.dtype == np.float32
    assert draws.min() > 0
    assert draws.max() < 1
    assert np.isfinite(normal(0, 0, text_keys(IDS), 4000, stream=1)).all()


def test_normal_moments() -> None:
    draws = normal(3, 5, text_keys(IDS), 400, stream=4).astype(np.float64)
    assert draws.mean() == pytest.approx(0, abs=0.01)
    assert draws.std() == pytest.approx(1, abs=0.01)
    assert (draws**4).mean() == pytest.approx(3, abs=0.1)
    assert (np.abs(draws) < 1.96).mean() == pytest.approx(0.95, abs=0.003)


def test_draws_are_the_same_on_every_machine() -> None:
    # from one run; a change would make earlier trainings impossible to repeat
    assert text_keys(["a"]).tolist() == [0x2F42665B399EF840]
    drawn = uniform(1, 2, text_keys(["a"]), 2, stream=3)[0]
    np.testing.assert_allclose(drawn, [0.9940465, 0.563076], atol=1e-7)


def test_keys_differ_between_texts() -> None:
    assert len(set(text_keys(IDS).tolist())) == len(IDS)
    assert text_keys(("é",)).dtype == np.uint64
