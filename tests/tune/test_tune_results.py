from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cllm.curve import Curve
from cllm.errors import WorkError
from tune import report, results
from tune.check import checked, dimension_of, last_third
from tune.choice import choose
from tune.window import At, window_of


def row(state: str = "finished", **values: Any) -> dict[str, Any]:
    point = {name.removeprefix("p_"): v for name, v in values.items() if name.startswith("p_")}
    point = {k: v for k, v in point.items() if k != "value"}
    measured = {k: v for k, v in values.items() if k == "p_value" or not k.startswith("p_")}
    return {"state": state, "point": point} | measured


def test_the_front_holds_what_nothing_beats() -> None:
    rows = [
        row(gain_nats=1.0, auroc=0.9), row(gain_nats=2.0, auroc=0.8), row(gain_nats=1.5, auroc=0.7),
        row("pruned", gain_nats=9.0), row(gain_nats=3.0), row(gain_nats=2.0, auroc=0.8),
    ]  # fmt: skip
    assert results.front(rows, ["gain_nats", "auroc"]) == [0, 1, 5]
    assert results.best(rows, ["gain_nats"]) == 4
    with pytest.raises(WorkError, match="yield"):
        results.best(rows, ["yield"])


def test_a_trial_that_was_trained_before_is_compared_with_and_not_pruned() -> None:
    from types import SimpleNamespace

    from tune.sweep import SparingASHA

    scheduler = SparingASHA(time_attr="evaluation", metric="gain_nats", mode="max", max_t=4,
                            grace_period=1, reduction_factor=2)  # fmt: skip
    trials = [SimpleNamespace(trial_id=name) for name in "abcd"]
    for trial in trials:
        scheduler.on_trial_add(None, trial)

    def told(trial: Any, gain: float, **more: Any) -> str:
        scored = {"evaluation": 1, "gain_nats": gain} | more
        return scheduler.on_trial_result(None, trial, scored)

    good, cached, poor, late = trials
    assert told(good, 5.0) == scheduler.CONTINUE
    assert told(cached, 1.0, cached=True) == scheduler.CONTINUE, "its training is paid for"
    assert told(poor, 0.5) == scheduler.STOP
    ended = {"evaluation": 4, "cached": True, "folder": "trial"}
    assert told(cached, 1.0, **ended) == scheduler.STOP, "its last report ends it"
    assert told(late, 2.0) == scheduler.CONTINUE, "above half of three, the cached one among them"


def test_less_is_better_where_it_is() -> None:
    rows = [row(round_trip=0.5, gain_nats=1.0), row(round_trip=0.2, gain_nats=1.0)]
    assert results.front(rows, ["round_trip", "gain_nats"]) == [1]
    assert results.best(rows, ["round_trip"]) == 1


def test_the_best_of_several_objectives_is_near_the_best_of_each() -> None:
    rows = [row(gain_nats=0.0, auroc=1.0), row(gain_nats=0.9, auroc=0.9), row(gain_nats=1, auroc=0)]
    assert results.best(rows, ["gain_nats", "auroc"]) == 1


def test_what_pruning_saved_leaves_failures_out() -> None:
    rows = [row(evaluation=8), row("pruned", evaluation=2), row("failed", evaluation=1)]
    assert results.saved(rows, 8) == pytest.approx(1 - 10 / 16)


def test_effects_are_of_trials_alike_in_all_else() -> None:
    rows = [
        row(p_cluster_weight=weight, p_seed=seed, gain_nats=10.0 + seed - 2 * weight, auroc=0.8)
        for weight in (0, 0.5)
        for seed in range(4)
    ]
    rows += [
        row(p_cluster_weight=0.5, p_seed=9, gain_nats=-50.0),
        row("failed", p_cluster_weight=1),
    ]
    (told,) = results.effects(rows, "cluster_weight", np.random.default_rng(0))
    assert told["value"] == 0.5
    assert told["pairs"] == 4
    assert told["gain_nats"]["change"] == pytest.approx(-1.0)
    assert told["gain_nats"]["ci"] == pytest.approx([-1.0, -1.0])
    (line,) = report.clustering_in_words(rows)
    assert "it buys no void" in line
    assert "8.7 % of the gain" in line  # 1 of 11.5


def test_a_larger_radius_alone_proves_nothing_and_a_collapse_is_told() -> None:
    rows = [
        row(p_cluster_weight=w, p_seed=s, gain_nats=10.0, auroc=0.8 + 0.01 * s,
            radius_ratio=1.0 + w, uniformity=-2.0, variance=0.9 if w == 0 else 0.01)
        for w in (0, 1) for s in range(3)
    ]  # fmt: skip
    lines = report.clustering_in_words(rows)
    assert "proves nothing" in lines[0]
    assert sum("collapsed" in line for line in lines) == 3


