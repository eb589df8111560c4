from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import TINY

from cllm.errors import InputError
from cllm.run import RunFolder
from tune.space import Budget
from tune.trial import Plan, Scores, Shared, run_trial, share


@pytest.fixture
def plan(tiny_run: RunFolder) -> Plan:
    return Plan(tiny_run.path, Budget(steps=8, changes=TINY), ("gain",), 10)


@pytest.fixture
def shared(tiny_run: RunFolder, plan: Plan) -> Shared:
    return share(tiny_run, [plan.budget.settings({"dim": 8})])


def test_a_trial_reports_each_score_then_all_that_is_measured(plan: Plan, shared: Shared) -> None:
    told: list[dict[str, Any]] = []
    result = run_trial({"dim": 8, "lr": 1e-3}, plan, shared, told.append)
    assert [one["evaluation"] for one in told] == [1, 2, 3, 4]
    assert all("gain_nats" in one for one in told)
    assert told[-1] == result
    assert {"uniformity", "auroc", "nats_per_dim", "folder", "start_seconds"} <= result.keys()
    assert "content_f1" not in result, "it was not asked for"


def test_a_finished_trial_is_not_trained_again_but_one_with_other_settings_is(
    plan: Plan, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_trial({"dim": 8}, plan, shared, lambda _: None)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("cllm.pipeline.train_model", never)
    told: list[dict[str, Any]] = []
    assert run_trial({"dim": 8}, plan, shared, told.append) == first | {"cached": True}
    assert [one["evaluation"] for one in told] == [1, 2, 3, 4], "so that others are pruned by it"
    assert told[-1] == first | {"cached": True}
    with pytest.raises(AssertionError, match="trained again"):
        run_trial({"dim": 4}, plan, shared, lambda _: None)


def test_token_embeddings_that_no_store_can_hold_are_refused(
    tiny_run: RunFolder, plan: Plan
) -> None:
    with pytest.raises(InputError, match="search with a part of the texts"):
        share(tiny_run, [plan.budget.settings({"dim": 8})], room=1e6)


def test_a_point_that_is_tried_twice_at_once_is_trained_once(plan: Plan, shared: Shared) -> None:
    with ThreadPoolExecutor(2) as both:
        ended = [both.submit(run_trial, {"dim": 8}, plan, shared, lambda _: None) for _ in "ab"]
    first, second = (one.result() for one in ended)
    first, second = sorted((first, second), key=lambda told: "cached" in told)
    assert second == first | {"cached": True}, "seconds of training included"


def test_the_encoder_of_the_base_is_not_asked_again(
    plan: Plan, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    from cllm.base import BaseLM

    real = BaseLM.embed
    monkeypatch.setattr(BaseLM, "embed", lambda *a: asked.append(len(a[1])) or real(*a))
    run_trial({"dim": 8}, plan, shared, lambda _: None)
    recipes = 500  # of withheld combinations, which no training text is
    assert sum(asked) <= recipes


def test_restored_texts_are_measured_by_the_shared_token_embeddings(
    plan: Plan, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_run(*_: object, known: object) -> Any:
        assert known is shared.arrays
        return SimpleNamespace(numbers={"content_f1": 0.5})

    monkeypatch.setattr("cllm.discovery.evaluate_run", evaluate_run)
    of_texts = replace(plan, parts=("gain", "texts"))
    assert run_trial({"dim": 8}, of_texts, shared, lambda _: None)["content_f1"] == 0.5


def test_no_clustering_weight_is_the_plain_model(plan: Plan, shared: Shared) -> None:
    plain = run_trial({"dim": 8}, plan, shared, lambda _: None)
    point = {"dim": 8, "cluster_weight": 0.0, "cluster_floor": 0.9}
    none = run_trial(point, plan, shared, lambda _: None)
    assert none["folder"] != plain["folder"]
    some = run_trial({"dim": 8, "cluster_weight": 1.0}, plan, shared, lambda _: None)
    assert none["gain_nats"] == plain["gain_nats"]
    assert none["uniformity"] == plain["uniformity"]
    assert some["uniformity"] != plain["uniformity"]


def test_lines_of_training_become_gains_by_evaluation() -> None:
    scores = Scores(evaluations=4, without_nats=30.0, started=0.0)
    lines = [
        {"step": 0, "loss": 9.0},
        {"step": 1, "seconds": 0.1, "done": 0.26, "loss": 3.0},
        {"step": 1, "seconds": 0.1, "validation_nats": 25.0, "budget": 0.26},
        {"step": 2, "seconds": 0.2, "validation_nats": 20.0, "budget": 0.5},
        {"step": 4, "seconds": 0.4, "validation_nats": 10.0, "budget": 1.0},
    ]
    told = [one for line in lines for one in scores.told(line)]
    assert [(one["evaluation"], one["gain_nats"]) for one in told] == [(1, 5.0), (2, 10.0)]
    assert scores.overhead["start_seconds"] > 0
