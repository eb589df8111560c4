"""The void finder against known truth: planted voids, exact caps, clouds with nothing in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.spatial import SphericalVoronoi

from cllm.enclosure import Support
from cllm.errors import InputError
from cllm.nulls import KINDS
from cllm.sphere import ExactIndex, angle, tangent, unit
from cllm.void_files import load_voids, save_voids
from cllm.voids import (
    VoidSearch,
    VoidSettings,
    climb,
    find_voids,
    overlap,
    prune,
    void_scores,
)

ALONE = VoidSettings(places=0, nulls=0)
WITHOUT_NULLS = VoidSettings(proposals=400, places=0, climbed=150, nulls=0)


def points(seed: int, count: int, dim: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def search(cloud: np.ndarray, settings: VoidSettings = WITHOUT_NULLS, seed: int = 0) -> VoidSearch:
    return find_voids(cloud, settings, np.random.default_rng(seed))


def whole(index: ExactIndex) -> Support:
    """The support of a cloud that fills its sphere, without held-out texts."""
    return Support.learn(index, None, np.random.default_rng(0))


def planted(seed: int, dim: int, removed: int = 40, count: int = 1500) -> tuple[np.ndarray, ...]:
    """A uniform cloud without the `removed` points nearest to a place; that place; its radius."""
    cloud, centre = points(seed, count, dim), points(seed + 1000, 1, dim)[0]
    far = angle(centre, cloud)
    radius = np.sort(far)[removed]
    return cloud[far >= radius], centre, radius


@pytest.mark.parametrize("dim", [3, 4, 6])
def test_a_planted_void_is_found_enclosed_and_largest(dim: int) -> None:
    cloud, centre, radius = planted(dim, dim)
    largest = max(search(cloud).enclosed, key=lambda void: void.radius)
    assert angle(largest.centre_K, centre) < 0.25 * radius
    assert largest.radius >= radius * (1 - 1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_cap_on_the_sphere_is_that_of_the_voronoi_vertices(seed: int) -> None:
    cloud = points(seed, 800, 3).astype(np.float64)
    cloud /= np.linalg.norm(cloud, axis=1, keepdims=True)
    vertices = SphericalVoronoi(cloud).vertices
    truth = ExactIndex(cloud).search(vertices, 1)[0].max()
    assert search(cloud).largest_radius == pytest.approx(truth, rel=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_largest_gap_of_a_circle_is_exact(seed: int) -> None:
    turns = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, 60))
    cloud = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    gap = np.diff(turns, append=turns[0] + 2 * np.pi).max()
    found = search(cloud, VoidSettings(places=0, proposals=40, climbed=10, nulls=0))
    assert found.largest_radius == pytest.approx(gap / 2, abs=1e-5)


def test_an_enclosed_void_is_positively_spanned_by_its_rim() -> None:
    """Independent of the finder: a linear programme for weights that balance the directions."""
    cloud = points(1, 1000, 5)
    voids = search(cloud).enclosed
    assert len(voids) >= 5
    for void in voids:
        towards = tangent(void.centre_K[None], cloud[list(void.rim)])
        balance = linprog(
            np.zeros(len(towards)),
            A_eq=np.vstack([towards.T, np.ones(len(towards))]),
            b_eq=np.append(np.zeros(5), 1),
            options={"primal_feasibility_tolerance": 1e-5},
        )
        assert balance.success


def test_the_rim_touches_and_the_radius_is_the_empty_one() -> None:
    cloud = points(2, 1000, 4)
    for void in search(cloud).enclosed:
        rim = angle(void.centre_K, cloud[list(void.rim)])
        assert void.radius == pytest.approx(angle(void.centre_K, cloud).min(), abs=1e-6)
        assert 4 <= len(void.rim) <= 10
        np.testing.assert_allclose(rim[:4], void.radius, rtol=1e-6)
        assert (np.diff(rim) > -1e-6).all()


@pytest.mark.parametrize("dim", [3, 6])
def test_climbing_never_loses_radius(dim: int) -> None:
    index, start = ExactIndex(points(3, 500, dim)), points(4, 60, dim)
    support = whole(index)
    before = index.search(start, 1)[0][:, 0]
    for rounds in (1, 2, 60):
        centres, settled = climb(support, start, rounds)
        after = index.search(centres, 1)[0][:, 0]
        assert (after >= before - 1e-6).all()
        before = after
    assert settled.all()


def test_the_outskirts_of_a_one_sided_cloud_are_not_enclosed() -> None:
    rng = np.random.default_rng(5)
    cloud = unit(np.append(np.ones((800, 1)) * 2, rng.standard_normal((800, 3)), axis=1))
    found = search(cloud)
    assert found.enclosed
    reach = angle(np.array([1.0, 0, 0, 0]), cloud).max()
    for void in found.enclosed:
        assert angle(np.array([1.0, 0, 0, 0]), void.centre_K) < reach
    index = ExactIndex(cloud)
    outside = unit(np.array([[-1.0, 0.2, 0.1, 0]]))
    centres, settled = climb(whole(index), outside, 10)
    assert not settled[0]
    np.testing.assert_allclose(centres, outside, atol=1e-7)
    covered = whole(index).measure(np.append(outside, [[1.0, 0, 0, 0]], axis=0))[0]
    assert covered[0] < 0 < covered[1]


def test_held_out_texts_set_what_counts_as_inside() -> None:
    """The same places fail where the held-out texts lie deep in the cloud."""
    rng = np.random.default_rng(7)
    pole = np.array([1.5, 0, 0, 0])
    cloud = unit(pole + rng.standard_normal((1500, 4)))
    everywhere = unit(pole + rng.standard_normal((300, 4)))
    middle = unit(pole + 0.1 * rng.standard_normal((300, 4)))
    usual, strict = (
        find_voids(cloud, WITHOUT_NULLS, np.random.default_rng(0), held_out)
        for held_out in (everywhere, middle)
    )
    assert len(strict.enclosed) < len(usual.enclosed)


def test_kept_voids_overlap_no_more_than_allowed() -> None:
    for allowed in (0.0, 0.1, 0.5):
        voids = search(points(9, 800, 4), WITHOUT_NULLS.model_copy(update={"max_overlap": allowed}))
        centres = np.stack([void.centre_K for void in voids.voids])
        radii = np.array([void.radius for void in voids.voids])
        shared = overlap(
            angle(centres[:, None], centres[None]), radii[:, None], radii[None]
        ) - np.eye(len(radii))
        assert shared.max() <= allowed + 1e-5


def test_places_that_nothing_encloses_push_no_void_out() -> None:
    rng = np.random.default_rng(4)
    cloud = unit(rng.standard_normal((3000, 4)))
    cloud = cloud[cloud[:, 0] > 0.2]  # beyond the cap's edge places are empty, and not enclosed
    few, many = (
        find_voids(cloud, VoidSettings(nulls=0, places=0, proposals=500, climbed=200, count=count),
                   np.random.default_rng(0))
        for count in (10, 1000)
    )  # fmt: skip
    assert len(many.enclosed) < len(many.voids)
    assert len(few.enclosed) == len(few.voids) == 10
    best = [void.score for void in many.enclosed[:10]]
    assert [void.score for void in few.voids] == best


@pytest.mark.parametrize("kind", ["sparse", "corners", "apart"])
def test_discrete_codes_are_searched_too(kind: str) -> None:
    """Sparse vectors, texts at equal distances, held-out texts off the cloud's subspace."""
    rng = np.random.default_rng(3)
    sparse = np.maximum(rng.standard_normal((700, 6)), 0)
    flat = np.pad(rng.standard_normal((300, 3)), ((0, 0), (0, 2)))
    cloud, held_out = {
        "sparse": (sparse[sparse.any(axis=1)], None),
        "corners": (np.concatenate([np.eye(24), -np.eye(24)]), None),
        "apart": (flat, np.concatenate([flat[:50] + 0.01, [[0, 0, 0, 0, 1.0]]])),
    }[kind]
    turn = np.linalg.qr(rng.standard_normal((cloud.shape[1],) * 2))[0]
    if held_out is not None:  # not along the axes
        cloud, held_out = cloud @ turn, held_out @ turn
    how = VoidSettings(proposals=100, climbed=20, places=50, nulls=1)
    found = find_voids(unit(cloud), how, rng, None if held_out is None else unit(held_out))
    assert found.p_value in (0.5, 1.0)
    assert max(score for _, some in found.null_scores for score in some) < 100


