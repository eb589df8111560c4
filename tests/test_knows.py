"""The study of unseen combinations, on scores whose answer is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cllm import pipeline
from cllm.run import SHIPPED, RunFolder
from cllm.sphere import angle
from cllm.sphere import unit as on_sphere
from cllm.voids import VoidSettings, overlap
from studies import knows
from studies.knows import elsewhere, lengths, pooled, shared_base, summary


def unit(seed: int, gaps: dict[str, float]) -> dict[str, object]:
    """Scores of a space where withheld texts score higher by a gap, at each prefix length."""
    rng = np.random.default_rng(seed)

    def scores(gap: float) -> dict[str, dict[str, list[float]]]:
        emitted, withheld = rng.standard_normal((2, 300))
        return {
            kind: {"rho": values.tolist(), "d_k": values.tolist()}
            for kind, values in (("emitted", emitted), ("withheld", withheld + gap))
        }

    splits = ("validation", "test")
    told = {split: {k: scores(gap) for k, gap in gaps.items()} for split in splits}
    return told | {"pairs": {split: pairs(60) for split in splits}}


def pairs(count: int) -> dict[str, list[str]]:
    """The combination of each recipe, of so many."""
    return {kind: [f"{kind} {i % count}" for i in range(300)] for kind in ("emitted", "withheld")}


def test_the_prefix_that_knows_is_chosen_and_measured_on_test() -> None:
    found = summary([unit(seed, {"4": 2.0, "8": 0.5, "32": 0.0}) for seed in range(3)])
    assert found["chosen_prefix"] == 4
    assert found["rho"]["auroc"] == pytest.approx(0.92, abs=0.03)  # of two normals 2 apart
    low, high = found["rho"]["ci"]
    assert low < found["rho"]["auroc"] < high
    assert found["by_prefix"]["32"]["rho"]["auroc"] == pytest.approx(0.5, abs=0.05)


def test_the_prefix_is_not_chosen_on_test() -> None:
    units = [unit(seed, {"4": 1.0, "8": 0.0}) for seed in range(2)]
    for one in units:
        one["test"] = {"4": one["test"]["8"], "8": one["test"]["4"]}  # type: ignore[index]
    found = summary(units)
    assert found["chosen_prefix"] == 4
    assert found["rho"]["auroc"] == pytest.approx(0.5, abs=0.05)


def test_prefixes_that_are_measured() -> None:
    assert lengths(32) == [2, 3, 4, 6, 8, 16]
    assert lengths(4) == [2, 3]


@pytest.mark.chain
def test_a_study_is_a_command_with_options_of_its_own() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("cllm"), "study", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    wrong = run("nothing")
    assert wrong.returncode == 2
    listed = (
        "anywhere, capacity, correction, critic, crossing, editor, folding, knows, levels, loop, "
        "negation, noise, voidbench"
    )
    assert wrong.stderr.strip() == f"cllm: there is no study 'nothing'; there are {listed}"
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == listed.split(", ")
    assert all(len(line) > 30 for line in lines), "each with what it does"
    unknown = run("knows", "--never-heard-of")
    assert unknown.returncode == 2
    assert "--never-heard-of" in unknown.stderr


def test_recipes_of_one_combination_are_one_observation() -> None:
    units = [unit(seed, {"8": 0.0}) for seed in range(3)]
    for one in units:
        for split in ("validation", "test"):
            scores = one[split]["8"]["withheld"]  # type: ignore[index]
            scores["rho"] = [4.0 * (i % 10 % 2) for i in range(300)]
            one["pairs"][split] = pairs(10)  # type: ignore[index]
    alike = summary(units)["rho"]["ci"]
    for one in units:
        one["pairs"] = {split: pairs(300) for split in ("validation", "test")}
    apart = summary(units)["rho"]["ci"]
    assert np.ptp(alike) > 1.5 * np.ptp(apart)


def test_balls_elsewhere_touch_no_void_and_hardly_each_other() -> None:
    rng = np.random.default_rng(2)
    pool, centres = (on_sphere(rng.standard_normal((n, 3))) for n in (400, 3))
    radii = np.array([0.3, 0.2, 0.1])
    found, kept = elsewhere(pool, centres, radii)
    assert kept.tolist() == [0, 1, 2]
    assert (angle(found[:, None], centres[None]) > radii + radii[:, None]).all()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert overlap(angle(found[i], found[j]), radii[i], radii[j]) <= 0.1


def test_a_void_is_unmatched_where_its_ball_would_overlap_another() -> None:
    voids = on_sphere(np.array([[0.0, 0, 1], [0, 1, 1]]))
    south = on_sphere(np.array([[0.0, 0, -1], [0, 0.1, -1]]))
    found, matched = elsewhere(south, voids, np.array([0.4, 0.4]))
    assert matched.tolist() == [0]
    assert len(found) == 1


def test_where_there_is_no_room_for_a_ball_there_is_none() -> None:
    pool = on_sphere(np.random.default_rng(2).standard_normal((400, 3)))
    found, kept = elsewhere(pool, pool[:2], np.array([3.2, 0.1]))
    assert len(found) == len(kept) == 0


def test_a_base_has_not_seen_what_its_fold_withholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RunFolder] = []
    monkeypatch.setattr(pipeline, "make_base", lambda run, settings, reuse: made.append(run))
    assert shared_base("plain", 0, 100, 1.0, tmp_path) == RunFolder(SHIPPED).base
    assert not made
    base = shared_base("plain", 1, 100, 1.0, tmp_path)
    assert base == made[0].base
    assert made[0].load_corpus().info["fold"] == 1
    assert shared_base("rich", 1, 100, 1.0, tmp_path) != base


def test_shares_inside_are_told_with_intervals_over_seeds() -> None:
    seeds = [
        {"withheld_in_matched": 0.4 + 0.01 * i, "withheld_in_elsewhere": 0.1, "balls_in_voids": 9.0}
        for i in range(5)
    ]
    found = pooled(seeds)
    assert found["balls_in_voids"] == {"mean": 9.0, "ci": [9.0, 9.0]}
    low, high = found["withheld_in_matched"]["ci"]
    assert 0.38 < low < 0.42 < high < 0.46
    assert found["withheld_matched_over_elsewhere"]["ratio"] == pytest.approx(4.2)
    for seed in seeds:
        seed["withheld_in_elsewhere"] = 0.0
    assert "withheld_matched_over_elsewhere" not in pooled(seeds)


@pytest.mark.chain
def test_the_study_measures_a_model_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From texts to shares inside voids; what is kept is neither trained nor searched again."""
    few = VoidSettings(proposals=60, places=40, climbed=20, nulls=1)
    monkeypatch.setattr(VoidSettings, "quick", classmethod(lambda _: few))
    said = ["--richness", "plain", "--texts", "400", "--seeds", "2", "--recipes", "30"]
    said += ["--aim", "text", "--dim", "4", "--set", "train.loop.steps=2", "--out", str(tmp_path)]
    knows.main(said)
    first = json.loads(capsys.readouterr().out)
    cell = first["plain-400"]
    assert cell["seeds"] == 2
    assert set(cell["by_prefix"]) == {"2", "3", "4"}
    for found in cell["by_prefix"].values():
        low, high = found["rho"]["ci"]
        assert 0 <= low <= found["rho"]["auroc"] <= high <= 1
    assert 0 <= cell["inside"]["withheld_in_voids"]["mean"] <= 1
    scores = json.loads((tmp_path / "plain-400-0" / "scores.json").read_text())
    assert len(scores["test"]["4"]["withheld"]["rho"]) == 30
    for name in ("train", "find_voids"):
        monkeypatch.setattr(knows, name, None)
    knows.main(said)
    assert json.loads(capsys.readouterr().out) == first