def test_what_the_variance_floor_does_is_told_and_what_weight_none_does_not() -> None:
    rows = [
        row(p_cluster_weight=w, p_cluster_floor=f, p_seed=s, gain_nats=10.0 - w,
            uniformity=-2.0, variance=0.01 if w and not f else 0.6)
        for w in (0, 1) for f in (0, 0.5) for s in range(2)
    ]  # fmt: skip
    lines = [line for line in report.clustering_in_words(rows) if line.startswith("Control")]
    assert "weight 0 is the plain model" in lines[0]
    assert "collapse without it, and not with it" in lines[1]
    rows[0]["gain_nats"] = 9.0
    lines = report.clustering_in_words(rows)
    assert any("NOT the plain model" in line for line in lines)


def test_pairs_of_one_seed_are_one_piece_of_evidence() -> None:
    rows = [
        row(p_cluster_weight=w, p_seed=s, p_dim=d, gain_nats=float(d + w * (s + 1)))
        for w in (0, 1) for s in range(2) for d in range(8)
    ]  # fmt: skip
    (told,) = results.effects(rows, "cluster_weight", np.random.default_rng(0))
    assert told["gain_nats"]["change"] == pytest.approx(1.5)
    low, high = told["gain_nats"]["ci"]
    assert low < 0 < 3 < high, "two seeds say little, whatever number of pairs they have"
    one_seed = [one for one in rows if one["point"]["seed"] == 0]
    (told,) = results.effects(one_seed, "cluster_weight", np.random.default_rng(0))
    assert "ci" not in told["gain_nats"]


def weighed(**measured: tuple[float, float]) -> list[dict[str, Any]]:
    """One seed with weight 0 and with weight 1: each measure before and after."""
    return [
        row(p_cluster_weight=w, p_seed=0, **{name: both[w] for name, both in measured.items()})
        for w in (0, 1)
    ]


def test_no_more_is_said_than_was_measured() -> None:
    (line,) = report.clustering_in_words(weighed(gain_nats=(10.0, 10.5), auroc=(0.5, 0.9)))
    assert "it adds 5.0 % of the gain; whether it buys voids, one seed cannot tell." in line
    (line,) = report.clustering_in_words(weighed(gain_nats=(10.0, 9.5)))
    assert "it costs 5.0 % of the gain; what it buys was not measured." in line
    (line,) = report.clustering_in_words(weighed(gain_nats=(0.1, -2.0)))
    assert "it costs all of the gain" in line, "no 2,100 %"
    rows = [
        row(p_cluster_weight=w, p_seed=s, gain_nats=10.0, void_new=40 - 16 * w + s)
        | ({"yield": 0.5 + 0.3 * w} if s < 2 else {})  # no voids, no yield
        for w in (0, 1) for s in range(5)
    ]  # fmt: skip
    (line,) = report.clustering_in_words(rows)
    assert "it buys no void" in line, "a yield of the models that have voids is no yield of all"


def test_controls_are_not_told_where_voids_were_sought_elsewhere() -> None:
    rows = [
        row(p_cluster_weight=1, p_cluster_floor=f, p_seed=0, gain_nats=1.0, uniformity=-1.0,
            void_dim=4 + f)
        for f in (0, 1)
    ]  # fmt: skip
    rows += [row(p_cluster_weight=0, p_cluster_floor=0, p_seed=0, gain_nats=1.0, void_dim=4)]
    (line,) = [line for line in report.clustering_in_words(rows) if line.startswith("Control")]
    assert report.NOT_COMPARED in line


def test_an_auroc_that_rises_surely_is_told() -> None:
    rows = [
        row(p_cluster_weight=w, p_seed=s, gain_nats=10.0 - 0.1 * w, auroc=0.7 + 0.1 * w + 0.01 * s)
        for w in (0, 1) for s in range(4)
    ]  # fmt: skip
    (line,) = report.clustering_in_words(rows)
    assert "it raises AUROC" in line
    assert "costs 1.0 %" in line
    for one in rows:
        one["void_new"] = 3.0 + one["point"]["seed"]
    (line,) = report.clustering_in_words(rows)
    assert "(new texts from voids not surely) and costs 1.0 %" in line
    single = [one for one in rows if one["point"]["seed"] == 0]
    for one in single:
        one["void_new"] = 3.0 + 9 * one["point"]["cluster_weight"]
    several = [{k: v for k, v in one.items() if k != "void_new"} for one in rows[1:]]
    (line,) = report.clustering_in_words([*single, *several])
    assert "not surely" not in line, "a single pair has no interval"


