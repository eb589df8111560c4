"""Where the finder starts."""

from __future__ import annotations

import numpy as np

from cllm.proposals import at_fourth_corners, propose
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
