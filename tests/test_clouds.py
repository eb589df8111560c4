"""Statistics of clouds whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cllm.clouds import (
    clusters,
    describe,
    hopkins,
    intrinsic_dimension,
    persistence,
    uniformity,
)
from cllm.errors import InputError
from cllm.sphere import ExactIndex, unit

RNG = np.random.default_rng


def sphere(count: int, dim: int, seed: int = 100) -> np.ndarray:
    return unit(RNG(seed).standard_normal((count, dim)))


def inside(count: int, dim: int, wide: int, thickness: float = 0.0, seed: int = 100) -> np.ndarray:
    """A cloud of `dim` coordinates, turned into `wide` ones."""
    rng = RNG(seed + 1)
    flat = np.pad(sphere(count, dim, seed), ((0, 0), (0, wide - dim)))
    turned = flat @ np.linalg.qr(rng.normal(size=(wide, wide)))[0]
    return unit(turned + thickness * rng.standard_normal(turned.shape))


def clustered(count: int = 2000) -> tuple[np.ndarray, list[str]]:
    rng = RNG(0)
    centres, own = sphere(8, 4), rng.integers(8, size=count)
    return unit(centres[own] + 0.01 * rng.standard_normal((count, 4))), [str(i) for i in own]


@pytest.mark.parametrize(("dim", "tolerance"), [(2, 0.1), (3, 0.15), (6, 0.5)])
def test_intrinsic_dimension_of_a_sphere(dim: int, tolerance: float) -> None:
    cloud = inside(3000, dim, 12)
    once = intrinsic_dimension(ExactIndex(cloud), RNG(0))
    assert once == pytest.approx(dim - 1, abs=tolerance)
    twice = intrinsic_dimension(ExactIndex(np.vstack([cloud, cloud])), RNG(0), sample=6000)
    assert twice == pytest.approx(once, abs=tolerance)


def test_intrinsic_dimension_needs_different_vectors() -> None:
    with pytest.raises(InputError, match="10 different"):
        intrinsic_dimension(ExactIndex(unit(np.ones((500, 3)))), RNG(0))


def test_hopkins_is_half_for_uniform_and_high_for_clusters() -> None:
    rng = RNG(0)
    assert hopkins(ExactIndex(sphere(2000, 4)), rng) == pytest.approx(0.5, abs=0.05)
    cloud = clustered()[0]
    assert hopkins(ExactIndex(cloud), rng) > 0.9
    own_null = unit(cloud[rng.permutation(2000)[:200]] + 0.01 * rng.standard_normal((200, 4)))
    assert hopkins(ExactIndex(cloud), rng, own_null) < 0.75


def test_uniformity_known_values() -> None:
    assert uniformity(ExactIndex(np.tile([1.0, 0.0], (7, 1))), RNG(0)) == pytest.approx(0.0)
    ends = ExactIndex(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert uniformity(ends, RNG(0)) == pytest.approx(-8.0)
    # On the 2-sphere cosines are uniform on [-1, 1]: E exp(-4 (1 - c)) = (1 - e^-8) / 8.
    known = math.log((1 - math.exp(-8)) / 8)
    assert uniformity(ExactIndex(sphere(300, 3)), RNG(0)) == pytest.approx(known, abs=0.1)
    with pytest.raises(InputError, match="two vectors"):
        uniformity(ExactIndex(unit(np.ones((1, 3)))), RNG(0))


def test_clusters_are_found_and_compared_with_known_groups() -> None:
    cloud, groups = clustered()
    facts = clusters(ExactIndex(cloud), RNG(0), groups)
    assert facts["clusters"] == 8
    assert facts["clustered"] > 0.9
    assert facts["agreement"] > 0.9
    shuffled = list(RNG(1).permutation(groups))
    assert abs(clusters(ExactIndex(cloud), RNG(0), shuffled)["agreement"]) < 0.05
    assert "agreement" not in clusters(ExactIndex(cloud), RNG(0))


def test_a_circle_has_one_long_loop_and_a_clump_none() -> None:
    pytest.importorskip("gudhi")
    turns = RNG(0).uniform(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(turns), np.sin(turns), np.full(200, 0.3)], axis=1)
    clump = np.array([1.0, 0, 0]) + 0.05 * RNG(0).standard_normal((200, 3))
    loop, none = (persistence(ExactIndex(unit(c)), RNG(0)) for c in (circle, clump))
    assert loop["persistence_h1"] > 1.0 > 3 * none["persistence_h1"]


def test_describing_a_cloud_leaves_out_what_has_no_answer() -> None:
    same = describe(ExactIndex(unit(np.ones((30, 3)))), RNG(0))
    assert "intrinsic_dim" not in same
    assert all(math.isfinite(value) for value in same.values())
    facts = describe(ExactIndex(sphere(500, 3)), RNG(0))
    assert {"hopkins", "uniformity", "intrinsic_dim", "clustered"} <= facts.keys()