def test_null_clouds_are_judged_with_held_out_texts_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[np.ndarray] = []
    learn = Support.learn

    def watched(index: ExactIndex, held_out: np.ndarray, rng: np.random.Generator) -> Any:
        seen.append(held_out)
        return learn(index, held_out, rng)

    monkeypatch.setattr(Support, "learn", watched)
    rng = np.random.default_rng(0)
    cloud, held_out = (unit(rng.standard_normal((n, 4))) for n in (300, 40))
    how = VoidSettings(proposals=50, climbed=10, places=0, nulls=1)
    find_voids(cloud, how, rng, held_out)
    assert [len(held_out) for held_out in seen] == [40] * 4
    assert all(not np.allclose(held_out, seen[0]) for held_out in seen[1:])


def test_overlap_is_the_share_of_the_smaller_diameter() -> None:
    assert overlap(np.array(0.5), np.array(0.3), np.array(0.2)) == 0
    assert overlap(np.array(0.45), np.array(0.3), np.array(0.2)) == pytest.approx(0.125)
    assert overlap(np.array(0.05), np.array(0.3), np.array(0.2)) == 1


def test_pruning_keeps_the_first_of_what_overlaps() -> None:
    centres = unit(np.array([[1.0, 0], [1.0, 0.05], [0.0, 1.0]]))
    np.testing.assert_array_equal(prune(centres, np.array([0.3, 0.3, 0.2]), 0.1), [0, 2])
    np.testing.assert_array_equal(prune(centres, np.array([0.3, 0.3, 0.2]), 1.0), [0, 1, 2])


