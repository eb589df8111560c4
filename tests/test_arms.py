"""Places to write from: voids, and controls that share one thing with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import Spelled, ringed, ringed_field

from cllm.arms import (
    between_near,
    from_prior,
    near_copies,
    steps_off,
    write_all,
    write_arms,
    write_from_voids,
)
from cllm.field import Field
from cllm.settling import Correction, Written
from cllm.sphere import ExactIndex, angle, prefix, unit

Vectors = np.ndarray


class Snapping(Spelled):
    """Whatever it is given, it tells the nearest text it knows."""

    def __init__(self, cloud_ND: Vectors) -> None:
        self.index = ExactIndex(cloud_ND)

    def decode(self, vectors_ND: Vectors) -> list[str]:
        return super().decode(self.index.cloud_ND[self.index.ids(vectors_ND, 1)[:, 0]])


@pytest.fixture(scope="module")
def field() -> Field:
    return ringed_field()


def test_the_void_arm_writes_from_voids_and_the_controls_are_matched(field: Field) -> None:
    written = write_arms(Spelled(), field, 300, np.random.default_rng(3))
    void, density = (field.look(written[arm].points_nD) for arm in ("void", "density"))
    assert (void.score_n > 1.8).all()
    assert field.is_void(written["void"].points_nD).all()
    assert (angle(written["void"].points_nD, np.array([0.0, 0, 1])) < np.arccos(0.8)).all()
    assert (density.score_n < 1.8).all()
    assert field.encloses(written["density"].points_nD).all()
    assert np.median(density.crowding_n) == pytest.approx(np.median(void.crowding_n), rel=0.05)


def test_the_void_arm_alone_writes_what_it_writes_beside_the_others(field: Field) -> None:
    arms = write_arms(Spelled(), field, 300, np.random.default_rng(0))
    assert arms["void"].texts
    alone = write_from_voids(Spelled(), field, 300, np.random.default_rng(0))
    assert alone.texts == arms["void"].texts


def test_voids_are_written_from_where_that_is_wanted_and_as_long(field: Field) -> None:
    def write(within: object, seconds: float = 60) -> Written:
        return write_from_voids(Spelled(), field, 300, np.random.default_rng(0),
                                within=within, seconds=seconds)  # fmt: skip

    east = write(lambda points_nD: points_nD[:, 0] > 0)
    assert len(east.texts) > 10
    assert (east.points_nD[:, 0] > 0).all()
    assert field.is_void(east.points_nD).all()
    none = write(lambda points_nD: np.zeros(len(points_nD), bool))
    assert (none.texts, none.decodes) == ((), 0), "what is not decoded costs nothing"
    assert write(None, seconds=0).decodes == 0


def test_the_open_arm_lies_where_no_texts_enclose_it() -> None:
    """A patch with a hole: beyond its edge there are no texts."""
    clouds = [unit(np.random.default_rng(5).standard_normal((n, 3))) for n in (6000, 1200)]
    patch, held_out = (c[(c[:, 2] > 0.4) & (c[:, 2] < 0.95)] for c in clouds)
    field = Field.of(patch, held_out, 3, 1.8, np.random.default_rng(0))
    written = write_arms(Spelled(), field, 300, np.random.default_rng(3))
    void, outside = written["void"].points_nD, written["open"].points_nD
    assert len(outside) > 10
    assert not field.encloses(outside).any()
    assert field.encloses(void).all()
    dk, wanted = (np.median(field.look(points).dk_n) for points in (outside, void))
    assert dk == pytest.approx(wanted, rel=0.05)


def test_a_place_beside_a_cluster_is_in_the_void_it_climbs_to() -> None:
    """All its nearest texts are on one side of it; its void has texts all around."""
    rng = np.random.default_rng(7)
    around = 2 * np.pi * np.arange(6) / 6
    centres = np.stack([np.cos(around), np.sin(around), np.full(6, 1.2)], axis=1)
    clusters = [unit(np.repeat(centres, n, 0) + 0.05 * rng.standard_normal((6 * n, 3)))
                for n in (200, 40)]  # fmt: skip
    field = Field.of(*clusters, 3, 1.8, rng)
    beside = unit(np.array([[0.75, 0.0, 1.2]]))
    assert not field.support.holds(beside).any()
    assert field.is_void(beside).all()
    away = unit(np.array([[1.4, 0.0, 1.2]]))  # on the other side there are none
    assert not field.is_void(away).any()


def test_there_are_seven_arms(field: Field) -> None:
    rng = np.random.default_rng(3)
    texts = Spelled().decode(field.cloud_ND)

    def unaided(count: int, seed: int) -> Written:
        return Written("base", tuple(texts[seed % 7 :][:count]), None, count)

    written = write_all(Spelled(), field, texts, 60, rng, None, unaided)
    arms = {"void", "density", "open", "interpolation", "prior", "copy", "base"}
    assert set(written) == arms
    assert len(written["base"].texts) == len(written["copy"].texts) == 60
    assert all(arm.decodes <= 60 for arm in written.values())


def ends_even(texts: list[str]) -> np.ndarray:
    """A half of all texts is plausible."""
    return np.array([text[-1] in "02468" for text in texts])


class Doubtful(Spelled):
    """Its decoder is a little unsure of where it is."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def decode(self, vectors_ND: Vectors) -> list[str]:
        return super().decode(unit(vectors_ND + 0.01 * self.rng.standard_normal(vectors_ND.shape)))


