"""Texts written from places of a run: where, which, how many, and the same ones every time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cllm.arms import STEP
from cllm.errors import InputError
from cllm.run import SHIPPED, RunFolder
from cllm.sampler import Sampler
from cllm.sampling import Request, Rewritten, Tally, Vectors
from cllm.sphere import angle, prefix
from cllm.voids import Void
from cllm.where import BLOCK, Where


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler.of(RunFolder(SHIPPED))


def texts_of(sampler: Sampler, request: Request) -> list[str]:
    return [sample.idea.text for sample in sampler.sample(request)]


def test_the_same_request_gives_the_same_texts_and_another_seed_others(sampler: Sampler) -> None:
    request = Request(Where(topic="soup leeks"), n=4, seed=3)
    first = texts_of(sampler, request)
    assert len(first) == 4 == len(set(first))
    assert texts_of(sampler, request) == first
    assert texts_of(sampler, dataclasses.replace(request, seed=4)) != first


def test_fewer_are_the_first_of_more(sampler: Sampler) -> None:
    a, b = sampler.places.train.texts[:2]
    more = texts_of(sampler, Request(Where(between=(a, b)), n=3, decodes=200))
    assert texts_of(sampler, Request(Where(between=(a, b)), n=1, decodes=200)) == more[:1]


def test_between_lies_on_the_great_circle_and_near_within_reach(sampler: Sampler) -> None:
    places, a_2D = sampler.places, sampler.places.train.vectors_ND[:2]
    middle_SD = places.starts(Where(between=("a", "b")), a_2D, 0, 0, 1)
    whole = angle(a_2D[0], a_2D[1])
    np.testing.assert_allclose(
        angle(middle_SD, a_2D[0]) + angle(middle_SD, a_2D[1]), whole, atol=1e-3
    )
    around_SD = places.starts(Where(near="a"), a_2D[:1], 0, 0, 1)
    assert len(around_SD) == BLOCK
    far_S = angle(around_SD, a_2D[0])
    dk = places._whole.search(a_2D[:1], 10)[0][0, -1]
    assert (far_S > 0).all()
    assert (far_S <= 1.5 * dk + 1e-6).all()


def test_a_topic_starts_from_texts_that_have_all_its_words(sampler: Sampler) -> None:
    rows = sampler.places._rows_of("Soup, LEEKS")
    texts = [sampler.places.train.texts[row] for row in rows]
    assert texts
    assert all("soup" in text and "leeks" in text for text in texts)
    with pytest.raises(InputError, match="no text has all words"):
        texts_of(sampler, Request(Where(topic="soup xyzzy")))
    with pytest.raises(InputError, match="no text has all words"):
        texts_of(sampler, Request(Where(topic="...")))


def test_only_places_that_were_asked_for_and_texts_that_are_wanted(sampler: Sampler) -> None:
    near = Where(topic="soup", least_score=1.05)
    samples = list(sampler.sample(Request(near, n=5, valid=True, hit=True, novel=True)))
    assert samples
    for sample in samples:
        assert sample.spot.score >= 1.05
        assert sample.idea.verdict.valid
        assert not sample.idea.verdict.duplicate
        assert sample.idea.hit


def test_a_budget_ends_the_search_and_is_told(sampler: Sampler) -> None:
    tally = Tally()
    where = Where(topic="soup", least_score=50.0)  # nowhere
    assert not list(sampler.sample(Request(where, n=2, decodes=40), tally))
    assert tally.decodes == 40
    assert tally.found == 0


def test_time_ends_the_search_and_is_told(sampler: Sampler) -> None:
    tally = Tally()
    assert not list(sampler.sample(Request(Where(topic="soup"), n=2, seconds=-1.0), tally))
    assert tally.late


def test_where_no_voids_were_sought_none_is_looked_for(sampler: Sampler) -> None:
    field = dataclasses.replace(sampler.places.field, least_score=np.inf)
    unsought = dataclasses.replace(sampler.places, field=field)
    with pytest.raises(InputError, match="voids were not sought"):
        unsought.starts(Where(), np.empty((0, 0)), 0, 0, 1)


def test_in_a_void_every_start_lies_within_it(sampler: Sampler) -> None:
    places = sampler.places
    (middle_K,) = places.field.cloud_ND[:1, : places.field.void_dim]
    void = Void(7, middle_K / np.linalg.norm(middle_K), 0.4, 2.0, 0.05, True, (0,))
    one = dataclasses.replace(
        places, voids=(void,), field=dataclasses.replace(places.field, least_score=0.0)
    )
    starts_SD = one.starts(Where(void=7), np.empty((0, 0)), 0, 0, 1)
    assert len(starts_SD)
    assert (angle(starts_SD[:, : places.field.void_dim], void.centre_K) <= 0.4 + 1e-4).all()
    assert {spot.void_id for spot in one.look(starts_SD)} == {7}
    with pytest.raises(InputError, match="no void 8; those that stand: 7"):
        one.starts(Where(void=8), np.empty((0, 0)), 0, 0, 1)


def test_in_a_void_half_of_the_starts_are_steps_off_a_place_that_is_known_there(
    sampler: Sampler,
) -> None:
    places = sampler.places
    known_1D = places.train.vectors_ND[:1]
    centre_K = prefix(known_1D, places.field.void_dim)[0]
    void = Void(7, centre_K, 3.0, 2.0, 0.05, True, (0,))  # holds all
    one = dataclasses.replace(
        places, voids=(void,), field=dataclasses.replace(places.field, least_score=0.0)
    )
    reach = STEP[1] * one.field.look(known_1D).dk_n[0] + 1e-4

    def near(known_nD: Vectors) -> int:
        there = dataclasses.replace(one, known_nD=known_nD)
        starts_SD = there.starts(Where(void=7), np.empty((0, 0)), 0, 0, 20)
        return int((angle(prefix(starts_SD, places.field.void_dim), centre_K) <= reach).sum())

    assert near(known_1D) > 5 * BLOCK > near(known_1D[:0])


def test_anywhere_is_in_voids_near_places_that_were_written_from(sampler: Sampler) -> None:
    places = sampler.places
    all_void = dataclasses.replace(places.field, least_score=0.0)
    known = dataclasses.replace(places, field=all_void, known_nD=places.train.vectors_ND[:3])
    starts_SD = known.starts(Where(), np.empty((0, 0)), 0, 0, 1)
    assert all(spot.in_void for spot in known.look(starts_SD))
    drawn_SD = dataclasses.replace(known, known_nD=known.known_nD[:0]).starts(
        Where(), np.empty((0, 0)), 0, 0, 1
    )
    assert 0 < len(drawn_SD) <= BLOCK


def test_as_many_candidates_are_tried_as_should_be_enough(sampler: Sampler) -> None:
    one, many = Tally(), Tally()
    where = Where(topic="soup leeks")
    list(sampler.sample(Request(where, n=1, seed=3), one))
    list(sampler.sample(Request(where, n=12, seed=3), many))
    assert one.decodes <= 8  # two of them, each decoded twice; once more where both were no good
    assert many.decodes < 12 * one.decodes
    some_SD = sampler.places.starts(where, np.empty((0, 0)), 3, 0, 3)
    parts = [sampler.places.starts(where, np.empty((0, 0)), 3, block, 1) for block in range(3)]
    np.testing.assert_array_equal(some_SD, np.concatenate(parts))


def test_a_small_budget_leaves_half_for_what_candidates_settle_to(sampler: Sampler) -> None:
    tally = Tally()
    where = Where(topic="soup leeks")
    assert list(sampler.sample(Request(where, n=20, seed=1, decodes=30), tally))
    assert tally.decodes <= 30


def test_where_there_are_no_candidates_the_budget_ends_all_the_same(sampler: Sampler) -> None:
    class Empty(Sampler):
        async def starts(self, *_: object) -> np.ndarray:
            return self.places.train.vectors_ND[:0]

    none, tally = Empty(sampler.model, sampler.places, sampler.likely), Tally()
    assert not list(none.sample(Request(Where(topic="soup"), n=50, decodes=30), tally))
    assert tally.decodes == 30


def test_a_place_is_asked_for_in_one_way_only() -> None:
    with pytest.raises(InputError, match="one of void, near, between and topic"):
        Where(void=1, topic="soup")


def test_a_batch_of_several_requests_is_shared_out() -> None:
    whole = Rewritten([0, 2, 3, 6], ["a", "b", "c", "d"], np.arange(4.0)[:, None])
    first, second, third = whole.shared_out([3, 2, 2])
    assert (first.rows, first.texts) == ([0, 2], ["a", "b"])
    assert (second.rows, second.texts) == ([0], ["c"])
    assert (third.rows, third.texts, third.vectors_nD.tolist()) == ([1], ["d"], [[3.0]])
