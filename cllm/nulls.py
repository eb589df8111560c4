"""Clouds without voids: what "emptier than chance explains" is measured against.

Each keeps one thing of the real cloud (moments, columns, subspace) and forgets the rest; each
is put back on the sphere. A void's p-value is the largest over the three kinds.

    clouds = {kind: null_cloud(cloud_NK, kind, rng) for kind in KINDS}
"""

# Shapes: N texts, K coordinates of the prefix, B null clouds of a kind.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cllm.sphere import unit

Floats = npt.NDArray[np.floating[Any]]
Kind = Literal["gaussian", "shuffled", "uniform"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_NEGLIGIBLE = 1e-6  # share of the variance below which a principal direction is none


def null_cloud(cloud_NK: Floats, kind: Kind, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A cloud of the same size without structure of its own, unit rows, (N, K) float32.

    gaussian: normal with the cloud's mean and covariance; shuffled: each column permuted on
    its own; uniform: even over the great sphere of the cloud's principal directions.
    """
    makers = {"gaussian": _gaussian, "shuffled": _shuffled, "uniform": _uniform}
    return unit(makers[kind](np.asarray(cloud_NK, dtype=np.float64), rng))


def p_value(score: float, null_scores: Mapping[Kind, Sequence[float]]) -> float:
    """(1 + null clouds that reach `score`) / (1 + B), the largest over the kinds; in (0, 1]."""
    return max(
        (1 + sum(null >= score for null in scores)) / (1 + len(scores))
        for scores in null_scores.values()
    )


def _gaussian(cloud_NK: Floats, rng: np.random.Generator) -> Floats:
    mean_K = cloud_NK.mean(axis=0)
    axes_JK, variance_J = _principal(np.cov(cloud_NK.T, bias=True))
    drawn_NJ = rng.standard_normal((len(cloud_NK), len(axes_JK))) * np.sqrt(variance_J)
    return np.asarray(mean_K + drawn_NJ @ axes_JK)


def _shuffled(cloud_NK: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(rng.permuted(cloud_NK, axis=0))


def _uniform(cloud_NK: Floats, rng: np.random.Generator) -> Floats:
    # Even over the great sphere. A box of principal coordinates, once projected, is crowded
    # along its diagonals: on a uniform cloud of 8 coordinates its own voids hid a planted one.
    axes_JK, _ = _principal(cloud_NK.T @ cloud_NK / len(cloud_NK))
    return rng.standard_normal((len(cloud_NK), len(axes_JK))) @ axes_JK


def _principal(moments_KK: Floats) -> tuple[Floats, Floats]:
    """Directions (J, K) that hold more than a negligible share of a moment matrix; the shares."""
    moment_K, axes_KK = np.linalg.eigh(moments_KK)
    kept_K = moment_K > _NEGLIGIBLE * moment_K.sum()
    return axes_KK.T[kept_K], moment_K[kept_K]
