"""Null clouds keep what they say they keep, once they lie on the sphere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Barrier

import faiss
import numpy as np
import pytest

from cllm.nulls import KINDS, SIDE_BY_SIDE, in_threads, null_cloud, own_subspace, p_value
from cllm.sphere import unit


def clustered(count: int = 4000) -> np.ndarray:
    """Five clusters in six directions, off the middle, some of them thin."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 6))
    spread = np.array([1.0, 0.6, 0.4, 0.3, 0.2, 0.1])
    return unit(centres[rng.integers(5, size=count)] + spread * rng.standard_normal((count, 6)))


def two_poles(count: int = 2000) -> np.ndarray:
    """Half the texts around one place, half around its opposite."""
    rng = np.random.default_rng(1)
    pole = rng.choice([-1.0, 1.0], size=(count, 1)) * np.eye(5)[0]
    return unit(pole + 0.2 * rng.standard_normal((count, 5)))


def test_p_value_is_that_of_the_kind_hardest_to_beat() -> None:
    nulls = {"gaussian": [1.0, 1.1, 1.2], "shuffled": [1.0, 1.4, 1.5], "uniform": [0.0] * 3}
    assert p_value(1.3, nulls) == 3 / 4
    assert p_value(9.0, nulls) == 1 / 4
    assert p_value(1.5, nulls) == 2 / 4  # a tie counts for the null


@pytest.fixture
def two_threads() -> Iterator[None]:
    """FAISS has two, whatever the machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_clouds_are_searched_side_by_side_with_a_thread_each_and_come_in_order() -> None:
    met = Barrier(2)  # none goes on alone

    def search(number: int) -> tuple[int, int]:
        met.wait(timeout=20)
        return number, faiss.omp_get_max_threads()

    assert list(in_threads(search, [3, 1, 2, 0], 100)) == [(3, 1), (1, 1), (2, 1), (0, 1)]
    assert faiss.omp_get_max_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_large_clouds_are_searched_one_after_the_other_with_all_threads() -> None:
    found = in_threads(lambda _: faiss.omp_get_max_threads(), [0, 1], SIDE_BY_SIDE)
    assert list(found) == [2, 2]


@pytest.mark.usefixtures("two_threads")
def test_a_search_that_fails_is_told_and_the_rest_is_left() -> None:
    begun: list[int] = []

    def search(number: int) -> int:
        begun.append(number)
        time.sleep(0.05)
        raise ValueError(f"cloud {number}")

    with pytest.raises(ValueError, match="cloud 0"):
        list(in_threads(search, range(50), 100))
    assert len(begun) < 50


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cloud", [clustered(), two_poles()], ids=["clustered", "two poles"])
def test_null_clouds_have_the_size_lie_on_the_sphere_and_come_again(
    cloud: np.ndarray, kind: str
) -> None:
    null = null_cloud(cloud, kind, np.random.default_rng(1))
    assert null.shape == cloud.shape
    np.testing.assert_allclose(np.linalg.norm(null, axis=1), 1, atol=1e-6)
    again = null_cloud(cloud, kind, np.random.default_rng(1))
    np.testing.assert_array_equal(null, again)


@pytest.mark.parametrize("cloud", [clustered(), two_poles()], ids=["clustered", "two poles"])
def test_the_gaussian_null_has_the_moments_of_the_cloud(cloud: np.ndarray) -> None:
    """Matched before they were put on the sphere, the moments were not: p-values were too small."""
    null = null_cloud(cloud, "gaussian", np.random.default_rng(1))
    error = cloud.std(axis=0) / np.sqrt(len(cloud))
    assert (np.abs(null.mean(axis=0) - cloud.mean(axis=0)) < 4 * error).all()
    np.testing.assert_allclose(np.cov(null.T), np.cov(cloud.T), atol=0.02)


@pytest.mark.parametrize("cloud", [clustered(), two_poles()], ids=["clustered", "two poles"])
def test_the_shuffled_null_has_the_columns_of_the_cloud(cloud: np.ndarray) -> None:
    null = null_cloud(cloud, "shuffled", np.random.default_rng(1))
    far = np.abs(np.sort(null, axis=0) - np.sort(cloud, axis=0))
    assert far.mean() < 0.02
    correlated = np.abs(np.corrcoef(null.T) - np.eye(null.shape[1])).max()
    assert correlated < 0.15


def test_the_uniform_null_is_even() -> None:
    null = null_cloud(clustered(), "uniform", np.random.default_rng(1))
    np.testing.assert_allclose(null.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(null.T), np.eye(6) / 6, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_null_clouds_stay_in_the_subspace_of_the_cloud(kind: str) -> None:
    cloud = unit(np.random.default_rng(16).standard_normal((300, 3)))
    flat = np.append(cloud, np.zeros((300, 1)), axis=1)
    assert np.abs(null_cloud(flat, kind, np.random.default_rng(0))[:, 3]).max() < 1e-5


@pytest.mark.parametrize(("dim", "wide"), [(3, 16), (5, 32)])
def test_the_own_subspace_is_the_one_the_cloud_was_put_in(dim: int, wide: int) -> None:
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(wide, wide)))[0][:dim]
    cloud = unit(unit(np.random.default_rng(2).standard_normal((2000, dim))) @ turned)
    own = own_subspace(cloud)
    assert own.shape == (dim, wide)
    np.testing.assert_allclose(own @ own.T, np.eye(dim), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(cloud @ own.T, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("spread", [0.3, 0.03, 0.003])
def test_one_small_cluster_has_a_part_in_every_direction(spread: float) -> None:
    rng = np.random.default_rng(3)
    cloud = unit(np.eye(6)[0] + spread * rng.standard_normal((800, 6)))
    np.testing.assert_array_equal(own_subspace(cloud), np.eye(6))
