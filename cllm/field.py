"""What a place is like in a cloud of texts: how empty, and whether it is in a void.

field = Field.of(cloud_ND, held_out_MD, void_dim, chance, rng)
field.is_void(points_nD), field.look(points_nD).score_n
"""

# Shapes: N texts, M held-out texts, D coordinates, K of the prefix, J of the cloud's subspace,
# n places.
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cllm.enclosure import Support
from cllm.proposals import CORNERS, clusters, draw
from cllm.sphere import ExactIndex, prefix, unit
from cllm.voids import NO_PART, VoidSettings, ascend, ground, place_scores, scores

Vectors = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

Rest = Literal["open", "nearest"]

SEARCH = VoidSettings()  # k of the void score, and how long a place climbs
UNUSUAL = 0.99  # quantile of the void score of unseen texts that a void is above


@dataclass(frozen=True)
class Look:
    """What a place looks like, (n,) each: its score, and d_k in radians."""

    score_n: Floats64
    dk_n: Floats64

    @property
    def crowding_n(self) -> Floats64:
        """Median d_k of the texts around: small where they crowd."""
        return self.dk_n / self.score_n


@dataclass(frozen=True)
class Field:
    """A cloud of texts, and what is a void in it.

    A place is in a void if its score is above `least_score` (what chance explains, and what 99 of
    100 held-out texts have), and if it climbs to a centre inside the cloud whose score is, too.
    """

    cloud_ND: Vectors
    void_dim: int
    least_score: float
    support: Support
    own_JK: Floats64
    patches: ExactIndex  # centres of clusters of the cloud, in its own subspace
    row_N: Ints  # of the cloud, of each text of the index
    rest: Rest = "open"  # what is put where the prefix leaves coordinates open

    @classmethod
    def of(
        cls, cloud_ND: Vectors, held_out_MD: Vectors, void_dim: int, chance: float,
        rng: np.random.Generator,
    ) -> Field:  # fmt: skip
        """`chance`: the score that p = 0.05 takes; held-out texts that score higher raise it."""
        held_out_MK = prefix(held_out_MD, void_dim) if len(held_out_MD) else None
        index, held_out_MJ, own_JK, row_N = ground(prefix(cloud_ND, void_dim), held_out_MK)
        support = Support.learn(index, held_out_MJ, rng)
        least_score = chance
        if held_out_MJ is not None and len(held_out_MJ):
            score_M = scores(index, held_out_MJ, SEARCH.neighbours)[0]
            least_score = max(chance, float(np.quantile(score_M, UNUSUAL)))
        patches = ExactIndex(clusters(index, CORNERS, rng)[0])
        return cls(cloud_ND, void_dim, least_score, support, own_JK, patches, row_N)

    @property
    def index(self) -> ExactIndex:
        """Of the distinct prefixes, in the cloud's own subspace."""
        return self.support.index

    def look(self, points_nD: Vectors) -> Look:
        """Score and d_k of places, on the sphere of the prefix."""
        score_n, angles_nL = scores(self.index, self.own(points_nD), SEARCH.neighbours)
        return Look(score_n, angles_nL[:, -1])

    def encloses(self, points_nD: Vectors) -> Mask:
        """Which places climb to a centre inside the cloud."""
        return ascend(self.support, self.own(points_nD), SEARCH.rounds)[1]

    def is_void(self, points_nD: Vectors) -> Mask:
        """Which places are in a void."""
        empty_n = place_scores(self.support, self.own(points_nD), SEARCH, self.least_score)
        return np.asarray(empty_n > self.least_score)

    def patch_rows(self, points_nD: Vectors) -> Ints:
        """The patch of the cloud that each place lies in, (n,)."""
        return self.patches.ids(self.own(points_nD), 1)[:, 0]

    def own(self, points_nD: Vectors) -> Vectors:
        """Places in the subspace of the cloud, (n, J)."""
        own_nJ = prefix(points_nD, self.void_dim) @ self.own_JK.T
        apart_n = np.linalg.norm(own_nJ, axis=1) < NO_PART
        own_nJ[apart_n] = self.index.cloud_ND[0]  # on a text: in no void
        return unit(own_nJ)

    def completed(self, points_nD: Vectors) -> Vectors:
        """The prefixes of vectors as places: with what `rest` puts where they leave it open."""
        return self.lifted(self.own(points_nD))

    def lifted(self, points_nJ: Vectors) -> Vectors:
        """Places of the subspace as whole vectors, (n, D).

        What the prefix leaves open is 0, or (`rest` "nearest") as in the nearest text.
        """
        points_nK = points_nJ @ self.own_JK
        if self.rest == "open":
            return unit(np.pad(points_nK, ((0, 0), (0, self.cloud_ND.shape[1] - self.void_dim))))
        near_nD = self.cloud_ND[self.row_N[self.index.ids(points_nJ, 1)[:, 0]]]
        length_n1 = np.linalg.norm(near_nD[:, : self.void_dim], axis=1, keepdims=True)
        return unit(np.hstack([length_n1 * unit(points_nK), near_nD[:, self.void_dim :]]))

    def proposals(self, count: int, rng: np.random.Generator) -> Vectors:
        """Places drawn as the finder draws them, none of them climbed, (S, D), in random order."""
        return self.lifted(rng.permutation(draw(self.index, count, rng)))
