"""Where texts are written from: places in voids, and the controls that voids must beat.

A place is *settled* before it counts (`cllm.settling`). Every decode of that is counted, in every
arm.

    field = Field.of(cloud_ND, held_out_MD, void_dim, chance, rng)
    arms = write_arms(model, field, 2000, rng)     # void, density, open, ...
"""

# Shapes: N texts, D coordinates, J of the cloud's subspace, S starts, n settled places.
from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cllm.field import Field, Look
from cllm.settling import USUAL, Autoencoder, Correction, Fits, Plausible, Settling, Written
from cllm.sphere import ExactIndex, any_direction, slerp, stepped, unit
from cllm.swaps import SwapTable

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NEIGHBOURS = 10  # that a mid-point joins
MATCHED = 0.05  # by which the medians of voids and of a matched control may differ
CHUNK = 200  # starts settled at a time
STEP = (0.2, 1.5)  # how far such a step goes, in d_k of the place: from and to, evenly by logarithm
POOL = 5  # proposals drawn for each start that is wanted
BARREN = 20  # draws of a pool without one start, after which no more are drawn


def write_arms(
    model: Autoencoder,
    field: Field,
    budget: int,
    rng: np.random.Generator,
    plausible: Plausible | None = None,
    how: Correction = USUAL,
) -> dict[str, Written]:
    """The five arms that start from places, each of at most `budget` decodes, put right likewise.

    `density` and `open` settle as many places as the void arm, and write from as many, matched.
    """
    void = _settled_voids(model, field, budget, rng, plausible, how)
    places_nD = void.kept_nD
    wanted = field.look(places_nD) if len(places_nD) else None

    def matched(arm: str, starts_SD: Vectors, fits: Fits, like: str) -> Written:
        control = Settling(model, field, budget, plausible, how)
        settled_SD = control.settle(starts_SD[: void.starts], fits)
        if len(settled_SD):
            offered_S = getattr(field.look(settled_SD), like)
            control.keep(settled_SD[_like(getattr(wanted, like), offered_S, arm)])
        return control.write(arm, rng)

    def full(points_nD: Vectors) -> Mask:
        return field.encloses(points_nD) & (field.look(points_nD).score_n < field.least_score)

    def outside(points_nD: Vectors) -> Mask:
        return ~field.encloses(points_nD)

    cloud_ND = field.cloud_ND
    arms = [void.write("void", rng)]
    starts = budget // 2 if how.settled else budget  # the other half writes from what is kept
    if wanted:
        dense_SD = _below(field, wanted, void.starts, rng)
        open_SD = _outside(field, wanted, void.starts, rng)
        arms += [
            matched("density", dense_SD, full, "crowding_n"),
            matched("open", open_SD, outside, "dk_n"),
        ]
    for arm, start_SD in (
        ("interpolation", between_near(cloud_ND, starts, rng)),
        ("prior", from_prior(cloud_ND, starts, rng)),
    ):
        other = Settling(model, field, budget, plausible, how)
        other.keep(other.settle(start_SD))
        arms.append(other.write(arm, rng))
    return {written.arm: written for written in arms}


def write_from_voids(
    model: Autoencoder,
    field: Field,
    budget: int,
    rng: np.random.Generator,
    plausible: Plausible | None = None,
    how: Correction = USUAL,
    within: Fits | None = None,
    seconds: float = math.inf,
) -> Written:
    """The void arm alone: as `write_arms` writes it, without the price of the others.

    `within`: which places in voids are wanted. No more places are sought after `seconds`.
    """
    void = _settled_voids(model, field, budget, rng, plausible, how, within, seconds)
    return void.write("void", rng)


def _settled_voids(
    model: Autoencoder, field: Field, budget: int, rng: np.random.Generator,
    plausible: Plausible | None, how: Correction, within: Fits | None = None,
    seconds: float = math.inf,
) -> Settling:  # fmt: skip
    """Starts are settled until the budget is spent; kept: those that are still voids.

    What settled in a void has neighbours that do: some of the next starts are steps off it.
    """

    def fits(points_nD: Vectors) -> Mask:
        fits_n = field.is_void(points_nD)
        if within and fits_n.any():
            fits_n[fits_n] = within(points_nD[fits_n])
        return fits_n

    void, barren = Settling(model, field, budget, plausible, how), 0
    until = time.monotonic() + seconds
    least = max(2, how.decodes_a_text)  # less than that writes nothing more
    while budget - void.spent >= least and barren < BARREN and time.monotonic() < until:
        half = (budget - void.spent) // 2  # the other half writes from what is kept
        count = min(CHUNK, half)
        walked_SD = steps_off(field, void.kept_nD, int(how.walked * count), rng)
        if within and len(walked_SD):
            walked_SD = walked_SD[within(walked_SD)]
        drawn_SD = void_starts(field, count - len(walked_SD), rng, fits)
        barren = 0 if len(drawn_SD) + len(walked_SD) else barren + 1
        # beside a kept place another step is likelier to stay than one that is put right
        found = [void.settle(walked_SD, fits, corrected=False), void.settle(drawn_SD, fits)]
        void.keep(np.concatenate(found))
    if not void.starts:
        log.warning("no place is empty enough to start from: the void arm is empty")
    elif how.settled and not void.likely:
        log.warning("no text written from a void is plausible: the void arm is empty")
    elif not len(void.kept_nD):
        log.warning("no place in a void stays one when it is decoded: the void arm is empty")
    return void


