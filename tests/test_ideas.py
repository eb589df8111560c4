"""Yields of arms: what is counted, and how sure it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cllm.field import Field
from cllm.ideas import Idea, choose_rest, funnel, land, lift
from cllm.judge import Verdict
from cllm.model import CLLM
from cllm.sphere import ExactIndex, prefix, unit
from cllm.unaided import unaided


def idea(number: int, yields: bool) -> Idea:
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
    return Idea(str(number), "void", f"text {number // 2}", verdict, hit=True)


def counted(yields: list[bool], places: list[str]) -> dict[str, object]:
    ideas = [idea(i, y) for i, y in enumerate(yields)]
    return funnel(ideas, np.random.default_rng(0), places)


def test_one_place_with_many_texts_keeps_its_share() -> None:
    found = counted([True] * 37 + [False] * 63, ["patch 5"] * 100)
    assert found["yield"] == pytest.approx(0.37)
    low, high = found["yield_ci"]
    assert low < 0.37 < high
    assert high - low > 0.5  # one observation, not a hundred
    two = counted([True] * 20 + [False] * 30 + [True] * 18 + [False] * 32, ["a"] * 50 + ["b"] * 50)
    assert np.ptp(two["yield_ci"]) > 0.2


def test_texts_of_one_place_do_not_count_as_independent() -> None:
    """Ten places that always yield or never do say less than a hundred would."""
    yields = [i % 2 == 0 for i in range(10) for _ in range(10)]
    together = counted(yields, [f"patch {i}" for i in range(10) for _ in range(10)])["yield_ci"]
    apart = counted(yields, [str(i) for i in range(100)])["yield_ci"]
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_the_share_of_valid_texts_is_over_places_too() -> None:
    ideas = [
        replace(
            idea(i, False), verdict=replace(idea(i, False).verdict, valid=i < 50, duplicate=True)
        )
        for i in range(100)
    ]
    rng = np.random.default_rng(0)
    together = funnel(ideas, rng, [f"patch {i // 10}" for i in range(100)])
    apart = funnel(ideas, rng, [str(i) for i in range(100)])
    assert together["valid"] == apart["valid"] == 50
    assert together["valid_ci"][0] < 0.5 < together["valid_ci"][1]
    assert np.ptp(together["valid_ci"]) > 2 * np.ptp(apart["valid_ci"])
    assert together["yield_ci"][1] < 0.5, "none of them is new"


def test_distinct_texts_are_counted() -> None:
    assert counted([True] * 6, list("abcdef"))["distinct"] == 3


def test_the_base_writes_unaided_as_many_texts_as_asked(tiny_cllm: CLLM) -> None:
    write = unaided(tiny_cllm, ["a short text", "and one that is rather longer than that"])
    written = write(3, 1)
    assert len(written.texts) == written.decodes == 3
    assert written.points_nD is None
    assert written == write(3, 1)
    assert written != write(3, 2)


def test_a_text_hits_where_its_place_is_nearer_than_any_text() -> None:
    rng = np.random.default_rng(2)
    cloud_ND = unit(rng.standard_normal((50, 8)) + 5 * np.eye(8)[0])
    place_D, near_D = unit(np.array([[-1.0, 0, *[0.1] * 6], [-1.0, 0.2, *[0.1] * 6]]))
    trips, hits = land(
        np.stack([place_D] * 3),
        np.stack([place_D, near_D, cloud_ND[4]]),
        ExactIndex(prefix(cloud_ND, 4)),
    )
    assert hits == [True, True, False]
    assert trips[0] == pytest.approx(0, abs=1e-2)
    assert 0 < trips[1] < trips[2]


def test_the_lift_is_of_yields_and_sure_where_places_are_many() -> None:
    def arm(yielding: int) -> tuple[list[Idea], list[str]]:
        return [idea(i, i < yielding) for i in range(200)], [str(i) for i in range(200)]

    rng = np.random.default_rng(0)
    found = lift(*arm(100), *arm(50), rng)
    assert found["lift"] == pytest.approx(2, rel=0.02)
    assert 1.3 < found["lift_ci"][0] < 2 < found["lift_ci"][1] < 3
    crowded = lift(arm(100)[0], ["one", "two"] * 100, *arm(50), rng)
    assert np.ptp(crowded["lift_ci"]) > 1.5 * np.ptp(found["lift_ci"])
    never = lift(*arm(100), *arm(0), rng)
    assert 10 < never["lift_ci"][0] < never["lift"] < np.inf
    assert lift(*arm(100), [], [], rng) == {}


def test_an_arm_without_points_says_how_many_are_new() -> None:
    ideas = [replace(idea(i, i < 30), hit=None) for i in range(40)]
    found = funnel(ideas, np.random.default_rng(0), [i.text for i in ideas])
    assert found["new_share"] == 0.75
    assert found["new_share_ci"][0] < 0.75 < found["new_share_ci"][1]
    assert not {"hit", "yield"} & found.keys()


@pytest.mark.parametrize(
    ("valid_alone", "copied", "rest"),
    [(0.1, 0.5, "nearest"), (0.6, 0.5, "open"), (0.1, 1.0, "open"), (0.5, 0.5, "open")],
)
def test_held_out_texts_decide_what_is_put_beside_a_prefix(
    valid_alone: float, copied: float, rest: str
) -> None:
    """Left open some texts are loops; beside the nearest text's coordinates some are that text."""

    class Told:
        def decode(self, vectors_ND: np.ndarray) -> list[str]:
            good = valid_alone if not vectors_ND[:, 3:].any() else 1 - copied
            new = round(len(vectors_ND) * good)
            return ["new"] * new + ["loop or copy"] * (len(vectors_ND) - new)

    class Strict:
        def judge(self, texts: list[str]) -> list[Verdict]:
            return [idea(0, text == "new").verdict for text in texts]

    rng = np.random.default_rng(0)
    cloud, held_out = unit(rng.standard_normal((200, 6))), unit(rng.standard_normal((50, 6)))
    field = Field.of(cloud, held_out, 3, 1.5, rng)
    assert choose_rest(Told(), Strict(), field, held_out).rest == rest
    assert choose_rest(Told(), Strict(), field, held_out[:0]).rest == "open"
    whole = Field.of(cloud, held_out, 6, 1.5, rng)
    assert choose_rest(Told(), Strict(), whole, held_out) is whole
