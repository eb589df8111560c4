"""Starting points for the void finder: places between texts, of five kinds.

No kind finds every void: mid-points of far neighbours lie in holes of the fabric, chords between
any two texts in the wide gaps, gaps between clusters where texts gather, fourth corners where
what clusters have in common was not combined yet, and steps along the local principal
directions just beyond the edge of a dense patch.

    proposal_PK = propose(ExactIndex(cloud_NK), 2000, rng)
"""

# Shapes: N texts, K coordinates, P proposals, M clusters, J neighbours.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cllm.sphere import ExactIndex, slerp, tangent, unit

Floats = npt.NDArray[np.floating[Any]]
Vectors = npt.NDArray[np.float32]

NEAR, FAR = 50, 400  # neighbour ranks that a mid-point joins; both shrink with a small cloud
CLUSTERS = 64  # at most; fewer in a small cloud
CORNERS, AROUND = 256, 20  # finer clusters, at most; corners join a cluster's nearest ones
PATCH = 32  # neighbours whose spread gives the local principal directions
REACH = 3.0  # a step beyond a patch is at most this many of its radii


def propose(index: ExactIndex, count: int, rng: np.random.Generator) -> Vectors:
    """Points to climb from, (P, K): `count` drawn ones, and what is known without drawing.

    On a circle or on S² all Delaunay cells are known: their widest `count` are proposed as well.
    """
    drawn_PK = draw(index, count, rng)
    if index.cloud_ND.shape[1] > 3:
        return drawn_PK
    return np.concatenate([drawn_PK, widest_cells(index, count)])


def draw(index: ExactIndex, count: int, rng: np.random.Generator) -> Vectors:
    """`count` random points of the sphere, a fifth of each kind, (P, K)."""
    kinds: tuple[Callable[[ExactIndex, int, np.random.Generator], Vectors], ...] = (
        between_far_neighbours, on_chords, between_clusters, at_fourth_corners,
        along_principal_directions,
    )  # fmt: skip
    shares = [len(part) for part in np.array_split(np.arange(count), len(kinds))]
    return np.concatenate([kind(index, n, rng) for kind, n in zip(kinds, shares, strict=True) if n])


