"""Geometry on the sphere: stable angles, great circles, exact neighbours, Delaunay cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from cllm.errors import InputError
from cllm.sphere import (
    ExactIndex,
    angle,
    delaunay_cells,
    prefix,
    require_unit,
    slerp,
    tangent,
    unit,
)

seeds = st.integers(0, 2**32 - 1)
dims = st.integers(2, 40)


def points(seed: int, count: int, dim: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def test_unit_projects_and_keeps_float32() -> None:
    x = unit(np.array([[3.0, 4.0], [0.0, -2.0]]))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [[0.6, 0.8], [0.0, -1.0]], rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_unit_names_the_row_without_direction(bad: float) -> None:
    x = np.ones((4, 3))
    x[2] = bad
    with pytest.raises(InputError, match="row 2"):
        unit(x)


def test_require_unit_names_the_text() -> None:
    x = points(0, 3, 4)
    x[1] *= 1.1
    with pytest.raises(InputError, match=r"text b.*norm 1\.1"):
        require_unit(x, "text", ["a", "b", "c"])
    x[1] = np.nan
    with pytest.raises(InputError, match="row 1"):
        require_unit(x)


def test_require_unit_takes_half_precision() -> None:
    x = require_unit(points(1, 50, 32).astype(np.float16))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, atol=1e-6)


@given(st.floats(1e-12, np.pi - 1e-6), dims)
@settings(max_examples=50, deadline=None)
def test_angle_is_right_from_tiny_to_nearly_opposite(turn: float, dim: int) -> None:
    a, b = np.zeros(dim), np.zeros(dim)
    a[0], b[0], b[1] = 1.0, np.cos(turn), np.sin(turn)
    assert angle(a, b) == pytest.approx(turn, rel=1e-9)


def test_angle_of_a_float32_vector_with_itself_is_zero() -> None:
    x = points(2, 20, 7)
    assert (angle(x, x) == 0).all()


@given(seeds, dims, st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_slerp_divides_the_angle_on_the_sphere(seed: int, dim: int, share: float) -> None:
    a, b = points(seed, 2, dim)
    c = slerp(a, b, share)
    assert np.linalg.norm(c) == pytest.approx(1, abs=1e-6)
    assert angle(a, c) == pytest.approx(share * angle(a, b), abs=2e-6)
    assert angle(c, b) == pytest.approx((1 - share) * angle(a, b), abs=2e-6)


@given(seeds, dims)
@settings(max_examples=25, deadline=None)
def test_slerp_between_antipodes_has_a_clear_way(seed: int, dim: int) -> None:
    (a,) = points(seed, 1, dim)
    middle = slerp(a, -a, 0.5)
    assert angle(a, middle) == pytest.approx(np.pi / 2, abs=1e-5)
    assert np.argmax(np.abs(middle)) == np.argmin(np.abs(a)) or dim == 2
    np.testing.assert_array_equal(middle, slerp(a, -a, 0.5))


def test_slerp_is_batched_over_pairs_and_shares() -> None:
    a, b = points(3, 5, 4), points(4, 5, 4)
    shares = np.linspace(0, 1, 5)
    each = np.stack([slerp(x, y, t) for x, y, t in zip(a, b, shares, strict=True)])
    np.testing.assert_allclose(slerp(a, b, shares), each, atol=1e-7)


@given(seeds, dims)
@settings(max_examples=25, deadline=None)
def test_tangent_is_a_unit_direction_across_that_leads_there(seed: int, dim: int) -> None:
    c, x = points(seed, 2, dim).astype(np.float64)
    direction = tangent(c, x)
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert direction @ c == pytest.approx(0, abs=1e-6)
    assert angle(slerp(c, direction, 1e-3), x) < angle(c, x)


def test_prefix_is_put_back_on_its_sphere() -> None:
    x = points(5, 10, 8)
    short = prefix(x, 3)
    assert short.shape == (10, 3)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(short[:, 0] * x[:, 1], short[:, 1] * x[:, 0], atol=1e-6)
    for wrong in (1, 9):
        with pytest.raises(InputError, match="choose 2 to 8"):
            prefix(x, wrong)


@given(seeds, st.integers(2, 12), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_neighbours_are_those_of_all_pairs(seed: int, dim: int, k: int) -> None:
    cloud, queries = points(seed, 20, dim), points(seed + 1, 6, dim)
    angles, ids = ExactIndex(cloud).search(queries, k)
    every = angle(queries[:, None], cloud[None])
    np.testing.assert_allclose(angles, np.sort(every, axis=1)[:, :k], atol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(every, ids, 1), angles, atol=1e-9)


def test_kth_angle_leaves_the_vector_itself_out() -> None:
    turns = np.array([0.0, 0.1, 0.3, 0.7])
    cloud = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    np.testing.assert_allclose(ExactIndex(cloud).kth_angle(1), [0.1, 0.1, 0.2, 0.4], atol=1e-6)
    np.testing.assert_allclose(ExactIndex(cloud).kth_angle(2), [0.3, 0.2, 0.3, 0.6], atol=1e-6)
    assert ExactIndex(cloud).median_nearest() == pytest.approx(0.15, abs=1e-6)


def test_duplicates_are_neighbours_at_angle_zero() -> None:
    cloud = np.repeat(points(6, 2, 3), 5, axis=0)
    angles, ids = ExactIndex(cloud).own_neighbours(3)
    assert (angles == 0).all()
    assert angles.shape == ids.shape == (10, 3)


def test_a_query_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="3 coordinates, the cloud has 4"):
        ExactIndex(points(7, 9, 4)).search(points(8, 2, 3), 2)


@pytest.mark.parametrize("dim", [2, 3, 4, 6])
def test_cells_are_the_facets_of_the_convex_hull(dim: int) -> None:
    cloud = points(9, 60, dim)
    queries = points(10, 100, dim)
    cells = delaunay_cells(ExactIndex(cloud), queries)
    assert cells.bounded_Q.all()
    facets = {tuple(sorted(facet)) for facet in ConvexHull(cloud.astype(float)).simplices}
    for corners, centre, query in zip(cells.corners_QJ, cells.centre_QD, queries, strict=True):
        assert tuple(sorted(corners)) in facets
        np.testing.assert_allclose(angle(centre, cloud[corners]), angle(centre, cloud).min(), 1e-5)
        weights = np.linalg.solve(cloud[corners].T.astype(float), query)
        assert weights.min() >= -1e-5


def test_a_ray_that_leaves_a_one_sided_cloud_meets_no_cell() -> None:
    cloud = points(11, 200, 4)
    cloud[:, 0] = np.abs(cloud[:, 0]) + 0.5
    index = ExactIndex(unit(cloud))
    outside, inside = np.array([[-1.0, 0, 0, 0]]), np.array([[1.0, 0, 0, 0]])
    assert not delaunay_cells(index, outside).bounded_Q[0]
    assert delaunay_cells(index, inside).bounded_Q[0]


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_neighbours_are_exact_in_a_cloud_too_tight_for_float32(spread: float) -> None:
    rng = np.random.default_rng(7)
    cloud = unit(np.eye(8)[0] + spread * rng.standard_normal((1500, 8)))
    found = ExactIndex(cloud).search(cloud[:100], 10)[0]
    true = np.sort(angle(cloud[:100, None], cloud[None]), axis=1)[:, :10]
    np.testing.assert_allclose(found, true, rtol=2e-3)