def test_controls_alone_are_compared_where_there_are_any() -> None:
    rows = [row(p_cluster_weight=w, p_lr=0.1, gain_nats=9.0, auroc=0.5 + 0.4 * w) for w in (0, 1)]
    controls = [one | {"auroc": 0.5} for one in weighed(gain_nats=(10.0, 9.0))]
    (line,) = report.clustering_in_words(rows, controls)
    assert "1 pair:" in line
    assert "one seed cannot tell" in line, "a sweep's own trials are no second seed"


def test_where_all_vectors_collapsed_it_is_said_so() -> None:
    rows = [row(gain_nats=1.0, uniformity=-0.0, variance=0.0)]
    with pytest.raises(WorkError, match="in 1 vectors collapsed, which a smaller weight prevents"):
        results.best(rows, ["gain_nats", "uniformity"])


def test_collapsed_vectors_are_on_no_front() -> None:
    rows = [row(gain_nats=2.0, uniformity=-1.5, variance=0.8),
            row(gain_nats=1.0, uniformity=-0.9, variance=0.01)]  # fmt: skip
    assert results.front(rows, ["gain_nats", "uniformity"]) == [0]
    assert results.front(rows, ["gain_nats"]) == [0]


def test_what_the_weight_buys_is_told_of_models_with_a_floor() -> None:
    rows = [
        row(p_cluster_weight=w, p_cluster_floor=f, p_seed=s, gain_nats=10.0 - w * (1 if f else 9),
            uniformity=-2.0)
        for w in (0, 1) for f in (0, 0.5) for s in range(2)
    ]  # fmt: skip
    rows += [row(p_cluster_weight=w, p_lr=0.1, gain_nats=1.0, uniformity=-1.0) for w in (0, 2)]
    assert "costs 10.0 % of the gain" in report.clustering_in_words(rows)[0]
    told, _ = report._effects(rows, "cluster_weight")
    assert told["gain_nats"]["change"] == pytest.approx(-1.0), "and so in the table"


def test_each_length_of_prefix_has_a_front_of_its_own() -> None:
    rows = [row(gain_nats=g, uniformity=u, void_dim=k)
            for g, u, k in ((1.0, -1.0, 4.0), (2.0, -0.5, 4.0), (0.5, -3.0, 8.0))]  # fmt: skip
    rows.append(row("pruned", gain_nats=9.0))
    three = report.three_way(rows)
    assert three == ("gain_nats", "uniformity", "uniformity")
    assert results.fronts(rows, three) == {4: [rows[1]], 8: [rows[2]]}


def test_the_table_keeps_words_and_numbers_of_all_trials(tmp_path: Path) -> None:
    rows = [row(p_dim=8, gain_nats=1.5), row("failed", p_dim=16, error="no memory"),
            row(p_dim="model's", gain_nats=2)]  # fmt: skip
    results.save(tmp_path / "trials.parquet", rows)
    table = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [one["gain_nats"] for one in table] == [1.5, None, 2.0]
    assert table[1]["error"] == "no memory"
    assert table[2]["point_dim"] == "model's"


def at(d: int, p: float, valid: float | None) -> At:
    ci = None if valid is None else (valid - 0.1, valid + 0.1)
    return At(d, 0, p, 1.2, 5, 40 if valid is not None else 0, valid, ci, None)


def test_the_void_window_is_the_longest_run_where_voids_are_significant_and_decode() -> None:
    sizes = [
        at(2, 0.01, 0.9),
        at(4, 0.01, 0.3),
        at(8, 0.01, 0.8),
        at(16, 0.02, 0.7),
        at(32, 0.01, None),
    ]
    window = window_of(sizes)
    assert (window.low, window.high, window.elsewhere) == (8, 16, (2,))
    assert window_of([at(2, 0.5, 0.9)]).low is None
    assert window_of([]).low is None


def alone(d: int, gain: float) -> Curve:
    """A model of one size, of the same texts."""
    return Curve((d,), np.full((1, 200), gain), np.ones((1, 50)))


