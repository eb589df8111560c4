"""Yields of arms: what is counted, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

from cllm.base import GREEDY
from cllm.ideas import (
    SAMPLED,
    Idea,
    funnel,
    land,
    prior_candidates,
    void_candidates,
    write_candidates,
    write_unaided,
)
from cllm.judge import Verdict
from cllm.model import CLLM
from cllm.sphere import unit
from cllm.voids import Void


def idea(number: int, yields: bool, void_id: int | None) -> Idea:
    label = "novel" if yields else "nonsense"
    verdict = Verdict(
        label=label,
        valid=yields,
        duplicate=False,
        validity=0.5,
        novelty=0.5,
        reasons=(),
        nearest=(),
    )
    return Idea(str(number), "void", f"text {number // 2}", verdict, void_id, hit=True)


def counted(yields: list[bool], voids: list[int | None]) -> dict[str, object]:
    ideas = [idea(i, y, v) for i, (y, v) in enumerate(zip(yields, voids, strict=True))]
    return funnel(ideas, np.random.default_rng(0))


def test_one_void_with_many_texts_keeps_its_share() -> None:
    found = counted([True] * 37 + [False] * 63, [5] * 100)
    assert found["yield"] == pytest.approx(0.37)
    low, high = found["yield_ci"]
    assert low < 0.37 < high


def test_texts_of_one_void_do_not_count_as_independent() -> None:
    """Ten voids that always yield or never do say less than a hundred places would."""
    yields = [i % 2 == 0 for i in range(10) for _ in range(10)]
    together = counted(yields, [i for i in range(10) for _ in range(10)])["yield_ci"]
    apart = counted(yields, [None] * 100)["yield_ci"]
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_distinct_texts_are_counted() -> None:
    assert counted([True] * 6, [None] * 6)["distinct"] == 3


def voids(count: int) -> list[Void]:
    centres_VK = unit(np.random.default_rng(1).standard_normal((count, 4)))
    return [Void(i + 10, c, 0.5, 2.0, 0.01, True, (0, 1)) for i, c in enumerate(centres_VK)]


def test_each_void_is_written_from_once_greedily_then_by_sampling(tiny_cllm: CLLM) -> None:
    found = void_candidates(tiny_cllm, voids(3), 7)
    assert [c.void_id for c in found] == [10, 11, 12, 10, 11, 12, 10]
    assert [c.how for c in found] == [GREEDY] * 3 + [SAMPLED] * 4
    for candidate in found:
        assert candidate.vector_D is not None
        assert candidate.vector_D.shape == (8,)
        assert not candidate.vector_D[4:].any()  # the prefix alone
    assert void_candidates(tiny_cllm, [], 7) == []


def test_candidates_are_written_in_their_order_and_again_by_seed(tiny_cllm: CLLM) -> None:
    mixed = void_candidates(tiny_cllm, voids(2), 5)
    texts = write_candidates(tiny_cllm, mixed, seed=3)
    assert texts == write_candidates(tiny_cllm, mixed, seed=3)
    greedy = np.stack([c.vector_D for c in mixed[:2] if c.vector_D is not None])
    assert texts[:2] == tiny_cllm.decode(greedy)


def test_the_base_writes_unaided_as_many_texts_as_lengths(tiny_cllm: CLLM) -> None:
    lengths = [5, 70, 30]
    texts = write_unaided(tiny_cllm.base, 80, lengths, seed=1)
    assert len(texts) == 3
    assert texts == write_unaided(tiny_cllm.base, 80, lengths, seed=1)
    assert texts != write_unaided(tiny_cllm.base, 80, lengths, seed=2)


def test_a_text_hits_where_its_place_is_nearer_than_any_text() -> None:
    rng = np.random.default_rng(2)
    cloud_ND = unit(rng.standard_normal((50, 8)) + 5 * np.eye(8)[0])
    place_D, near_D = unit(np.array([[-1.0, 0, *[0.1] * 6], [-1.0, 0.2, *[0.1] * 6]]))
    trips, hits = land(
        np.stack([place_D] * 3), np.stack([place_D, near_D, cloud_ND[4]]), cloud_ND, 4
    )
    assert hits.tolist() == [True, True, False]
    assert trips[0] == pytest.approx(0, abs=1e-2)
    assert 0 < trips[1] < trips[2]


def test_prior_draws_follow_the_cloud() -> None:
    rng = np.random.default_rng(3)
    cloud_ND = unit(rng.standard_normal((500, 6)) * [1, 1, 0.2, 0.2, 0.2, 0.2] + 1)
    drawn_ND = np.stack(
        [c.vector_D for c in prior_candidates(cloud_ND, 500, rng) if c.vector_D is not None]
    )
    assert np.linalg.norm(drawn_ND, axis=1) == pytest.approx(1)
    assert drawn_ND.mean(0) == pytest.approx(cloud_ND.mean(0), abs=0.05)
    assert drawn_ND.std(0) == pytest.approx(cloud_ND.std(0), rel=0.25)
