"""What a cloud of unit vectors is like: spread, clusters, dimension, holes.

None of these finds a void; they say whether voids can be expected.

    facts = describe(ExactIndex(cloud_NK), np.random.default_rng(0), groups_N)
"""

# Shapes: N vectors, K coordinates, M probes or a sample.
from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from cllm.errors import InputError
from cllm.sphere import ExactIndex, angle, unit

Floats = npt.NDArray[np.floating[Any]]
Floats64 = npt.NDArray[np.float64]

SAMPLE = 2000  # vectors that stand for the cloud; each is compared with all others
LANDMARKS = 300  # of the persistent homology; H1 grows with their cube


def describe(
    index: ExactIndex, rng: np.random.Generator, groups_N: Sequence[str] | None = None
) -> dict[str, float]:
    """All of these by name; `groups_N` are known groups (dishes, topics) to compare clusters to.

    The persistence of holes is there where the optional package gudhi is, and intrinsic
    dimension where ten vectors have neighbours at different distances.
    """
    facts = {"hopkins": hopkins(index, rng), "uniformity": uniformity(index, rng)}
    with suppress(InputError):
        facts["intrinsic_dim"] = intrinsic_dimension(index, rng)
    facts |= clusters(index, rng, groups_N)
    return facts | persistence(index, rng)


def hopkins(index: ExactIndex, rng: np.random.Generator, probes_MK: Floats | None = None) -> float:
    """Hopkins' H = sum u / (sum u + sum w): 0.5 for a cloud like the probes, to 1 if clustered.

    u: angle of a probe to its nearest vector; w: angle of a sampled vector to its nearest other.
    Probes (a tenth of the cloud, SAMPLE at most) are uniform on the sphere unless given.
    """
    count = min(max(1, len(index) // 10), SAMPLE) if probes_MK is None else len(probes_MK)
    count = min(count, len(index))
    if probes_MK is None:
        probes_MK = unit(rng.standard_normal((count, index.cloud_ND.shape[1])))
    u = index.search(probes_MK[:count], 1)[0][:, 0].sum()
    w = index.kth_angle(1, rng.choice(len(index), count, replace=False)).sum()
    return float(u / (u + w)) if u + w > 0 else 0.5


def uniformity(index: ExactIndex, rng: np.random.Generator) -> float:
    """Uniformity log E exp(-2 |x - y|^2) over pairs of a sample (Wang & Isola 2020, "L_uniform").

    0 if all coincide; lower is more uniform.
    """
    sample_MK = _sample(index, rng, SAMPLE).astype(np.float64)
    kernel_MM = np.exp(-4 * (1 - sample_MK @ sample_MK.T))
    pairs = len(sample_MK) * (len(sample_MK) - 1)
    if not pairs:
        raise InputError("uniformity needs two vectors at least; give more texts")
    return math.log((kernel_MM.sum() - np.trace(kernel_MM)) / pairs)


def intrinsic_dimension(
    index: ExactIndex, rng: np.random.Generator, keep: float = 0.9, sample: int = SAMPLE
) -> float:
    """TwoNN intrinsic dimension (Facco et al. 2017): slope of -log(1 - F) against log(r2 / r1).

    Of a sample of vectors against the whole cloud. Vectors that occur twice count once; the
    largest 10 % of ratios are left out, as in the paper. InputError: fewer than 10 vectors.
    """
    rows_M = rng.choice(len(index), min(sample, len(index)), replace=False)
    angles_MK = index.search(index.cloud_ND[rows_M], 16)[0]  # 16, to look past repetitions
    first_M1 = np.where(angles_MK < 1e-7, np.inf, angles_MK).min(axis=1, keepdims=True)
    second_M = np.where(angles_MK <= first_M1, np.inf, angles_MK).min(axis=1)
    two_M2 = np.stack([first_M1[:, 0], second_M], axis=1)
    two_M2 = two_M2[np.isfinite(two_M2).all(axis=1)]
    if len(two_M2) < 10:
        raise InputError(
            f"intrinsic dimension needs 10 different vectors, got {len(two_M2)}; give more texts"
        )
    ratios = np.sort(np.log(two_M2[:, 1] / two_M2[:, 0]))
    kept = max(1, int(keep * len(ratios)))
    heights = -np.log1p(-np.arange(1, kept + 1) / (len(ratios) + 1))
    square = float(ratios[:kept] @ ratios[:kept])
    return float(ratios[:kept] @ heights) / square if square > 0 else math.inf


def clusters(
    index: ExactIndex, rng: np.random.Generator, groups_N: Sequence[str] | None = None
) -> dict[str, float]:
    """The share of a sample that HDBSCAN puts into clusters, and how many clusters.

    With known groups also `agreement`, the adjusted mutual information (0: chance, 1: the same).
    """
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import adjusted_mutual_info_score

    rows_M = rng.choice(len(index), min(SAMPLE, len(index)), replace=False)
    smallest = max(5, len(rows_M) // 100)
    if len(rows_M) < 2 * smallest:
        return {}
    label_M = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(index.cloud_ND[rows_M])
    facts = {"clustered": float((label_M >= 0).mean()), "clusters": float(label_M.max() + 1)}
    if groups_N is not None:
        known_M = [groups_N[row] for row in rows_M]
        facts["agreement"] = float(adjusted_mutual_info_score(known_M, label_M))
    return facts


def persistence(index: ExactIndex, rng: np.random.Generator) -> dict[str, float]:
    """Total persistence (radians) of pieces (H0) and loops (H1) of the Rips complex of landmarks.

    Empty without the optional package gudhi (`pip install cllm[topology]`). A picture of the
    cloud's connectedness only: it says nothing of voids of a higher dimension.
    """
    try:
        import gudhi
    except ImportError:
        return {}
    sample_MK = _sample(index, rng, LANDMARKS)
    distances_MM = angle(sample_MK[:, None], sample_MK[None])
    tree = gudhi.RipsComplex(distance_matrix=distances_MM).create_simplex_tree(max_dimension=1)
    tree.collapse_edges()
    tree.expansion(2)
    tree.compute_persistence()
    return {f"persistence_h{d}": _total(tree.persistence_intervals_in_dimension(d)) for d in (0, 1)}


def _total(intervals: Floats) -> float:
    lengths = [float(death - birth) for birth, death in intervals if np.isfinite(death)]
    return math.fsum(lengths)


def _sample(index: ExactIndex, rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    return index.cloud_ND[rng.choice(len(index), min(count, len(index)), replace=False)]
