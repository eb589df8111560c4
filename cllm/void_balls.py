"""Which void a place lies in, by its ball; and voids around places that texts were written from.

ids = void_around(points_nD, voids)
more = written_voids(field, points_nD, voids)
"""

# Shapes: n places, V voids, D coordinates, K of the prefix, J of the cloud's subspace.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cllm.field import SEARCH, Field
from cllm.sphere import angle, prefix, unit
from cllm.voids import Void, as_voids, climb, lifted

Vectors = NDArray[np.float32]
Floats64 = NDArray[np.float64]


def radii_off(points_nD: Vectors, voids: Sequence[Void]) -> Floats64:
    """How far places are from the centres of voids, in their radii, (n, V): in the ball below 1."""
    far_nV = np.empty((len(points_nD), len(voids)))
    for column, void in enumerate(voids):
        points_nK = prefix(points_nD, len(void.centre_K))
        far_nV[:, column] = angle(points_nK, void.centre_K) / void.radius
    return far_nV


def void_around(points_nD: Vectors, voids: Sequence[Void]) -> list[int | None]:
    """The id of the void in whose ball each place lies, of several the deepest; else None."""
    if not voids:
        return [None] * len(points_nD)
    far_nV = radii_off(points_nD, voids)
    nearest = zip(far_nV.min(1), far_nV.argmin(1), strict=True)
    return [voids[row].id if far < 1 else None for far, row in nearest]


def written_voids(field: Field, points_nD: Vectors, searched: Sequence[Void]) -> list[Void]:
    """Voids around places in voids, one for each that none that stands, or came before, holds.

    It is the empty ball through the corners of the (Delaunay) cell of texts that the place lies
    in, or around the place where the cell is open. What the place climbs to from there may not
    hold it any more: those balls grow, and move. A place counts if it is in a void, and the ball's
    centre is, too; so chance does not explain it, but no p-value is its own.
    """
    first = 1 + max((void.id for void in searched), default=-1)
    standing = [void for void in searched if void.stands]
    found: list[Void] = []
    own_nJ = field.own(points_nD[field.is_void(points_nD)])
    if not len(own_nJ):
        return found
    centre_nJ = unit(climb(field.support, own_nJ, 1)[0]).astype(np.float64)
    there_n = field.is_void(field.lifted(centre_nJ.astype(np.float32)))
    for ball, own_J in zip(
        as_voids(field.support, SEARCH, centre_nJ, there_n), own_nJ, strict=True
    ):
        void = lifted(ball, field.own_JK, field.row_N)
        place_1K = np.asarray(own_J @ field.own_JK, np.float32)[None]
        held = radii_off(place_1K, [void, *standing, *found])[0] < 1
        if void.enclosed and held[0] and not held[1:].any():
            found.append(replace(void, id=first + len(found), written=True))
    return found