def test_the_page_says_choice_window_and_trials_and_escapes_them(tmp_path: Path) -> None:
    from test_tune_choice import GAINS, TRIPS, curve_of

    rows = [row(p_dim=8, gain_nats=1.5, auroc=0.6, uniformity=-2.0, void_dim=4.0),
            row(p_dim=16, gain_nats=2.5, auroc=0.5, uniformity=-1.0, void_dim=4.0),
            row(p_dim=16, gain_nats=2.5, auroc=0.5, uniformity=-1.0, void_dim=8.0),
            row("failed", p_dim=3, error="<script>")]  # fmt: skip
    curves = [curve_of(GAINS, TRIPS)]
    told: dict[str, Any] = {
        "run": "runs/x", "sweep": "s", "objectives": ["gain_nats"], "best": rows[1], "saved": 0.5,
        "counts": {"finished": 2, "pruned": 0, "failed": 1},
        "choice": choose(curves, np.random.default_rng(0)).json(),
        "window": window_of([at(4, 0.01, 0.8), at(8, 0.4, None)]).json(),
        "check": checked(curves, [alone(8, 13.0), alone(64, 21.0)], np.random.default_rng(0)),
        "trained": [{"d": 64, "nested": True, "seed": 0, "plateau": False, "last_third": 0.6},
                    {"d": 8, "nested": False, "seed": 0, "plateau": True, "last_third": 0.1}],
    }  # fmt: skip
    told["dimension"] = dimension_of(told["choice"], told["check"])
    page = report.write(tmp_path, told, rows).read_text("utf-8")
    first, second = report.choice_in_words(told)
    assert first.startswith("Dimension: none, by models of one size. They rule the nested")
    assert "8: 13.0 (0.92), 64: 21.0 (0.95). By them 95%" in first
    assert "1 of 2 models were not at their plateau" in first
    assert "nested 64, seed 0 (0.60 nats)" in first
    assert second.startswith("Void window: 4 to 4 coordinates")
    assert "4: 1 of 1 with significant voids, 40 texts from them, 1 with both" in second
    assert second.endswith("sought in at most 32 coordinates. It may reach further.")
    assert first in page
    assert second in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert page.count("<svg") == 3
    none = {name: value for name, value in told.items() if name != "window"}
    assert report.choice_in_words(none)[1].startswith("Void window: not sought")
    drawn = sorted(file.name for file in tmp_path.glob("*.svg"))
    assert drawn == ["curve.svg", "front-4.svg", "round_trip.svg"], "8 has a single trial"


def of_size(d: int, gain: float, trip: float, seed: int = 0) -> Curve:
    rng = np.random.default_rng([seed, d])
    return Curve((d,), gain + rng.standard_normal((1, 200)), np.full((1, 50), trip))


def test_models_of_one_size_decide_where_they_rule_the_nested_curve_out() -> None:
    from test_tune_choice import GAINS, TRIPS, curve_of

    nested = [curve_of(GAINS, TRIPS, seed) for seed in range(3)]
    choice = choose(nested, np.random.default_rng(0)).json()
    assert dimension_of(choice, None) == {
        "d": 32, "ci": list(choice["d_ci"]), "by": "the nested curve", "agree": None
    }  # fmt: skip

    def by_sizes(gains: list[float]) -> dict[str, Any]:
        alone = [
            of_size(d, gain, trip, seed)
            for d, gain, trip in zip((8, 16, 32, 64), gains, (0.9, 0.2, 0.1, 0.1), strict=True)
            for seed in range(3)
        ]
        return dimension_of(choice, checked(nested, alone, np.random.default_rng(0)))

    assert by_sizes([12.0, 19.2, 19.9, 20.0])["agree"]
    assert not by_sizes([13.4, 21.4, 22.2, 22.3])["agree"], "one size more, but a tenth less"
    larger = by_sizes([8.0, 12.0, 20.0, 26.0])
    assert not larger["agree"]
    assert larger["by"] == "models of one size"
    assert 32 < larger["d"] <= 64
    assert larger["ci"] == [32, 64]  # between which nothing was trained
    one = checked(nested, [of_size(8, 12.0, 0.5, seed) for seed in range(3)],
                  np.random.default_rng(0))  # fmt: skip
    assert one["choice"] is None
    assert one["sizes"][0]["round_trip"] == 0.5


def test_what_the_last_third_of_a_training_brought_is_told_before_its_rate_fell() -> None:
    nats = [20.0, 18.0, 17.0, 16.5, 16.0, 16.2, 15.7, 12.0]
    lines = [
        {"step": 100 * (i + 1), "validation_nats": n, "budget": 0.1 * (i + 1)}
        for i, n in enumerate(nats)
    ]
    lines[-1]["budget"] = 0.9
    assert last_third([{"step": 1, "loss": 2.0}, *lines]) == pytest.approx(16.5 - 15.7)
    assert last_third(lines[:2]) is None