def test_the_score_is_the_ratio_of_local_distances() -> None:
    cloud, query = points(10, 200, 3), points(11, 7, 3)
    rho, d_k = void_scores(cloud, query, k=5)
    to_cloud = np.sort(angle(query[:, None], cloud[None]), axis=1)
    nearest = np.argsort(angle(query[:, None], cloud[None]), axis=1)[:, :5]
    own = np.sort(angle(cloud[:, None], cloud[None]), axis=1)[:, 5]
    np.testing.assert_allclose(d_k, to_cloud[:, 4], atol=1e-9)
    np.testing.assert_allclose(rho, to_cloud[:, 4] / np.median(own[nearest], axis=1), rtol=1e-6)


def test_a_search_repeats_by_its_seed_and_sorts_by_score() -> None:
    cloud = points(12, 400, 4)
    few = VoidSettings(places=0, proposals=100, climbed=40, nulls=2)
    first, second, other = (search(cloud, few, seed=s) for s in (0, 0, 1))
    for a, b in zip(first.voids, second.voids, strict=True):
        np.testing.assert_array_equal(a.centre_K, b.centre_K)
        assert replace(a, centre_K=None) == replace(b, centre_K=None)
    scores = [void.score for void in first.voids]
    assert scores == sorted(scores, reverse=True)
    assert scores != [void.score for void in other.voids]
    assert [void.id for void in first.voids] == list(range(len(scores)))


def test_a_planted_void_stands_out_and_an_even_cloud_does_not() -> None:
    quick = VoidSettings(places=0, proposals=100, climbed=30)
    cloud, centre, radius = planted(14, 3, count=800)
    found = search(cloud, quick)
    assert found.p_value == 0.05
    assert found.radius_ratio is not None
    assert found.radius_ratio > 1.3
    assert found.enclosed[0].p_value == 0.05
    assert angle(found.enclosed[0].centre_K, centre) < 0.25 * radius
    assert {kind for kind, _ in found.p_values} == set(KINDS)
    even = [search(points(seed, 300, 3), quick, seed) for seed in range(3)]
    assert sum(e.p_value is not None and e.p_value <= 0.05 for e in even) <= 1


