"""Where the finder starts."""

from __future__ import annotations

import numpy as np

from cllm.proposals import (
    along_principal_directions,
    at_fourth_corners,
    between_clusters,
    between_far_neighbours,
    on_chords,
    propose,
)
from cllm.sphere import ExactIndex, angle, unit


def compositional(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Texts at the sums of a first and a second part, but for one sum; and that one's place."""
    first, second = np.eye(8)[:4], np.eye(8)[4:]
    sums = [a + b for a in first for b in second]
    missing = sums.pop(5)
    near = 0.05 * rng.standard_normal((80, len(sums), 8))
    return unit((np.array(sums) + near).reshape(-1, 8)), unit(missing[None])[0]


def test_a_fourth_corner_lies_where_a_combination_is_missing() -> None:
    rng = np.random.default_rng(3)
    cloud, missing = compositional(rng)
    index = ExactIndex(cloud)
    nearest_text = index.search(missing[None], 1)[0].item()
    corners = at_fourth_corners(index, 600, rng)
    np.testing.assert_allclose(np.linalg.norm(corners, axis=1), 1, atol=1e-5)
    assert np.sort(angle(corners, missing))[5] < 0.5 * nearest_text


def test_all_kinds_are_proposed_in_the_number_asked() -> None:
    cloud = unit(np.random.default_rng(1).standard_normal((300, 6)))
    for count in (1, 4, 103):
        drawn = propose(ExactIndex(cloud), count, np.random.default_rng(0))
        assert drawn.shape == (count, 6)
        assert np.isfinite(drawn).all()


def two_patches() -> ExactIndex:
    """Two tight patches of a hundred texts, a right angle apart."""
    rng = np.random.default_rng(5)
    ends = np.repeat(np.eye(6)[:2], 100, axis=0)
    return ExactIndex(unit(ends + 0.02 * rng.standard_normal((200, 6))))


def test_gaps_between_clusters_are_proposed_half_way() -> None:
    index = two_patches()
    middle = unit(np.array([[1.0, 1, 0, 0, 0, 0]]))[0]
    for kind in (on_chords, between_clusters):
        drawn = kind(index, 200, np.random.default_rng(0))
        assert (angle(drawn, middle) < 0.5).sum() > 10, kind.__name__  # random points: none
        assert (angle(drawn, middle) < 1.0).all(), kind.__name__


def test_far_neighbours_are_joined_half_way() -> None:
    index = ExactIndex(unit(np.random.default_rng(2).standard_normal((50, 3))))
    drawn = between_far_neighbours(index, 30, np.random.default_rng(0))
    between = unit((index.cloud_ND[:, None] + index.cloud_ND[None]).reshape(-1, 3))
    assert (ExactIndex(between).search(drawn, 1)[0] < 1e-3).all()


def test_steps_off_a_thin_patch_stay_in_its_sheet() -> None:
    rng = np.random.default_rng(4)
    sheet = unit(np.concatenate([rng.standard_normal((400, 3)), np.zeros((400, 5))], axis=1))
    drawn = along_principal_directions(ExactIndex(sheet), 100, np.random.default_rng(0))
    assert np.abs(drawn[:, 3:]).max() < 1e-3
    assert (ExactIndex(sheet).search(drawn, 1)[0] > 0).any()
