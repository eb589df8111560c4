"""Geometry on the unit sphere, where every vector of a text lives.

Distance is the angle (radians). Neighbours are exact: approximate search overestimates
emptiness. `delaunay_cells` is the geometry under the void finder.

    angles_QK, ids_QK = ExactIndex(unit(cloud_ND)).search(points_QD, k=10)
"""

# Shapes: N cloud vectors, Q queries, A of them active, D coordinates, J rows of a frame,
# K neighbours, ... any leading axes.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cllm.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

_UNIT_TOLERANCE = 1e-3  # half-precision storage keeps a norm to about 5e-4
_SHORT = 1e-3  # by which an angle that is found may exceed the true one, of it
_ROUNDING = 6e-8  # of a product in float32, by which FAISS's cosines are off
_SPARE = 4  # neighbours beyond those asked for, of which float32 may have the order wrong
_FETCHED = 10_000_000  # neighbours held at once
_CHUNK_VALUES = 4_000_000  # float64 values held at once while angles are worked out
_BOUND = 1e-3  # the artificial corners of `delaunay_cells` let a radius grow to about 89.9 degrees


def unit(x_ND: Floats) -> npt.NDArray[np.float32]:
    """Project each row onto the sphere, (N, D) float32; a row that has no direction is refused."""
    x_ND = _matrix(x_ND)
    norm_N = np.linalg.norm(x_ND, axis=1)
    bad_N = ~np.isfinite(norm_N) | (norm_N <= np.finfo(np.float32).tiny)
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise InputError(
            f"vector in row {row} is zero or not finite and has no direction; "
            "leave that row out, or make the vectors again"
        )
    return np.asarray(x_ND / norm_N[:, None], dtype=np.float32)


def require_unit(
    x_ND: Floats, what: str = "row", names: Sequence[str] | None = None
) -> npt.NDArray[np.float32]:
    """The rows as float32, scaled to norm 1 exactly; InputError names the first that is not unit.

    `names` (one a row) are used in the message in place of row numbers.
    """
    x_ND = _matrix(x_ND)
    norm_N = np.linalg.norm(x_ND, axis=1)
    bad_N = ~(np.abs(norm_N - 1.0) <= _UNIT_TOLERANCE)  # NaN is caught by the negation
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise InputError(
            f"vector of {what} {names[row] if names is not None else row} is not a unit vector "
            f"(norm {norm_N[row]:.4g}); make the vectors again with `cllm embed --replace`"
        )
    return np.asarray(x_ND / norm_N[:, None], dtype=np.float32)


