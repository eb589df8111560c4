"""Yields of arms: what is counted, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

from cllm.ideas import Idea, funnel
from cllm.judge import Verdict


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
