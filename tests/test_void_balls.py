from __future__ import annotations

import numpy as np

from cllm.field import Field
from cllm.sphere import angle, prefix, unit
from cllm.void_balls import radii_off, void_around, written_voids
from cllm.voids import Void


def void(number: int, centre_K: np.ndarray, radius: float, stands: bool = True) -> Void:
    return Void(number, unit(centre_K[None])[0], radius, 2.0, 0.05, stands, (0, 1))


def test_a_place_belongs_to_the_void_that_it_lies_deepest_in() -> None:
    centres_VK = unit(np.random.default_rng(1).standard_normal((3, 4)))
    voids = [void(i + 10, c, 0.5) for i, c in enumerate(centres_VK)]
    points_nD = np.pad(np.stack([centres_VK[2], centres_VK[0], -centres_VK[1]]), ((0, 0), (0, 4)))
    assert void_around(points_nD, voids) == [12, 10, None]
    wide = void(20, -centres_VK[0], 3.1)
    assert void_around(points_nD[1:2], [wide, voids[0]]) == [10]
    assert void_around(points_nD[2:], [wide, voids[0]]) == [20]
    assert void_around(points_nD, []) == [None] * 3
    assert radii_off(points_nD[1:2], [voids[0]])[0, 0] < 1e-3


def ring_field(rng: np.random.Generator) -> Field:
    """Texts everywhere on the sphere but within 0.5 rad of its pole, in 4 of 6 coordinates."""
    cloud_NK = unit(rng.standard_normal((4000, 4)))
    pole_K = np.array([1.0, 0, 0, 0], np.float32)
    cloud_ND = np.pad(cloud_NK[angle(cloud_NK, pole_K) > 0.5], ((0, 0), (0, 2)))
    return Field.of(cloud_ND, cloud_ND[:0], 4, chance=1.5, rng=rng)


def test_a_void_is_made_around_each_place_that_none_holds() -> None:
    field = ring_field(np.random.default_rng(0))
    near_nK = unit(np.array([[1, 0.2, 0, 0], [1, 0.25, 0, 0], [1, -0.3, 0.1, 0], [0, 1.0, 0, 0]]))
    places_nD = np.pad(near_nK, ((0, 0), (0, 2)))
    assert field.is_void(places_nD).tolist() == [True, True, True, False]
    found = written_voids(field, places_nD, [])
    assert found
    assert [one.id for one in found] == list(range(len(found)))
    for one in found:
        assert one.written
        assert one.stands
        assert one.p_value is None, "none of its own"
        to_texts_N = angle(prefix(field.cloud_ND, 4), one.centre_K)
        assert abs(to_texts_N.min() - one.radius) < 1e-3, "no text lies in it"
        assert set(one.rim) <= set(np.argsort(to_texts_N)[: len(one.rim) + 1].tolist())
    held_n = np.array([one is not None for one in void_around(places_nD, found)])
    assert held_n.tolist() == [True, True, True, False]


def test_where_a_void_that_stands_holds_a_place_none_is_made_around_it() -> None:
    field = ring_field(np.random.default_rng(0))
    place_1D = np.array([[1, 0.2, 0, 0, 0, 0]], np.float32) / np.hypot(1, 0.2)
    pole = np.array([1.0, 0, 0, 0])
    assert not written_voids(field, place_1D, [void(7, pole, 0.4)])
    (made,) = written_voids(field, place_1D, [void(7, pole, 0.4, stands=False)])
    assert made.id == 8
    assert not written_voids(field, place_1D[:0], [])