def test_what_is_written_is_plausible_in_every_arm_even_where_words_change(field: Field) -> None:
    written = write_arms(Doubtful(), field, 200, np.random.default_rng(3), ends_even)
    for arm in written.values():
        assert all(text[-1] in "02468" for text in arm.texts)
        assert len(arm.texts) == len(arm.points_nD)
        assert 0 < arm.likely < arm.starts


def test_every_decode_is_counted_and_none_is_over_budget(field: Field) -> None:
    written = write_arms(Spelled(), field, 150, np.random.default_rng(3))
    for arm in written.values():
        assert len(arm.texts) == len(arm.points_nD)
        assert len(arm.texts) < arm.decodes <= 150


def test_a_decoder_that_only_looks_up_stays_in_no_void(field: Field) -> None:
    written = write_arms(Snapping(field.cloud_ND), field, 100, np.random.default_rng(3))
    assert written["void"].texts == ()
    assert "density" not in written
    prior = written["prior"]
    assert prior.starts == 50
    assert len(set(prior.texts)) == len(prior.texts) > 40, "what came before is not told again"


class Narrow(Snapping):
    """It keeps the places of a small cap, and elsewhere tells the nearest text it knows."""

    def decode(self, vectors_ND: Vectors) -> list[str]:
        kept_N = angle(vectors_ND, unit(np.array([[0.2, 0.0, 1.0]]))) < 0.12
        pairs = zip(kept_N, Spelled().decode(vectors_ND), super().decode(vectors_ND), strict=True)
        return [own if kept else known for kept, own, known in pairs]


def test_places_near_those_that_settled_in_a_void_are_tried_first(field: Field) -> None:
    model = Narrow(field.cloud_ND)
    walked = write_from_voids(model, field, 1200, np.random.default_rng(3))
    alone = Correction(walked=0)
    drawn = write_from_voids(model, field, 1200, np.random.default_rng(3), None, alone)
    assert walked.decodes <= 1200
    assert field.is_void(walked.points_nD).all()
    assert len(set(walked.texts)) == len(walked.texts) > 2 * len(drawn.texts) > 0


def test_steps_start_from_every_patch_alike(field: Field) -> None:
    """Else the patch that was found first would have most places, and so get most of the next."""
    around = unit(np.array([[0.5, 0.0, 1.0], [-0.5, 0.0, 1.0]]))
    kept_nD = np.repeat(around, (200, 2), axis=0)
    steps_SD = steps_off(field, kept_nD, 400, np.random.default_rng(0))
    assert field.is_void(steps_SD).all()
    nearer_S = angle(steps_SD, around[1]) < angle(steps_SD, around[0])
    assert 0.35 < nearer_S.mean() < 0.65


def test_a_small_budget_leaves_decodes_to_write_with(field: Field) -> None:
    many = replace(field, least_score=1.2)  # more starts than budget
    void = write_arms(Spelled(), many, 60, np.random.default_rng(3))["void"]
    assert 20 <= len(void.texts) <= 30
    assert void.decodes <= 60