def test_chance_explains_places_that_no_one_climbed_as_well() -> None:
    cloud = points(31, 400, 4)
    climbed = VoidSettings(proposals=60, climbed=2, places=0)
    alone = search(cloud, climbed).chance
    both = search(cloud, climbed.model_copy(update={"places": 2000})).chance
    assert alone is not None
    assert both is not None
    assert both > alone


def test_without_nulls_there_are_no_p_values() -> None:
    found = search(points(15, 300, 3))
    assert found.p_value is None
    assert found.radius_ratio is None
    assert found.p_values == ()
    assert all(void.p_value is None for void in found.voids)


def test_duplicates_count_once_and_rims_name_rows_of_the_given_cloud() -> None:
    cloud = points(17, 400, 3)
    doubled = np.repeat(cloud, 3, axis=0)
    once, thrice = search(cloud), search(doubled)
    assert len(once.voids) == len(thrice.voids)
    for a, b in zip(once.voids, thrice.voids, strict=True):
        assert a.radius == b.radius
        assert a.score == b.score
        np.testing.assert_array_equal(cloud[list(a.rim)], doubled[list(b.rim)])


def test_bad_clouds_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"5 distinct vectors are too few.*at least 6"):
        search(points(18, 5, 4))
    with pytest.raises(InputError, match="1 distinct vectors"):
        search(np.repeat(points(18, 1, 4), 50, axis=0))
    for value, norm in ((np.nan, "nan"), (np.inf, "inf"), (2.0, "4")):
        cloud = points(18, 50, 4)
        cloud[7] = value
        with pytest.raises(InputError, match=f"cloud row 7 .*norm {norm}"):
            search(cloud)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0])
def test_bad_held_out_texts_are_refused_in_one_line(value: float) -> None:
    held_out = points(19, 20, 4)
    held_out[3] = value
    with pytest.raises(InputError, match="held-out row 3 "):
        find_voids(points(18, 50, 4), WITHOUT_NULLS, np.random.default_rng(0), held_out)
    with pytest.raises(InputError, match="held-out texts have 3 coordinates, the cloud 4"):
        find_voids(points(18, 50, 4), WITHOUT_NULLS, np.random.default_rng(0), points(19, 20, 3))


@pytest.mark.parametrize("spread", [0.1, 0.01, 0.001])
def test_one_cluster_only_is_searched_like_any_cloud(spread: float) -> None:
    """A ball emptied in the middle of it is found, however small it all is."""
    rng = np.random.default_rng(5)
    cloud, held_out = (
        unit(np.eye(4)[0] + spread * rng.standard_normal((n, 4))) for n in (2000, 200)
    )
    place = unit(np.array([[1.0, 0.5 * spread, 0, 0]]))[0]
    radius = np.sort(angle(place, cloud))[60]
    cloud = cloud[angle(place, cloud) >= radius]
    found = find_voids(cloud, WITHOUT_NULLS, rng, held_out)
    assert found.sheet_dim == 3
    assert np.isfinite([void.score for void in found.voids]).all()
    assert min(angle(void.centre_K, place) for void in found.enclosed) < radius / 2


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_a_constant_coordinate_hides_no_void(constant: float) -> None:
    cloud, centre, radius = planted(6, 4)
    cloud, held_out, place = (
        unit(np.append(x, np.full((len(x), 1), constant), axis=1))
        for x in (cloud, points(29, 150, 4), centre[None])
    )
    held_out = held_out[angle(place[0], held_out) >= radius]
    found = find_voids(cloud, WITHOUT_NULLS, np.random.default_rng(1), held_out)
    assert min(angle(void.centre_K, place[0]) for void in found.enclosed) < radius / 2


