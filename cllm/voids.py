"""Find empty places ("voids") in a cloud of text vectors.

A void is a centre far from every text yet enclosed by them. Distances are exact:
approximate search overestimates emptiness, and so invents voids.

    search = find_voids(cloud_NK, VoidSettings(), np.random.default_rng(0), held_out_MK)
"""

# Shapes: N texts, K coordinates of the prefix, Q points, P proposals, C candidates,
# M held-out texts, J neighbours, R probe directions.
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from cllm.enclosure import Support
from cllm.errors import InputError
from cllm.nulls import KINDS, Kind, in_threads, null_cloud, own_subspace, p_value
from cllm.proposals import draw, propose
from cllm.sphere import ExactIndex, angle, delaunay_cells, require_unit, unit

Floats = npt.NDArray[np.floating[Any]]
Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
IndexOf = Callable[[Floats], ExactIndex]
Job = tuple[Kind, np.random.Generator]
Each = Callable[["Callable[[Job], VoidSearch]", Sequence[Job]], "Iterable[VoidSearch]"]


class VoidSettings(BaseModel):
    """How hard to search, what counts as a void, and how many null clouds judge it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbours: int = Field(10, ge=1, description="k of the void score (design: 10)")
    proposals: int = Field(2000, ge=1, description="starting points drawn, of all kinds")
    places: int = Field(
        10_000, ge=0, description="starts of arms that chance must explain as well; 0 = off"
    )
    climbed: int = Field(400, ge=1, description="proposals that climb: the emptiest in the sheet")
    rounds: int = Field(60, ge=0, description="most climbing steps; they end earlier. 0 = off")
    count: int = Field(100, ge=1, description="most kept, by score, enclosed ones first")
    max_overlap: float = Field(0.1, ge=0, le=1, description="share of `overlap`; 1 = no pruning")
    rim_tolerance: float = Field(
        0.05, ge=0, description="rim texts lie within (1 + this) of the radius"
    )
    nulls: int = Field(19, ge=0, description="null clouds a kind; 19 allow p = 0.05; 0 = off")

    @classmethod
    def quick(cls) -> VoidSettings:
        """About a quarter of the time: fewer proposals, the same nulls; finds less for K >= 6."""
        return cls(proposals=500, places=2500, climbed=60)


CHANCE = 0.05  # a void of a larger p-value may be chance
PLACES = 64  # looked at at a time
NO_ANGLE = 1e-9  # radians; texts that are nearer than that are one
NO_PART = 1e-6  # a vector with less of it in a subspace is at right angles to that


@dataclass(frozen=True)
class Void:
    """An empty place on the sphere of the prefix; `rim` are rows of the cloud, nearest first.

    Radius and score are measured in the cloud's own subspace, where the void was sought.
    """

    id: int
    centre_K: npt.NDArray[np.float32]  # unit
    radius: float  # radians, to the nearest text
    score: float  # rho, see `void_scores`
    p_value: float | None  # None: nulls off, or not enclosed, or `written`
    enclosed: bool
    rim: tuple[int, ...]
    written: bool = False  # found around a text that was written, not by the search

    @property
    def stands(self) -> bool:
        """Enclosed by texts, and emptier than chance explains where that was asked."""
        return self.enclosed and (self.p_value is None or self.p_value <= CHANCE)


@dataclass(frozen=True)
class VoidSearch:
    """What a search found; no void at all is an answer."""

    voids: tuple[Void, ...]  # by score, descending; enclosed or not
    largest_score: float  # of the enclosed voids; -inf where there are none
    largest_radius: float  # the same, radians
    largest_place: float  # of many `place_scores`; 0 where they were not asked for
    sheet_dim: int  # dimension of the sheet that the cloud lies in, and voids were sought in
    radius_ratio: float | None = None  # largest radius / the null kind's mean that is largest
    p_value: float | None = None  # of the largest score
    p_values: tuple[tuple[Kind, float], ...] = ()  # the same against each kind of null
    null_scores: tuple[tuple[Kind, tuple[float, ...]], ...] = ()  # largest of each null cloud
    chance: float | None = None  # a place, climbed or not, of a higher score has p <= CHANCE

    @property
    def enclosed(self) -> tuple[Void, ...]:
        """The voids that texts enclose, by score, descending."""
        return tuple(void for void in self.voids if void.enclosed)


def find_voids(
    cloud_NK: Floats,
    settings: VoidSettings,
    rng: np.random.Generator,
    held_out_MK: Floats | None = None,
    kinds: Sequence[Kind] = KINDS,
    index_of: IndexOf = ExactIndex,
    each: Each | None = None,
) -> VoidSearch:
    """Search a cloud of unit vectors, and null clouds (of `kinds`) of its size in the same way.

    `index_of` answers for the cloud, `each` has the null clouds searched (none: in threads).
    `held_out_MK` (real texts not in the cloud) set how far inside the cloud a place must be to
    count as enclosed (see `enclosure`); without them it is enough that its rim positively spans
    the directions of its frame. A null cloud has held-out points of its own kind.
    Duplicate vectors count once. InputError: fewer than K + 2 distinct texts, NaN, not unit.
    """
    search_rng, *null_rngs = rng.spawn(1 + len(kinds) * settings.nulls)
    index, held_out_MJ, own_JK, row_N = ground(cloud_NK, held_out_MK, index_of)
    found = _search(index, held_out_MJ, settings, search_rng)
    nulls: dict[Kind, list[VoidSearch]] = {kind: [] for kind in kinds}
    jobs = list(zip(cycle(kinds), null_rngs, strict=False))
    search_null = partial(_search_null, index.cloud_ND, held_out_MJ, settings)
    each = each or partial(in_threads, points=len(cloud_NK))
    for (kind, _), null in zip(jobs, each(search_null, jobs), strict=True):
        nulls[kind].append(null)
    voids = tuple(lifted(void, own_JK, row_N) for void in found.voids)
    return _judged(replace(found, voids=voids), nulls if settings.nulls else {})


def ground(
    cloud_NK: Floats, held_out_MK: Floats | None, index_of: IndexOf = ExactIndex
) -> tuple[ExactIndex, Floats | None, Floats64, Ints]:
    """Where voids are sought: distinct texts and held-out ones (or None) in the cloud's subspace.

    Also the subspace's directions (J, K), and the given cloud's row of each distinct text (N,).
    """
    distinct_NK, row_N = _distinct(cloud_NK)
    own_JK = own_subspace(distinct_NK)
    held_out_MJ = None
    if held_out_MK is not None and len(held_out_MK):
        if held_out_MK.shape[1] != cloud_NK.shape[1]:
            raise InputError(
                f"the held-out texts have {held_out_MK.shape[1]} coordinates, the cloud "
                f"{cloud_NK.shape[1]}; make both with the same model"
            )
        within_MJ = require_unit(held_out_MK, "held-out row") @ own_JK.T
        held_out_MJ = unit(within_MJ[np.linalg.norm(within_MJ, axis=1) > NO_PART])
    return index_of(unit(distinct_NK @ own_JK.T)), held_out_MJ, own_JK, row_N


def void_scores(cloud_NK: Floats, points_QK: Floats, k: int = 10) -> tuple[Floats64, Floats64]:
    """Score rho (Q,) and the angle d_k (Q,) to the k-th nearest text, of any unit points.

    rho = d_k / median over the k nearest texts of their own d_k (design, Metrics): about 1
    in the middle of an even cloud, larger where it is emptier than its surroundings.
    """
    score_Q, angles_QK = scores(ExactIndex(_distinct(cloud_NK)[0]), points_QK, k)
    return score_Q, angles_QK[:, -1]


def scores(index: ExactIndex, points_QK: Floats, k: int) -> tuple[Floats64, Floats64]:
    """Score rho (Q,) and the angles (Q, k) to the k nearest texts, ascending."""
    angles_QK, ids_QK = index.search(points_QK, k)
    around_Q = np.maximum(np.median(index.kth_angle(k, ids_QK), axis=1), NO_ANGLE)
    return angles_QK[:, -1] / around_Q, angles_QK


def overlap(angle_between: Floats, radius_a: Floats, radius_b: Floats) -> Floats64:
    """Share of the smaller ball's diameter, on the great circle of the centres, inside the other.

    0 where the balls touch or are apart, 1 where one holds the other; angles in radians.
    """
    shared = np.asarray(radius_a) + np.asarray(radius_b) - np.asarray(angle_between)
    return np.clip(shared / (2.0 * np.minimum(radius_a, radius_b)), 0.0, 1.0)


def climb(support: Support, start_CK: Floats, rounds: int) -> tuple[Floats64, Mask]:
    """Move each centre up the empty radius to its local maximum; centres (C, K), settled (C,).

    A step goes to the circumcentre of the Delaunay cell that holds the centre, which never
    has a smaller radius; a cell that holds its own circumcentre is the end, for its corners
    then positively span the tangent space (the discrete flow of Edelsbrunner 2003 and of
    Giesen & John 2003). A centre that leaves the cloud stays where it was, not settled.
    Where the cloud is a sheet, cells are those of its slice by the centre's local frame, and
    the frame is taken anew at every step: the centre goes along the sheet, not off it.
    """
    centre_CK = np.array(start_CK, dtype=np.float64)
    settled_C = np.zeros(len(centre_CK), dtype=bool)
    active_A = np.arange(len(centre_CK))
    for _ in range(rounds):
        if not len(active_A):
            break
        frame_AJK = None if support.fills_sphere else support.frames(centre_CK[active_A])
        cells = delaunay_cells(support.index, centre_CK[active_A], frame_AJK)
        centre_CK[active_A[cells.bounded_Q]] = cells.centre_QD[cells.bounded_Q]
        settled_C[active_A] = cells.central_Q
        active_A = active_A[cells.bounded_Q & ~cells.central_Q]
    return centre_CK, settled_C


def ascend(support: Support, start_CK: Floats, rounds: int) -> tuple[Floats64, Mask]:
    """Where places climb to, (C, K) unit, and whether that is a centre inside the cloud, (C,)."""
    centre_CK, enclosed_C = climb(support, start_CK, rounds)
    centre_CK = unit(centre_CK).astype(np.float64)
    enclosed_C[enclosed_C] = support.holds(centre_CK[enclosed_C])
    return centre_CK, enclosed_C


def place_scores(
    support: Support, points_QK: Floats, settings: VoidSettings, above: float = 0.0
) -> Floats64:
    """How empty places are that texts enclose, (Q,): the lower score of place and its void.

    A place is enclosed if it climbs to a centre inside the cloud: its void. 0 for those that are
    not, and for those of a score no higher than `above`.
    """
    score_Q = scores(support.index, points_QK, settings.neighbours)[0]
    rows = np.flatnonzero(score_Q > above)
    centre_PK, enclosed_P = ascend(support, points_QK[rows], settings.rounds)
    summit_P = scores(support.index, centre_PK, settings.neighbours)[0] if len(rows) else 0.0
    found_Q = np.zeros(len(points_QK))
    found_Q[rows] = np.where(enclosed_P, np.minimum(score_Q[rows], summit_P), 0.0)
    return found_Q


def prune(centre_CK: Floats, radius_C: Floats, max_overlap: float) -> Ints:
    """Rows kept, in the given order, when each must overlap no kept one by more than that."""
    kept: list[int] = []
    for row in range(len(centre_CK)):
        between = angle(centre_CK[row], np.asarray(centre_CK)[kept])
        if not (overlap(between, radius_C[row], radius_C[kept]) > max_overlap).any():
            kept.append(row)
    return np.asarray(kept, dtype=np.int64)


def _distinct(cloud_NK: Floats) -> tuple[npt.NDArray[np.float32], Ints]:
    """The distinct rows in their first order, and the row number each had."""
    cloud_NK = require_unit(cloud_NK, "cloud row")
    row_N = np.sort(np.unique(cloud_NK, axis=0, return_index=True)[1])
    wanted = cloud_NK.shape[1] + 2
    if len(row_N) < wanted:
        raise InputError(
            f"{len(row_N)} distinct vectors are too few to enclose a void in "
            f"{cloud_NK.shape[1]} coordinates; bring at least {wanted} texts or a smaller prefix"
        )
    return cloud_NK[row_N], row_N.astype(np.int64)


def _search(
    index: ExactIndex,
    held_out_MK: Floats | None,
    settings: VoidSettings,
    rng: np.random.Generator,
) -> VoidSearch:
    """One search of one cloud, without nulls."""
    support = Support.learn(index, held_out_MK, rng)
    proposal_PK = propose(index, settings.proposals, rng)
    score_P, angles_PJ = scores(index, proposal_PK, settings.neighbours)
    order_P = _promising(angles_PJ[:, 0], score_P, support.along_sheet(proposal_PK))
    chosen_C = np.sort(order_P[: settings.climbed])
    centre_CK, enclosed_C = ascend(support, proposal_PK[chosen_C], settings.rounds)
    voids = _kept(support, settings, centre_CK, enclosed_C)
    enclosed = [void for void in voids if void.enclosed]
    others = [void for void in voids if not void.enclosed]
    return VoidSearch(
        voids=tuple(sorted((enclosed + others)[: settings.count], key=lambda void: void.id)),
        largest_score=max((void.score for void in enclosed), default=-np.inf),
        largest_radius=max((void.radius for void in enclosed), default=-np.inf),
        largest_place=_largest_place(support, settings, rng),
        sheet_dim=support.width - 1,
    )


def _largest_place(support: Support, settings: VoidSettings, rng: np.random.Generator) -> float:
    """The largest of the `place_scores` of many proposals."""
    if not settings.places:
        return 0.0
    place_PK = draw(support.index, settings.places, rng)
    score_P = scores(support.index, place_PK, settings.neighbours)[0]
    order_P, largest = np.argsort(-score_P, kind="stable"), 0.0
    for start in range(0, len(order_P), PLACES):  # the emptiest first
        rows = order_P[start : start + PLACES]
        largest = max(largest, float(place_scores(support, place_PK[rows], settings).max()))
        if start + PLACES >= len(order_P) or score_P[order_P[start + PLACES]] <= largest:
            break
    return largest


def _search_null(
    cloud_NK: Floats, held_out_MK: Floats | None, settings: VoidSettings, job: Job
) -> VoidSearch:
    """Search a null cloud without duplicates, with as many held-out points of its own kind."""
    kind, rng = job
    null_NK = null_cloud(cloud_NK, kind, rng)
    held_out = None if held_out_MK is None else null_cloud(cloud_NK, kind, rng)[: len(held_out_MK)]
    return _search(ExactIndex(_distinct(null_NK)[0]), held_out, settings, rng)


def _promising(radius_P: Floats64, score_P: Floats64, along_P: Mask) -> Ints:
    """The order in which proposals may climb: the best by empty radius or by score first.

    So neither kind is lost. Those off the sheet of texts come last: they are emptiest of all.
    """
    rank_P = np.minimum(_rank(-radius_P), _rank(-score_P))
    return np.lexsort((rank_P, ~along_P))


def _rank(values_P: npt.NDArray[Any]) -> Ints:
    return np.argsort(np.argsort(values_P, kind="stable"), kind="stable")


def _kept(
    support: Support, settings: VoidSettings, centre_CK: Floats64, enclosed_C: Mask
) -> tuple[Void, ...]:
    """Score, prune (enclosed ones first, each largest first), sort by score, number."""
    radius_C = support.index.search(centre_CK, 1)[0][:, 0]
    order_C = np.lexsort((-radius_C, ~enclosed_C))
    order_C = order_C[radius_C[order_C] > 0]  # a start may lie on a text
    kept = order_C[prune(centre_CK[order_C], radius_C[order_C], settings.max_overlap)]
    voids = as_voids(support, settings, centre_CK[kept], enclosed_C[kept])
    emptiest_first = sorted(voids, key=lambda void: -void.score)
    return tuple(replace(void, id=number) for number, void in enumerate(emptiest_first))


def as_voids(
    support: Support, settings: VoidSettings, centre_CK: Floats64, enclosed_C: Mask
) -> list[Void]:
    """Places as voids, numbered in their order, with radius, score and rim of each."""
    angles_CJ, ids_CJ = support.index.search(centre_CK, max(settings.neighbours, support.width))
    score_C = scores(support.index, centre_CK, settings.neighbours)[0]
    each = zip(centre_CK.astype(np.float32), angles_CJ, ids_CJ, score_C, enclosed_C, strict=True)
    corners, near = support.width, settings.rim_tolerance
    return [
        Void(row, centre_K, float(angles_J[0]), float(score), None, bool(enclosed),
             _rim(angles_J, ids_J, corners, near))
        for row, (centre_K, angles_J, ids_J, score, enclosed) in enumerate(each)
    ]  # fmt: skip


def _rim(angles_J: Floats64, ids_J: Ints, corners: int, tolerance: float) -> tuple[int, ...]:
    """The nearest texts: all within the tolerance, at least the corners of its cell."""
    within = int((angles_J <= (1.0 + tolerance) * angles_J[0]).sum())
    return tuple(int(row) for row in ids_J[: max(within, corners)])


def lifted(void: Void, own_JK: Floats64, row_N: Ints) -> Void:
    """The same with its centre back among all K coordinates, and its rim in rows of the cloud."""
    whole = len(own_JK) == own_JK.shape[1]
    centre_K = np.asarray(void.centre_K if whole else void.centre_K @ own_JK, dtype=np.float32)
    return replace(void, centre_K=centre_K, rim=tuple(int(row_N[row]) for row in void.rim))


def _judged(found: VoidSearch, nulls: dict[Kind, list[VoidSearch]]) -> VoidSearch:
    """The same with p-values and the radius ratio, where there are null clouds."""
    if not nulls:
        return found
    largest = {kind: [null.largest_score for null in some] for kind, some in nulls.items()}
    radii = {kind: [max(null.largest_radius, 0.0) for null in some] for kind, some in nulls.items()}
    emptiest = max(float(np.mean(some)) for some in radii.values())
    known = emptiest > 0 and found.enclosed
    return replace(
        found,
        voids=tuple(
            replace(void, p_value=p_value(void.score, largest)) if void.enclosed else void
            for void in found.voids
        ),
        radius_ratio=found.largest_radius / emptiest if known else None,
        p_value=p_value(found.largest_score, largest),
        p_values=tuple((k, p_value(found.largest_score, {k: largest[k]})) for k in largest),
        null_scores=tuple((kind, tuple(scores)) for kind, scores in largest.items()),
        chance=max(
            0.0,
            *(
                _beyond_chance([max(null.largest_score, null.largest_place) for null in some])
                for some in nulls.values()
            ),
        ),
    )


def _beyond_chance(null_scores: Sequence[float]) -> float:
    """The null score that one must exceed for p <= CHANCE; infinite with too few nulls."""
    allowed = int(CHANCE * (1 + len(null_scores)) + 1e-9) - 1  # null clouds that may reach it
    return sorted(null_scores, reverse=True)[allowed] if allowed >= 0 else np.inf