def test_implausible_texts_are_dropped_in_every_arm_and_cost_their_decodes(field: Field) -> None:
    written = write_arms(Spelled(), field, 100, np.random.default_rng(3), ends_even)
    for arm in written.values():
        assert all(text[-1] in "02468" for text in arm.texts)
    prior = written["prior"]
    assert prior.decodes == 50 + len(prior.texts) < 90
    kept = prior.only(lambda texts: np.arange(len(texts)) < 3)
    assert kept.texts == prior.texts[:3]
    assert kept.decodes == prior.decodes


def test_a_void_is_emptier_than_where_unseen_texts_lie() -> None:
    """Unseen texts that lie where no training text does are no sign of a void."""
    cap = unit(np.random.default_rng(9).standard_normal((4000, 3)))
    cap = cap[cap[:, 2] > 0.85]
    held_out = np.concatenate([ringed(2, 300), cap[:20]])
    usual, strict = (
        Field.of(ringed(1, 1500), texts, 3, 1.8, np.random.default_rng(0))
        for texts in (ringed(2, 300), held_out)
    )
    assert usual.least_score == 1.8 < strict.least_score
    assert usual.is_void(cap).mean() > 0.5
    assert strict.is_void(cap).mean() < 0.3


def test_starts_are_drawn_anew_each_time_on_few_coordinates_too(field: Field) -> None:
    rng = np.random.default_rng(3)
    both = np.concatenate([field.proposals(500, rng), field.proposals(500, rng)])
    assert len(np.unique(both, axis=0)) > 990
    void = write_arms(Spelled(), field, 300, rng)["void"]
    assert len(set(void.texts)) > 0.95 * len(void.texts)


def test_nothing_is_a_void_above_an_infinite_chance_score(field: Field) -> None:
    none = replace(field, least_score=np.inf)
    assert write_arms(Spelled(), none, 60, np.random.default_rng(3))["void"].texts == ()


def test_midpoints_lie_between_near_texts() -> None:
    cloud = ringed(4, 500)
    middle = between_near(cloud, 40, np.random.default_rng(0))
    assert ExactIndex(cloud).search(middle, 1)[0].max() < 0.3


def test_prior_draws_follow_the_cloud() -> None:
    rng = np.random.default_rng(3)
    cloud_ND = unit(rng.standard_normal((500, 6)) * [1, 1, 0.2, 0.2, 0.2, 0.2] + 1)
    drawn_ND = from_prior(cloud_ND, 500, rng)
    assert np.linalg.norm(drawn_ND, axis=1) == pytest.approx(1)
    assert drawn_ND.mean(0) == pytest.approx(cloud_ND.mean(0), abs=0.05)
    assert drawn_ND.std(0) == pytest.approx(cloud_ND.std(0), rel=0.25)


def test_copies_differ_from_training_texts_and_cost_no_decode() -> None:
    texts = [f"title: {d} with {m}." for d in ("soup", "stew") for m in ("leek", "cod", "tofu")]
    written = near_copies(texts, 10, np.random.default_rng(0))
    assert len(written.texts) == 10
    assert written.decodes == 0
    assert written.points_nD is None


def test_what_a_prefix_leaves_open_may_be_the_nearest_texts() -> None:
    rng, k = np.random.default_rng(7), 3
    clouds = [np.hstack([c, rng.standard_normal((len(c), 2))]) for c in (ringed(1, 500),) * 2]
    field = Field.of(unit(clouds[0]), unit(clouds[1]), k, 1.8, rng)
    points_nD = field.proposals(40, np.random.default_rng(3))
    assert not points_nD[:, k:].any()
    filled_nD = replace(field, rest="nearest").proposals(40, np.random.default_rng(3))
    np.testing.assert_allclose(np.linalg.norm(filled_nD, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(prefix(filled_nD, k), prefix(points_nD, k), atol=1e-5)
    nearest_n = ExactIndex(prefix(field.cloud_ND, k)).search(prefix(points_nD, k), 1)[1][:, 0]
    np.testing.assert_allclose(filled_nD[:, k:], field.cloud_ND[nearest_n, k:], atol=1e-5)