def test_no_void_at_all_is_an_answer() -> None:
    """Nothing counts as enclosed before it has climbed to where texts touch it on all sides."""
    found = search(
        points(19, 200, 4), VoidSettings(places=0, proposals=50, climbed=20, rounds=0, nulls=3)
    )
    assert found.enclosed == ()
    assert found.p_value == 1.0
    assert found.radius_ratio is None
    least = search(points(20, 6, 4))
    assert least.largest_score == max((v.score for v in least.enclosed), default=-np.inf)


def test_a_thin_cloud_is_searched_in_its_own_subspace() -> None:
    """A planted void of a sphere that is laid into many more coordinates, a little blurred."""
    flat, centre, radius = planted(22, 3)
    turned = np.linalg.qr(np.random.default_rng(23).normal(size=(24, 24)))[0][:3]
    blur = 0.002 * np.random.default_rng(24).standard_normal((len(flat), 24))
    cloud = unit(flat @ turned + blur)
    found = search(cloud)
    assert found.sheet_dim == 2
    largest = max(found.enclosed, key=lambda void: void.radius)
    assert angle(largest.centre_K, unit((centre @ turned)[None])[0]) < 0.25 * radius
    assert largest.radius == pytest.approx(angle(largest.centre_K, cloud).min(), rel=0.05)


def test_a_bent_sheet_has_its_voids_in_the_sheet() -> None:
    """A torus in eight coordinates with a disc cut out: nothing off the torus counts."""
    rng = np.random.default_rng(25)
    turns = rng.uniform(0, 2 * np.pi, (4000, 2))
    apart = np.abs((turns + np.pi) % (2 * np.pi) - np.pi)
    turns = turns[np.linalg.norm(apart, axis=1) > 0.5]
    turned = np.linalg.qr(rng.normal(size=(8, 8)))[0][:4]

    def torus(turns: np.ndarray) -> np.ndarray:
        flat = [np.cos(turns[:, 0]), np.sin(turns[:, 0]), np.cos(turns[:, 1]), np.sin(turns[:, 1])]
        return unit(np.stack(flat, axis=1) @ turned)

    held_out, cloud = torus(turns[:400]), torus(turns[400:])
    found = find_voids(cloud, ALONE, np.random.default_rng(0), held_out)
    assert found.sheet_dim == 2
    largest = max(found.enclosed, key=lambda void: void.radius)
    hole = torus(np.zeros((1, 2)))[0]
    assert angle(largest.centre_K, hole) < 0.2
    others = [void for void in found.enclosed if void is not largest]
    assert others
    assert max(void.radius for void in others) < 0.5 * largest.radius


def test_voids_come_back_from_their_file(tmp_path: Path) -> None:
    cloud = points(21, 300, 3)
    ids = [f"t{row}" for row in range(300)]
    voids = search(cloud, VoidSettings(places=0, proposals=100, climbed=40, nulls=2)).voids
    save_voids(tmp_path / "voids.parquet", voids, ids)
    for a, b in zip(voids, load_voids(tmp_path / "voids.parquet", ids), strict=True):
        np.testing.assert_array_equal(a.centre_K, b.centre_K)
        assert replace(a, centre_K=None) == replace(b, centre_K=None)
    with pytest.raises(InputError, match="not among the latents"):
        load_voids(tmp_path / "voids.parquet", ids[:10])
    earlier = pq.read_table(tmp_path / "voids.parquet").drop_columns("written")
    pq.write_table(earlier, tmp_path / "earlier.parquet")
    assert len(load_voids(tmp_path / "earlier.parquet", ids)) == len(voids)
    pq.write_table(earlier.drop_columns("radius"), tmp_path / "earlier.parquet")
    with pytest.raises(InputError, match="no column radius; search again"):
        load_voids(tmp_path / "earlier.parquet", ids)
    save_voids(tmp_path / "voids.parquet", [], ids)
    assert load_voids(tmp_path / "voids.parquet", ids) == ()
    with pytest.raises(InputError, match="cllm voids"):
        load_voids(tmp_path / "none" / "voids.parquet", ids)
