"""Inside and outside of clouds whose shape is known."""

from __future__ import annotations

import numpy as np
import pytest

from cllm.enclosure import Support, sheet_dimension
from cllm.sphere import ExactIndex, unit

RNG = np.random.default_rng


def laid_into(flat: np.ndarray, wide: int, blur: float = 0.0) -> np.ndarray:
    """A cloud turned into more coordinates, blurred a little."""
    rng = RNG(1)
    turned = flat @ np.linalg.qr(rng.normal(size=(wide, wide)))[0][: flat.shape[1]]
    return unit(turned + blur * rng.standard_normal(turned.shape))


def sphere(count: int, dim: int) -> np.ndarray:
    return unit(RNG(2).standard_normal((count, dim)))


def torus(count: int, wide: int) -> np.ndarray:
    a, b = RNG(3).uniform(0, 2 * np.pi, (2, count))
    return laid_into(np.stack([np.cos(a), np.sin(a), np.cos(b), np.sin(b)], axis=1), wide)


@pytest.mark.parametrize("dim", [2, 3, 5, 9])
def test_a_full_sphere_has_a_sheet_of_all_its_dimensions(dim: int) -> None:
    assert sheet_dimension(ExactIndex(sphere(2000, dim)), RNG(0)) == dim - 1


def test_a_torus_is_a_sheet_of_two_dimensions() -> None:
    assert sheet_dimension(ExactIndex(torus(4000, 4)), RNG(0)) == 2


def test_frames_hold_the_point_and_the_sheet() -> None:
    cloud = torus(4000, 4)
    support = Support.learn(ExactIndex(cloud), None, RNG(0))
    frame = support.frames(cloud[:20])
    assert frame.shape == (20, 3, 4)
    upright = np.tile(np.eye(3), (20, 1, 1))
    np.testing.assert_allclose(frame @ frame.swapaxes(1, 2), upright, atol=1e-9)
    np.testing.assert_allclose(frame[:, 0], cloud[:20], atol=1e-6)
    assert support.measure(cloud[:20])[1].min() > 0.95


def test_places_off_the_sheet_and_at_its_edge_are_outside() -> None:
    cloud = torus(4000, 4)
    index = ExactIndex(cloud[400:])
    support = Support.learn(index, cloud[:400], RNG(0))
    assert support.holds(cloud[:400]).mean() == pytest.approx(0.9, abs=0.07)
    off = unit(cloud[:100] + 0.6 * RNG(5).standard_normal((100, 4)))
    assert support.holds(off).mean() < 0.1
    cap = unit([2.0, 0, 0] + RNG(6).standard_normal((2000, 3)) * 0.3)
    edge = Support.learn(ExactIndex(cap[200:]), cap[:200], RNG(0))
    beside = unit(np.append(np.zeros((50, 1)), RNG(7).standard_normal((50, 2)), axis=1))
    assert not edge.holds(beside).any()