def write_all(
    model: Autoencoder,
    field: Field,
    train_texts: Sequence[str],
    budget: int,
    rng: np.random.Generator,
    plausible: Plausible | None = None,
    unaided: Callable[[int, int], Written] | None = None,
    how: Correction = USUAL,
) -> dict[str, Written]:
    """All seven arms; `unaided` writes the base arm, of a number of texts and a seed."""
    written = write_arms(model, field, budget, rng, plausible, how)
    written["copy"] = near_copies(train_texts, budget, rng).only(plausible)
    if unaided:
        written["base"] = unaided(budget, int(rng.integers(1 << 31))).only(plausible)
    return written


def between_near(cloud_ND: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Great-circle mid-points of random texts and one of their ten nearest, (n, D)."""
    index = ExactIndex(cloud_ND)
    row_n = rng.choice(len(cloud_ND), count)
    near_nJ = index.own_neighbours(NEIGHBOURS, row_n)[1]
    other_n = near_nJ[np.arange(count), rng.integers(near_nJ.shape[1], size=count)]
    return slerp(index.cloud_ND[row_n], index.cloud_ND[other_n], 0.5)


def from_prior(cloud_ND: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Draws from a Gaussian with the cloud's mean and covariance, put back on the sphere."""
    mean_D = cloud_ND.mean(0, dtype=np.float64)
    covariance_DD = np.cov(cloud_ND.T.astype(np.float64))
    return unit(rng.multivariate_normal(mean_D, covariance_DD, count))


def near_copies(train_texts: Sequence[str], count: int, rng: np.random.Generator) -> Written:
    """The copy arm: training texts with one word swapped; costs no decode."""
    copies = SwapTable.learn(train_texts, rng).copies(train_texts, count, rng)
    return Written("copy", tuple(copies), None, 0)


def void_starts(
    field: Field, count: int, rng: np.random.Generator, fits: Fits | None = None
) -> Vectors:
    """Proposals that are themselves in voids, or that fit otherwise."""
    pool_SD = field.proposals(POOL * count, rng)
    return pool_SD[(fits or field.is_void)(pool_SD)][:count]


def steps_off(field: Field, kept_nD: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Places in voids near kept ones, at most `count`, in random directions of the subspace.

    Each patch of the cloud that has kept ones is as likely as any other, or the first would stay
    the one that all come from.
    """
    if not len(kept_nD):
        return field.cloud_ND[:0]
    patch_n = field.patch_rows(kept_nD)
    weight_n = 1 / np.bincount(patch_n)[patch_n]
    base_SD = kept_nD[rng.choice(len(kept_nD), count, p=weight_n / weight_n.sum())]
    base_SJ = field.own(base_SD)
    towards_SJ = any_direction(base_SJ, rng)
    length_S = step_shares(count, rng) * field.look(base_SD).dk_n
    moved_SD = field.lifted(stepped(base_SJ, towards_SJ, length_S))
    return moved_SD[field.is_void(moved_SD)]


def step_shares(count: int, rng: np.random.Generator) -> Floats64:
    """How far to step off a place, in shares of its d_k, (S,)."""
    least, most = STEP
    return np.asarray(least * (most / least) ** rng.random(count))


def _below(field: Field, like: Look, count: int, rng: np.random.Generator) -> Vectors:
    """Proposals too full to be voids, among texts as crowded."""
    pool_SD = field.proposals(POOL * count, rng)
    seen = field.look(pool_SD)
    full_S = np.flatnonzero(seen.score_n < field.least_score)
    return pool_SD[full_S[_near(like.crowding_n, seen.crowding_n[full_S], count, rng)]]


def _outside(field: Field, like: Look, count: int, rng: np.random.Generator) -> Vectors:
    """Steps off texts in random directions, of the same d_k."""
    size = POOL * count
    text_SJ = field.index.cloud_ND[rng.integers(len(field.index), size=size)]
    towards_SJ = any_direction(text_SJ, rng)
    length_S = rng.uniform(0, 3, size) * rng.choice(like.dk_n, size)
    pool_SD = field.lifted(stepped(text_SJ, towards_SJ, length_S))
    return pool_SD[_near(like.dk_n, field.look(pool_SD).dk_n, count, rng)]


def _near(wanted_n: Floats64, offered_S: Floats64, count: int, rng: np.random.Generator) -> Ints:
    """`count` rows on offer, each the nearest free one (by ratio) to a wanted value drawn."""
    free_S, rows = np.log(offered_S), []
    for value in rng.choice(wanted_n, min(count, len(offered_S))):
        rows.append(int(np.argmin(np.abs(free_S - np.log(value)))))
        free_S[rows[-1]] = np.inf
    return np.array(rows, dtype=np.int64)


def _like(wanted_n: Floats64, offered_S: Floats64, arm: str) -> Ints:
    """Rows on offer with the wanted median: as many above it as below, at most as many as wanted.

    Each is the nearest free one to a wanted value on its side. None where the medians would
    still differ by more than MATCHED.
    """
    median, rng = float(np.median(wanted_n)), np.random.default_rng(0)
    sides = [(wanted_n >= median, offered_S >= median), (wanted_n < median, offered_S < median)]
    count = min(min(int(w.sum()), int(o.sum())) for w, o in sides)
    rows = np.concatenate([
        np.flatnonzero(o)[_near(wanted_n[w], offered_S[o], count, rng)] for w, o in sides
    ]) if count else np.empty(0, np.int64)  # fmt: skip
    if len(rows) and abs(np.median(offered_S[rows]) / median - 1) > MATCHED:
        rows = rows[:0]
    if len(rows) < len(wanted_n):
        log.warning("the %s arm has %d places for %d in voids: no more are alike",
                    arm, len(rows), len(wanted_n))  # fmt: skip
    return rows
