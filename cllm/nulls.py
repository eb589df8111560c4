"""Clouds without voids: what "emptier than chance explains" is measured against.

Each keeps one thing of the real cloud (moments, columns, subspace) and forgets the rest; each
is put back on the sphere. A void's p-value is the largest over the three kinds.

    clouds = {kind: null_cloud(cloud_NK, kind, rng) for kind in KINDS}
"""

# Shapes: N texts, K coordinates of the prefix, B null clouds of a kind.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from cllm.progress import counted
from cllm.sphere import unit

Floats = npt.NDArray[np.floating[Any]]
Kind = Literal["gaussian", "shuffled", "uniform"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SIMULATED, ROUNDS = 4096, 10  # pairs of draws of a Gaussian; corrections of what is drawn
THICKNESS = 1e-4  # of the largest variance; a direction with less is none of the cloud's
SIDE_BY_SIDE = 10_000_000  # points that clouds may have together which are searched at a time
_NEGLIGIBLE = 1e-6  # share of the variance below which a principal direction is none


Job = TypeVar("Job")
Found = TypeVar("Found")


def null_cloud(cloud_NK: Floats, kind: Kind, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A cloud of the same size without structure of its own, unit rows, (N, K) float32.

    gaussian: normal, of the cloud's mean and covariance once it is on the sphere; shuffled: each
    column permuted on its own; uniform: even over the great sphere of the cloud's principal
    directions.
    """
    makers = {"gaussian": _gaussian, "shuffled": _shuffled, "uniform": _uniform}
    return unit(makers[kind](np.asarray(cloud_NK, dtype=np.float64), rng))


def own_subspace(cloud_NK: Floats) -> npt.NDArray[np.float64]:
    """Orthonormal directions (J, K), the strongest first, without those the cloud has no part in.

    It has a part in its mean, and in where it spreads: a small cluster, far from the origin, in
    all. The coordinates themselves where that leaves none out.
    """
    cloud_NK = np.asarray(cloud_NK, dtype=np.float64)
    mean_K, spread_KK = cloud_NK.mean(axis=0), np.cov(cloud_NK.T, bias=True)
    spread_KK = spread_KK / max(np.linalg.eigvalsh(spread_KK)[-1], 1e-300)
    off_centre = float(mean_K @ mean_K)
    if off_centre > THICKNESS:
        spread_KK = spread_KK + np.outer(mean_K, mean_K) / off_centre
    rising_K, axes_KK = np.linalg.eigh(spread_KK)
    width = max(2, int((rising_K > THICKNESS).sum()))
    whole = width == cloud_NK.shape[1]
    return np.eye(width) if whole else np.ascontiguousarray(axes_KK.T[::-1][:width])


def p_value(score: float, null_scores: Mapping[Kind, Sequence[float]]) -> float:
    """(1 + null clouds that reach `score`) / (1 + B), the largest over the kinds; in (0, 1]."""
    return max(
        (1 + sum(null >= score for null in scores)) / (1 + len(scores))
        for scores in null_scores.values()
    )


def in_threads(search: Callable[[Job], Found], jobs: Sequence[Job], points: int) -> Iterator[Found]:
    """Clouds of so many points each, searched side by side, in order.

    A search asks FAISS for few neighbours at a time, many times: threads that share each question
    wait for each other for twice as long as the answer takes. So each has a cloud of its own.
    """
    import faiss

    threads = faiss.omp_get_max_threads()  # OMP_NUM_THREADS, or one a core
    workers = max(1, min(threads, len(jobs), SIDE_BY_SIDE // max(1, points)))
    with ThreadPoolExecutor(
        workers, initializer=faiss.omp_set_num_threads, initargs=(threads // workers,)
    ) as pool:
        waiting = [pool.submit(search, job) for job in jobs]
        try:
            for one in counted(waiting, "null clouds searched"):
                yield one.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _gaussian(cloud_NK: Floats, rng: np.random.Generator) -> Floats:
    mean_K, covariance_KK = np.mean(cloud_NK, axis=0), np.cov(cloud_NK.T, bias=True)
    centre_K, spread_KK = _before_projection(mean_K, covariance_KK, rng)
    return np.asarray(centre_K + rng.standard_normal(cloud_NK.shape) @ spread_KK)


def _before_projection(
    mean_K: Floats, covariance_KK: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Centre (K,) and root of the covariance (K, K) of a Gaussian of these moments on the sphere.

    A Gaussian of the moments themselves is more crowded there than the cloud, and its emptiest
    places less empty: p-values were too small (0.088 of 500 clouds at or below 0.05).
    """
    half_SK = rng.standard_normal((SIMULATED, len(mean_K)))
    draw_SK = np.concatenate([half_SK, -half_SK])
    wanted_KK = _power(covariance_KK, 0.5)
    centre_K, inside_KK = mean_K, covariance_KK
    for _ in range(ROUNDS):
        placed_SK = centre_K + draw_SK @ _power(inside_KK, 0.5)
        placed_SK /= np.linalg.norm(placed_SK, axis=1, keepdims=True)
        change_KK = wanted_KK @ _power(np.cov(placed_SK.T, bias=True), -0.5)
        inside_KK = change_KK @ inside_KK @ change_KK.T
        centre_K = centre_K + mean_K - placed_SK.mean(axis=0)
    return centre_K, _power(inside_KK, 0.5)


def _power(moments_KK: Floats, exponent: float) -> Floats:
    """Of a symmetric matrix; directions of a negligible share of it stay out."""
    axes_JK, moment_J = _principal(moments_KK)
    return np.asarray((axes_JK.T * moment_J**exponent) @ axes_JK)


def _shuffled(cloud_NK: Floats, rng: np.random.Generator) -> Floats:
    # What is permuted has, once it is put on the sphere, the cloud's own columns; they, permuted
    # as they are, reach further out there, and voids looked smaller than the null's own.
    wanted_NK = np.sort(cloud_NK, axis=0)
    column_NK = wanted_NK
    for _ in range(ROUNDS):
        placed_NK = rng.permuted(column_NK, axis=0)
        placed_NK /= np.maximum(np.linalg.norm(placed_NK, axis=1, keepdims=True), 1e-12)
        column_NK = np.sort(column_NK + wanted_NK - np.sort(placed_NK, axis=0), axis=0)
    mixed_NK = np.asarray(rng.permuted(column_NK, axis=0))
    empty_N = ~mixed_NK.any(axis=1)  # some rows of sparse vectors: others stand in for them
    mixed_NK[empty_N] = mixed_NK[rng.choice(np.flatnonzero(~empty_N), empty_N.sum())]
    return mixed_NK


def _uniform(cloud_NK: Floats, rng: np.random.Generator) -> Floats:
    # Even over the great sphere. A box of principal coordinates, once projected, is crowded
    # along its diagonals: on a uniform cloud of 8 coordinates its own voids hid a planted one.
    axes_JK = own_subspace(cloud_NK)
    return rng.standard_normal((len(cloud_NK), len(axes_JK))) @ axes_JK


def _principal(moments_KK: Floats) -> tuple[Floats, Floats]:
    """Directions (J, K) that hold more than a negligible share of a moment matrix; the shares."""
    moment_K, axes_KK = np.linalg.eigh(moments_KK)
    kept_K = moment_K > _NEGLIGIBLE * moment_K.sum()
    return axes_KK.T[kept_K], moment_K[kept_K]
