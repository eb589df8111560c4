from __future__ import annotations

from dataclasses import replace

import pytest

from cllm.ideas import Idea
from cllm.judge import Verdict
from cllm.ranking import Weights, best_first, scores


def idea(name: str, novelty: float, validity: float = 1.0, **more: object) -> Idea:
    verdict = Verdict("novel", validity > 0, False, validity, novelty, (), ())
    return replace(Idea(name, "void", name, verdict), **more)


def test_scores_are_weighted_means_of_what_is_known() -> None:
    weights = Weights(validity=2, novelty=1, hit=1, plausibility=0)
    told = scores(
        [idea("a", 0.5, hit=True), idea("b", 0.5), idea("c", 0.5, 0.0, hit=False)], weights
    )
    assert told.tolist() == pytest.approx([3.5 / 4, 2.5 / 3, 0.5 / 4])
    assert scores([idea("a", 1.0)], Weights(validity=0, novelty=0)).tolist() == [0]
    likely, unlikely = idea("a", 0.5, plausibility=0.9), idea("b", 0.5, plausibility=0.1)
    assert scores([likely])[0] > scores([unlikely])[0]


def test_chosen_ones_come_first_then_those_that_count() -> None:
    best, good, missed = (
        idea("best", 0.9, hit=True),
        idea("good", 0.1),
        idea("missed", 1.0, hit=False),
    )
    assert best_first([missed, good, best]) == [best, good, missed]
    second, first = replace(missed, chosen=2), replace(good, chosen=1)
    assert best_first([second, best, first]) == [first, second, best]