def angle(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Angle in radians between vectors along the last axis, (..., D) and (..., D) to (...).

    2·atan2(|a-b|, |a+b|) keeps full precision for tiny angles, where arccos of the dot
    product has none (Kahan, "How futile are mindless assessments of roundoff", §12).
    """
    a, b = _scaled(a), _scaled(b)
    return np.asarray(2.0 * np.arctan2(_norm(a - b), _norm(a + b)))


def tangent(c: Floats, x: Floats) -> npt.NDArray[np.float64]:
    """Unit directions at `c` along the great circles to `x`, both (..., D).

    Where x is c or its antipode every direction serves; the one towards the coordinate
    axis that c leans on least is taken.
    """
    c, x = np.broadcast_arrays(_scaled(c), _scaled(x))
    flat_c, flat_x = c.reshape(-1, c.shape[-1]), x.reshape(-1, x.shape[-1])
    across = _across(flat_c, flat_x - flat_c)  # the difference, as x itself would cancel near c
    lost = _norm(across) <= 1e-12
    if lost.any():
        axis = np.eye(c.shape[-1])[np.argmin(np.abs(flat_c[lost]), axis=-1)]
        across[lost] = _across(flat_c[lost], axis)
    return np.asarray((across / _norm(across)[:, None]).reshape(c.shape))


def any_direction(c_ND: Floats, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random unit direction at each point, all alike likely, (N, D)."""
    return tangent(c_ND, c_ND + rng.standard_normal(c_ND.shape))


def stepped(
    from_ND: Floats, towards_ND: Floats, length_N: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Where steps of so many radians, at most half a turn, lead along great circles, (N, D)."""
    turn_N1 = np.minimum(length_N, np.pi)[:, None]
    return unit(np.cos(turn_N1) * from_ND + np.sin(turn_N1) * towards_ND)


def slerp(a: Floats, b: Floats, t: float | Floats) -> npt.NDArray[np.float32]:
    """Point at share `t` of the great circle from `a` to `b`, (..., D) float32.

    `t` is a number or an array over the leading axes. Between antipodes, where every great
    circle is shortest, the way leads over the axis that `tangent` names.
    """
    turn = np.asarray(np.asarray(t) * angle(a, b))[..., None]
    point = np.cos(turn) * _scaled(a) + np.sin(turn) * tangent(a, b)
    return (point / _norm(point)[..., None]).astype(np.float32)


def prefix(x_ND: Floats, k: int) -> npt.NDArray[np.float32]:
    """The first k coordinates of each row on their own sphere, (N, k); 2 <= k <= D."""
    x_ND = _matrix(x_ND)
    if not 2 <= k <= x_ND.shape[1]:
        raise InputError(
            f"a prefix of {k} coordinates was asked of {x_ND.shape[1]}-d vectors; "
            f"choose 2 to {x_ND.shape[1]}"
        )
    return unit(x_ND[:, :k])


class ExactIndex:
    """Exact nearest neighbours of a cloud of unit vectors, by angle."""

    def __init__(self, cloud_ND: Floats) -> None:
        import faiss

        self.cloud_ND = np.ascontiguousarray(require_unit(cloud_ND))
        self._faiss = faiss.IndexFlatIP(self.cloud_ND.shape[1])
        self._faiss.add(self.cloud_ND)
        self._kth: dict[int, npt.NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self.cloud_ND)

    def ids(self, points_QD: Floats, k: int) -> Ints:
        """Rows of the k nearest cloud vectors, nearest first, (Q, K); K = min(k, N)."""
        points_QD = np.ascontiguousarray(points_QD, dtype=np.float32)
        if points_QD.shape[1] != self.cloud_ND.shape[1]:
            raise InputError(
                f"points have {points_QD.shape[1]} coordinates, the cloud has "
                f"{self.cloud_ND.shape[1]}; use vectors of one model and one prefix"
            )
        return self._nearest(points_QD, min(k, len(self)))

    def _nearest(self, points_QD: npt.NDArray[np.float32], k: int) -> Ints:
        found: Ints = self._faiss.search(points_QD, k)[1]
        return found

    def search(self, points_QD: Floats, k: int) -> tuple[npt.NDArray[np.float64], Ints]:
        """Angles (Q, K), ascending, and rows (Q, K) of the k nearest; K = min(k, N).

        FAISS ranks by float32 cosines, which cannot tell angles below about 1e-3 apart: where
        a text that it left out might be nearer, more are fetched and compared in float64.
        """
        points_QD, k = np.asarray(points_QD), min(k, len(self))
        angles_QK, ids_QK = np.empty((len(points_QD), k)), np.empty((len(points_QD), k), np.int64)
        slack = 2 * _ROUNDING * (self.cloud_ND.shape[1] + 2)
        open_A, fetched = np.arange(len(points_QD)), min(k + _SPARE, len(self))
        while len(open_A):
            unsure = []
            for rows_A in np.array_split(open_A, 1 + len(open_A) * fetched // _FETCHED):
                angles_AF, ids_AF = self._compared(points_QD[rows_A], fetched)
                angles_QK[rows_A], ids_QK[rows_A] = angles_AF[:, :k], ids_AF[:, :k]
                left_out_A = np.arccos(np.minimum(np.cos(angles_AF[:, -1]) + slack, 1.0))
                unsure.append(rows_A[angles_AF[:, k - 1] > (1 + _SHORT) * left_out_A])
            open_A = np.concatenate(unsure) if fetched < len(self) else open_A[:0]
            fetched = min(4 * fetched + 16, len(self))
        return angles_QK, ids_QK

    def _compared(self, points_QD: Floats, k: int) -> tuple[npt.NDArray[np.float64], Ints]:
        """The k nearest by FAISS, put in order by their angles in float64; (Q, K) both."""
        ids_QK = self.ids(points_QD, k)
        angles_QK = np.empty(ids_QK.shape)
        chunk = max(1, _CHUNK_VALUES // (ids_QK.shape[1] * self.cloud_ND.shape[1]))
        for start in range(0, len(ids_QK), chunk):
            rows = slice(start, start + chunk)
            angles_QK[rows] = angle(points_QD[rows][:, None, :], self.cloud_ND[ids_QK[rows]])
        order = np.argsort(angles_QK, axis=1, kind="stable")
        return np.take_along_axis(angles_QK, order, 1), np.take_along_axis(ids_QK, order, 1)

    def own_neighbours(
        self, k: int, rows_M: Ints | None = None
    ) -> tuple[npt.NDArray[np.float64], Ints]:
        """The k nearest others of each cloud vector, or of some: angles and rows, (M, K) both."""
        rows_M = np.arange(len(self)) if rows_M is None else np.asarray(rows_M)
        angles_MK, ids_MK = self.search(self.cloud_ND[rows_M], k + 1)
        own_MK = ids_MK == rows_M[:, None]
        own_MK[~own_MK.any(axis=1), -1] = True  # pushed out by its own duplicates: drop the last
        shape = (len(rows_M), ids_MK.shape[1] - 1)
        return angles_MK[~own_MK].reshape(shape), ids_MK[~own_MK].reshape(shape)

    def kth_angle(self, k: int, rows: Ints | None = None) -> npt.NDArray[np.float64]:
        """Angle from each cloud vector (or each of `rows`, of any shape) to its k-th nearest other.

        The last where N <= k. Each is worked out once and remembered: of a large cloud few are
        ever asked for.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        known_N = self._kth.setdefault(k, np.full(len(self), np.nan))
        missing_M = np.unique(rows[np.isnan(known_N[rows])])
        if len(missing_M):
            known_N[missing_M] = self.own_neighbours(k, missing_M)[0][:, -1]
        return np.asarray(known_N[rows])

    def median_nearest(self) -> float:
        """Median over the cloud of the angle to the nearest other vector."""
        return float(np.median(self.kth_angle(1)))


@dataclass(frozen=True)
class Cells:
    """Delaunay cells on the sphere, one a query, of J corners: D, or the width of its frame."""

    corners_QJ: Ints  # rows of the cloud
    centre_QD: npt.NDArray[np.float64]  # circumcentre: equally far from all corners
    bounded_Q: npt.NDArray[np.bool_]  # False: no cell holds the query, the rest means nothing
    central_Q: npt.NDArray[np.bool_]  # the cell holds its own circumcentre


def frames(point_QD: Floats, axis_QLD: Floats) -> npt.NDArray[np.float64]:
    """Orthonormal frames (Q, L + 1, D): each point, then its L axes made orthogonal to it.

    An axis that is no direction of its own is replaced by one at right angles to the rest.
    """
    point_QD = _scaled(point_QD)
    stacked_QDJ = np.concatenate([point_QD[:, None], axis_QLD], axis=1).swapaxes(1, 2)
    turned_QDJ, upper_QJJ = np.linalg.qr(stacked_QDJ)
    sign_Q = np.where(upper_QJJ[:, 0, 0] < 0, -1.0, 1.0)
    turned_QDJ[:, :, 0] *= sign_Q[:, None]
    return np.ascontiguousarray(turned_QDJ.swapaxes(1, 2))


def delaunay_cells(
    index: ExactIndex, query_QD: Floats, frame_QJD: npt.NDArray[np.float64] | None = None
) -> Cells:
    """The Delaunay cell of the cloud that holds each query, exactly, at any D.

    On the sphere it is the facet of the cloud's convex hull that the ray through the query
    q meets: the linear programme max q·y over {y: x·y <= 1 for all texts x}. Its dual
    simplex is batched here; the text that violates a basis most is the nearest neighbour
    of its circumcentre, so every pivot is one exact search (in float32: a text nearer by less
    than about 1e-7 of the cosine may be missed). Corners start as artificial points far
    inside; where one stays, the ray leaves the cloud (`bounded` False).

    With `frame_QJD` (orthonormal rows that span the query) y stays in that subspace: the cell is
    that of the slice of the cloud's Voronoi diagram by a great sphere, and has J corners.
    """
    query_QD = _scaled(query_QD)
    if frame_QJD is None:
        frame_QJD = np.broadcast_to(np.eye(query_QD.shape[1]), (*query_QD.shape, query_QD.shape[1]))
    state = _Simplex.start(index.cloud_ND, query_QD, frame_QJD)
    near_QM = index.ids(query_QD, 8 * index.cloud_ND.shape[1])
    everyone_Q = np.arange(len(query_QD))
    _solve(state, everyone_Q, lambda rows_A, y_AD: _nearest_of(index, near_QM[rows_A], y_AD))
    unfinished_A = _solve(state, everyone_Q, lambda _, y_AD: index.ids(_scaled(y_AD), 1)[:, 0])
    state.corner_QJ[unfinished_A] = -1  # as good as not bounded
    return state.cells()


def _solve(state: _Simplex, rows_A: Ints, nearest: Callable[[Ints, Floats], Ints]) -> Ints:
    """Pivot until no text that `nearest` offers violates a basis; the rows not done in time."""
    for _ in range(100 + 20 * state.weight_QJ.shape[1]):
        vertex_AJ = state.vertex(rows_A)
        text_A = nearest(rows_A, state.lifted(rows_A, vertex_AJ))
        x_AJ = state.within(rows_A, text_A)
        violated_A = np.einsum("aj,aj->a", x_AJ, vertex_AJ) > 1.0 + 1e-8
        violated_A &= ~(state.corner_QJ[rows_A] == text_A[:, None]).any(axis=1)
        rows_A = rows_A[violated_A]
        if not len(rows_A):
            break
        state.pivot(rows_A, text_A[violated_A], x_AJ[violated_A])
    return rows_A


@dataclass
class _Simplex:
    """Bases of the linear programmes: the inverse of the corner matrix and the query's weights."""

    cloud_ND: Floats
    frame_QJD: npt.NDArray[np.float64]
    corner_QJ: Ints
    inverse_QJJ: npt.NDArray[np.float64]  # columns belong to corners
    weight_QJ: npt.NDArray[np.float64]  # query = sum of weight * corner, all >= 0

    @classmethod
    def start(
        cls, cloud_ND: Floats, query_QD: Floats, frame_QJD: npt.NDArray[np.float64]
    ) -> _Simplex:
        """Corners = _BOUND * an orthant turned so that the query is in its middle."""
        query_QJ = np.einsum("qjd,qd->qj", frame_QJD, query_QD)
        count, dims = query_QJ.shape
        mirror_QJ = query_QJ - 1.0 / np.sqrt(dims)
        length_Q = np.maximum((mirror_QJ**2).sum(axis=1), 1e-300)
        outer_QJJ = mirror_QJ[:, :, None] * mirror_QJ[:, None, :]
        inverse_QJJ = (np.eye(dims) - 2.0 * outer_QJJ / length_Q[:, None, None]) / _BOUND
        weight_QJ = np.full((count, dims), 1.0 / (np.sqrt(dims) * _BOUND))
        corner_QJ = np.full((count, dims), -1, dtype=np.int64)
        return cls(cloud_ND, frame_QJD, corner_QJ, inverse_QJJ, weight_QJ)

    def within(self, rows_A: Ints, text_A: Ints) -> npt.NDArray[np.float64]:
        """Texts in the coordinates of the frames, (A, J)."""
        text_AD = _scaled(self.cloud_ND[text_A])
        return np.asarray(np.einsum("ajd,ad->aj", self.frame_QJD[rows_A], text_AD))

    def lifted(self, rows_A: Ints, y_AJ: Floats) -> npt.NDArray[np.float64]:
        """Points of the frames among all D coordinates, (A, D)."""
        return np.asarray(np.einsum("ajd,aj->ad", self.frame_QJD[rows_A], y_AJ))

    def vertex(self, rows_A: Ints) -> npt.NDArray[np.float64]:
        """The y with corner·y = 1 for all corners: along the circumcentre, length 1/cos(radius)."""
        return np.asarray(self.inverse_QJJ[rows_A].sum(axis=2))

    def pivot(self, rows_A: Ints, text_A: Ints, x_AJ: Floats) -> None:
        """Take text x in as a corner for the one that keeps the query inside."""
        inverse_AJJ, weight_AJ = self.inverse_QJJ[rows_A], self.weight_QJ[rows_A]
        share_AJ = np.einsum("aij,ai->aj", inverse_AJJ, x_AJ)
        positive_AJ = share_AJ > 1e-10
        ratio_AJ = np.where(positive_AJ, weight_AJ / np.where(positive_AJ, share_AJ, 1.0), np.inf)
        out_A, line_A = np.argmin(ratio_AJ, axis=1), np.arange(len(rows_A))
        step_A, turned_AJ = ratio_AJ[line_A, out_A], inverse_AJJ[line_A, :, out_A]
        turned_AJ = turned_AJ / share_AJ[line_A, out_A][:, None]
        inverse_AJJ = inverse_AJJ - turned_AJ[:, :, None] * share_AJ[:, None, :]
        inverse_AJJ[line_A, :, out_A] = turned_AJ
        weight_AJ = np.maximum(weight_AJ - step_A[:, None] * share_AJ, 0.0)
        weight_AJ[line_A, out_A] = step_A
        self.inverse_QJJ[rows_A], self.weight_QJ[rows_A] = inverse_AJJ, weight_AJ
        self.corner_QJ[rows_A, out_A] = text_A

    def cells(self) -> Cells:
        centre_QJ = _scaled(self.inverse_QJJ.sum(axis=2))
        weight_QJ = np.einsum("qij,qi->qj", self.inverse_QJJ, centre_QJ)
        central_Q = weight_QJ.min(axis=1) >= -1e-9 * np.abs(weight_QJ).max(axis=1)
        bounded_Q = np.asarray((self.corner_QJ >= 0).all(axis=1))
        centre_QD = _scaled(self.lifted(np.arange(len(centre_QJ)), centre_QJ))
        return Cells(self.corner_QJ, centre_QD, bounded_Q, np.asarray(central_Q & bounded_Q))


def _nearest_of(index: ExactIndex, near_AM: Ints, vertex_AD: Floats) -> Ints:
    """The nearest of M given texts: settles most pivots without a search of the whole cloud."""
    cosine_AM = np.einsum("amd,ad->am", index.cloud_ND[near_AM], vertex_AD)
    return np.asarray(near_AM[np.arange(len(near_AM)), np.argmax(cosine_AM, axis=1)])


def _matrix(x_ND: Floats) -> npt.NDArray[np.float64]:
    matrix_ND = np.asarray(x_ND, dtype=np.float64)
    if matrix_ND.ndim != 2 or matrix_ND.shape[1] < 2:
        raise InputError(
            f"vectors must be rows of at least 2 coordinates, not of shape {matrix_ND.shape}; "
            "pass one row a text"
        )
    return matrix_ND


def _norm(x: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(np.sqrt(np.einsum("...d,...d->...", x, x)))


def _scaled(x: Floats) -> npt.NDArray[np.float64]:
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x / _norm(x)[..., None])


def _across(c: Floats, x: Floats) -> npt.NDArray[np.float64]:
    """The part of x at right angles to the unit vectors c."""
    return np.asarray(x - np.einsum("...d,...d->...", c, x)[..., None] * c)