def between_far_neighbours(index: ExactIndex, count: int, rng: np.random.Generator) -> Vectors:
    """Great-circle mid-points of texts and neighbours of theirs of a far rank, (P, K)."""
    far = max(1, min(FAR, len(index) // 2))
    near = max(1, min(NEAR, far // 2))
    text_P = rng.integers(len(index), size=count)
    rank_P = rng.integers(near, far + 1, size=count)
    other_P = index.search(index.cloud_ND[text_P], far + 1)[1][np.arange(count), rank_P]
    return slerp(index.cloud_ND[text_P], index.cloud_ND[other_P], 0.5)


def on_chords(index: ExactIndex, count: int, rng: np.random.Generator) -> Vectors:
    """Points at a random share of the great circle between two random texts, (P, K)."""
    ends_2P = rng.integers(len(index), size=(2, count))
    share_P = rng.uniform(0.2, 0.8, size=count)
    return slerp(index.cloud_ND[ends_2P[0]], index.cloud_ND[ends_2P[1]], share_P)


def between_clusters(index: ExactIndex, count: int, rng: np.random.Generator) -> Vectors:
    """Mid-points between texts of two clusters whose centres are near, (P, K).

    Clusters: spherical k-means. A proposal joins the cluster of a random text with one of the
    five nearest others.
    """
    centre_MK, own_N = clusters(index, CLUSTERS, rng)
    nearby_MJ = ExactIndex(centre_MK).own_neighbours(min(5, len(centre_MK) - 1))[1]
    text_P = rng.integers(len(index), size=count)
    other_P = nearby_MJ[own_N[text_P], rng.integers(nearby_MJ.shape[1], size=count)]
    # to the text of the other cluster that its random number picks: clusters keep their spread
    order_N = np.argsort(own_N, kind="stable")
    first_M = np.searchsorted(own_N[order_N], np.arange(len(centre_MK) + 1))
    size_P = first_M[other_P + 1] - first_M[other_P]
    picked_P = order_N[first_M[other_P] + (rng.random(count) * size_P).astype(np.int64)]
    return slerp(index.cloud_ND[text_P], index.cloud_ND[picked_P], 0.5)


def at_fourth_corners(index: ExactIndex, count: int, rng: np.random.Generator) -> Vectors:
    """Points b + c - a, for centres of clusters a and two near ones b and c, (P, K).

    Where a space is compositional (Mikolov et al. 2013, "Linguistic regularities"), and b and c
    each differ from a in one thing, that is where both differences would meet.
    """
    centre_MK, _ = clusters(index, CORNERS, rng)
    near_MJ = ExactIndex(centre_MK).own_neighbours(min(AROUND, len(centre_MK) - 1))[1]
    a_P = rng.integers(len(centre_MK), size=count)
    b_P, c_P = near_MJ[a_P, rng.integers(near_MJ.shape[1], size=(2, count))]
    corner_PK = centre_MK[b_P].astype(np.float64) + centre_MK[c_P] - centre_MK[a_P]
    flat_P = np.linalg.norm(corner_PK, axis=1) < 1e-3  # b and c on opposite sides of far a
    return unit(np.where(flat_P[:, None], centre_MK[b_P], corner_PK))


def along_principal_directions(index: ExactIndex, count: int, rng: np.random.Generator) -> Vectors:
    """Steps off texts along the principal directions of their neighbourhoods, (P, K).

    The direction is drawn with the spread along it as its weight, so that in a thin cloud the
    steps stay within the cloud's own sheet; the length is up to three radii of the patch.
    """
    text_PK = index.cloud_ND[rng.integers(len(index), size=count)]
    angle_PJ, ids_PJ = index.search(text_PK, min(PATCH + 1, len(index)))
    towards_PJK = tangent(text_PK[:, None], index.cloud_ND[ids_PJ])
    offset_PJK = towards_PJK * angle_PJ[..., None]
    spread_PK, axes_PKK = np.linalg.eigh(offset_PJK.swapaxes(1, 2) @ offset_PJK)
    edge_PK = np.cumsum(np.maximum(spread_PK, 0.0), axis=1)
    draw_P = rng.random(count) * edge_PK[:, -1]
    chosen_P = np.minimum((edge_PK < draw_P[:, None]).sum(axis=1), text_PK.shape[1] - 1)
    axis_PK = axes_PKK[np.arange(count), :, chosen_P]
    way_PK = tangent(text_PK, text_PK + rng.choice([-1.0, 1.0], size=(count, 1)) * axis_PK)
    turn_P1 = np.minimum(rng.uniform(1.0, REACH, count) * angle_PJ[:, -1], np.pi / 2)[:, None]
    return unit(np.cos(turn_P1) * text_PK + np.sin(turn_P1) * way_PK)


def widest_cells(index: ExactIndex, count: int) -> Vectors:
    """Circumcentres of the widest Delaunay cells, (P, K): outer normals of the convex hull."""
    from scipy.spatial import ConvexHull

    # joggled, so that texts that lie on one circle have a hull as well
    planes = ConvexHull(index.cloud_ND.astype(np.float64), qhull_options="QJ").equations
    return unit(planes[np.argsort(-planes[:, -1], kind="stable")[:count], :-1])


def clusters(
    index: ExactIndex, most: int, rng: np.random.Generator
) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Centres (M, K) and each text's cluster (N,); every cluster has a text."""
    import faiss

    wanted = max(2, min(most, len(index) // 20))
    means = faiss.Kmeans(
        index.cloud_ND.shape[1], wanted, niter=10, spherical=True,
        seed=int(rng.integers(1 << 30)), min_points_per_centroid=1, max_points_per_centroid=256,
    )  # fmt: skip
    means.train(index.cloud_ND)
    own_N = means.index.search(index.cloud_ND, 1)[1][:, 0]
    kept_M, own_N = np.unique(own_N, return_inverse=True)
    if len(kept_M) < 2:  # one place only: any two texts will do
        own_N = np.arange(len(index)) % 2
        return unit(np.stack([index.cloud_ND[own_N == i].mean(0) for i in (0, 1)])), own_N
    return unit(np.asarray(means.centroids)[kept_M]), own_N
