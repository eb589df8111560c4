"""Is a place inside the cloud: surrounded by texts, and in the sheet that texts lie in?

Texts seldom fill their sphere: most of it is off the sheet they lie in, empty and meaningless.
So directions are looked at in local frames, a point and the principal directions of its nearest
texts; what counts as inside is learnt from held-out texts, which are inside by definition.

    support = Support.learn(index, held_out_MK, rng)
    inside_Q = support.holds(points_QK)
"""

# Shapes: N texts, K coordinates, M held-out texts, Q points, J rows of a frame (the point and
# J - 1 tangent axes), L neighbours, R probe directions.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cllm.clouds import intrinsic_dimension
from cllm.errors import InputError
from cllm.nulls import null_cloud
from cllm.sphere import ExactIndex, frames, tangent

Floats = npt.NDArray[np.floating[Any]]
Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FAR_BELOW = 0.85  # of the dimension of a Gaussian cloud of the same moments
NEIGHBOURS = 8  # texts a frame's row that it is learnt from
QUANTILE = 0.05  # of held-out texts that may themselves fail each of the two tests
PROBES = 256
CHUNK_VALUES = 20_000_000  # float64 values held at once


@dataclass(frozen=True)
class Support:
    """What inside means for one cloud."""

    index: ExactIndex
    width: int  # rows of a frame: 1 + the dimension of the sheet
    probes_RJ: Floats64  # unit directions within a frame's axes, (R, width - 1)
    least_coverage: float
    least_tangency: float

    @classmethod
    def learn(
        cls, index: ExactIndex, held_out_MK: Floats | None, rng: np.random.Generator
    ) -> Support:
        """Dimension of the sheet from the cloud, thresholds from held-out texts.

        Without held-out texts every place passes that its rim positively spans.
        """
        width = 1 + sheet_dimension(index, rng)
        probes_RJ = rng.standard_normal((PROBES, width - 1))
        probes_RJ /= np.linalg.norm(probes_RJ, axis=1, keepdims=True)
        alone = cls(index, width, probes_RJ, -1.0, 0.0)
        if held_out_MK is None or not len(held_out_MK):
            return alone
        coverage, tangency = (np.quantile(x_M, QUANTILE) for x_M in alone.measure(held_out_MK))
        # a wide hole in a bent sheet: its rim looks at it along chords
        by_chance = (width - 1) / (index.cloud_ND.shape[1] - 1)
        tangency = min(float(tangency), (1 + by_chance) / 2)
        return cls(index, width, probes_RJ, float(coverage), tangency)

    @property
    def fills_sphere(self) -> bool:
        """The cloud is no sheet: a frame spans everything."""
        return bool(self.width == self.index.cloud_ND.shape[1])

    def frames(self, points_QK: Floats) -> Floats64:
        """Orthonormal frames (Q, J, K): each point, then its local principal directions."""
        return self._look(points_QK)[2]

    def measure(self, points_QK: Floats) -> tuple[Floats64, Floats64]:
        """Coverage and tangency of each point, (Q,) both.

        Coverage, -1 to 1: the cosine of the widest angle that a probe direction keeps from all
        directions to the nearest texts; above 0, texts lie on every side. Tangency, 0 to 1: how
        much of the way from the nearest texts to the point lies within those texts' own frames;
        1 in the sheet, 0 at a right angle to it.
        """
        points_QK = points_QK.astype(np.float64)
        coverage_Q, tangency_Q = np.empty(len(points_QK)), np.ones(len(points_QK))
        each = 2 * self.width * (NEIGHBOURS * self.width + 1) * points_QK.shape[1]
        chunk = int(np.clip(CHUNK_VALUES // each, 1, 64))
        for start in range(0, len(points_QK), chunk):
            rows = slice(start, start + chunk)
            near_QL, towards_QLK, frame_QJK = self._look(points_QK[rows])
            inside_QLJ = towards_QLK @ frame_QJK[:, 1:].swapaxes(1, 2)
            cosine_QRL = self.probes_RJ @ inside_QLJ.swapaxes(1, 2)
            coverage_Q[rows] = cosine_QRL.max(axis=2).min(axis=1)
            if not self.fills_sphere:
                tangency_Q[rows] = self._tangency(points_QK[rows], near_QL[:, : 2 * self.width])
        return coverage_Q, tangency_Q

    def _tangency(self, points_QK: Floats, near_QL: Ints) -> Floats64:
        text_PK = self.index.cloud_ND[near_QL.ravel()].astype(np.float64)
        axes_PJK = self._look(text_PK)[2][:, 1:]
        back_PK = tangent(text_PK, np.repeat(points_QK, near_QL.shape[1], axis=0))
        share_P = (np.einsum("pjk,pk->pj", axes_PJK, back_PK) ** 2).sum(axis=1)
        return np.asarray(share_P.reshape(near_QL.shape).mean(axis=1))

    def holds(self, points_QK: Floats) -> npt.NDArray[np.bool_]:
        """Which points are inside: as well covered, and as much in the sheet, as held-out texts."""
        coverage_Q, tangency_Q = self.measure(points_QK)
        return (coverage_Q >= self.least_coverage) & (tangency_Q >= self.least_tangency)

    def along_sheet(self, points_QK: Floats) -> npt.NDArray[np.bool_]:
        """Which points are as much in the sheet as held-out texts; all where there is none."""
        if self.fills_sphere:
            return np.ones(len(points_QK), dtype=bool)
        return self.measure(points_QK)[1] >= self.least_tangency

    def _look(self, points_QK: Floats) -> tuple[Ints, Floats64, Floats64]:
        """Nearest texts (Q, L), unit directions to them (Q, L, K), and frames (Q, J, K).

        A text that lies at the point itself gives no direction and does not count.
        """
        angle_QL, near_QL = self.index.search(points_QK, NEIGHBOURS * self.width + 1)
        apart_QL = np.argsort(angle_QL <= 0, axis=1, kind="stable")[:, :-1]
        angle_QL = np.take_along_axis(angle_QL, apart_QL, 1)
        near_QL = np.take_along_axis(near_QL, apart_QL, 1)
        towards_QLK = tangent(points_QK[:, None], self.index.cloud_ND[near_QL])
        offset_QLK = towards_QLK * angle_QL[..., None]
        axes_QKK = np.linalg.eigh(offset_QLK.swapaxes(1, 2) @ offset_QLK)[1]
        strongest_QJK = axes_QKK[:, :, ::-1].swapaxes(1, 2)[:, : self.width - 1]
        return near_QL, towards_QLK, frames(points_QK, strongest_QJK)


def sheet_dimension(index: ExactIndex, rng: np.random.Generator) -> int:
    """Dimension of the sheet that the cloud lies in, 1 to K - 1.

    K - 1 (the whole sphere) unless the TwoNN dimension is FAR_BELOW that of a Gaussian cloud of
    the same size and moments, which the estimate, too low for many dimensions, is divided by.
    """
    whole = int(index.cloud_ND.shape[1]) - 1
    if len(index) < 20 or whole == 1:
        return whole
    sample = ExactIndex(null_cloud(index.cloud_ND, "gaussian", rng))
    try:
        share = intrinsic_dimension(index, rng) / intrinsic_dimension(sample, rng)
    except InputError:  # texts at equal distances, such as the corners of a cube, tell nothing
        return whole
    return whole if share > FAR_BELOW else max(1, round(share * whole))
