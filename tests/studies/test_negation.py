"""Meaning as negation: the sequences, models trained side by side, and how claims are decided."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from studies import boundaries, negation
from studies.boundaries import (
    HIDDEN,
    VALUES,
    Ensemble,
    Shape,
    accuracies,
    broken_pivot,
    broken_zigzag,
    fit_ensemble,
    in_order,
    is_zigzag,
    out_of_order,
    pivot,
    swapped,
    zigzag,
)
from studies.negation_told import CLAIMS, draw_claims, told_of

RNG = np.random.default_rng


@pytest.mark.parametrize("length", [6, 12, 40])
def test_sequences_are_what_their_names_say(length: int) -> None:
    rng = RNG(length)
    for draw in (in_order, out_of_order, swapped, zigzag, broken_zigzag, pivot, broken_pivot):
        numbers_BL = draw(300, length, rng)
        assert numbers_BL.shape == (300, length)
        assert numbers_BL.min() >= 0
        assert numbers_BL.max() < VALUES
    assert (np.diff(in_order(300, length, rng)) > 0).all()
    assert (np.diff(out_of_order(300, length, rng)) < 0).any(1).all()
    swaps_BL = swapped(300, length, rng)
    assert ((np.diff(swaps_BL) < 0).sum(1) == 1).all()
    assert (np.diff(np.sort(swaps_BL)) > 0).all()
    assert is_zigzag(zigzag(300, length, rng)).all()
    assert not is_zigzag(broken_zigzag(300, length, rng)).any()
    rule_BL, broken_BL = pivot(300, length, rng), broken_pivot(300, length, rng)
    assert (rule_BL[:, 1:] >= rule_BL[:, :1]).all()
    below_B = (broken_BL[:, 1:] < broken_BL[:, :1]).sum(1)
    assert below_B.min() == 1
    assert (below_B == 1).mean() > 0.9


def test_zigzag_alternates_from_an_upward_step() -> None:
    some = np.array([[1, 5, 2, 9], [5, 1, 9, 2], [1, 5, 5, 9], [1, 5, 7, 3]])
    assert is_zigzag(some).tolist() == [True, False, False, False]


def test_models_side_by_side_are_torchs_lstm_each() -> None:
    models = Ensemble([Shape(8), Shape(8, "neighbour"), Shape(8, "anchor"), Shape(16)],
                      torch.Generator().manual_seed(0))  # fmt: skip
    numbers_BL = torch.from_numpy(in_order(7, 9, RNG(0)))
    logits_EB = models(numbers_BL.expand(4, -1, -1))
    for place, inputs in enumerate((8, 16, 16, 16)):
        lstm, table_VD = nn.LSTM(inputs, HIDDEN, batch_first=True), models.table_EVD[place]
        # torch's gates are input, forget, cell, output; the ensemble has the cell last
        order = torch.cat([torch.arange(64), torch.arange(96, 128), torch.arange(64, 96)])
        with torch.no_grad():
            lstm.weight_ih_l0.copy_(models.by_input_EIG[place].T[order, :inputs])
            lstm.weight_hh_l0.copy_(models.by_state_EHG[place].T[order])
            lstm.bias_ih_l0.copy_(models.biases_2E1G[0][place, 0, order])
            lstm.bias_hh_l0.copy_(models.biases_2E1G[1][place, 0, order])
        read_BLD = table_VD[numbers_BL][..., : 16 if place == 3 else 8]
        if place == 1:
            before_BLD = torch.cat([torch.zeros_like(read_BLD[:, :1]), read_BLD[:, :-1]], 1)
            read_BLD = torch.cat([read_BLD, read_BLD - before_BLD], -1)
        if place == 2:
            read_BLD = torch.cat([read_BLD, read_BLD - read_BLD[:, :1]], -1)
        state_BH = lstm(read_BLD)[1][0][-1]
        expected_B = state_BH @ models.head_EH1[place, :, 0] + models.offset_E1[place, 0]
        torch.testing.assert_close(logits_EB[place], expected_B, atol=1e-5, rtol=1e-4)
        models.zero_grad()
        lstm.zero_grad()
        logits_EB[place].square().sum().backward(retain_graph=True)
        expected_B.square().sum().backward()
        for own, torchs in (
            (models.by_input_EIG.grad[place, :inputs].T, lstm.weight_ih_l0.grad),
            (models.by_state_EHG.grad[place].T, lstm.weight_hh_l0.grad),
            (models.biases_2E1G[0].grad[place, 0], lstm.bias_ih_l0.grad),
        ):
            torch.testing.assert_close(own[order], torchs, atol=1e-4, rtol=1e-3)


def test_none_learns_anything_of_another() -> None:
    def batch(labels: list[float]) -> boundaries.Batch:
        def of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            numbers_BL = torch.from_numpy(in_order(8, 6, RNG(step)))
            count = len(labels)
            return numbers_BL.expand(count, -1, -1), torch.tensor(labels)[:, None].expand(-1, 8)

        return of

    def trained(labels: list[float]) -> Ensemble:
        models = Ensemble([Shape()] * len(labels), torch.Generator().manual_seed(1))
        fit_ensemble(models, batch(labels), 12)
        return models

    alone, both = trained([1.0]), trained([1.0, 0.0])
    for own, shared in zip(alone.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(shared[:1], own, atol=1e-5, rtol=1e-4)


def test_a_rule_is_learnt_and_told() -> None:
    rng, models = RNG(0), Ensemble([Shape()], torch.Generator().manual_seed(0))

    def batch(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        right_B = rng.random(32) < 0.5
        numbers_BL = np.where(right_B[:, None], in_order(32, 6, rng), out_of_order(32, 6, rng))
        return torch.from_numpy(numbers_BL)[None], torch.from_numpy(right_B)[None].float()

    before = accuracies(models, in_order(200, 6, rng), out_of_order(200, 6, rng))[0]
    checks: list[int] = []
    fit_ensemble(models, batch, 400, checks.append)
    assert checks == list(range(1, 401))
    after = accuracies(models, in_order(200, 6, rng), out_of_order(200, 6, rng))[0]
    assert after > 0.9 > 0.7 > before


def rows(seeds: int, **points: float) -> list[dict[str, Any]]:
    """As `of_sorted` and `of_deltas` tell them, all claims true but for what is given."""
    value = {"baseline easy": 100.0, "baseline hard": 50.0, "baseline long": 50.3,
             "concept easy": 97.7, "concept hard": 85.3, "concept long": 65.7,
             "gen 0": 85.6, "gen 1": 72.8, "gen 2": 68.0, "soft 2": 72.0, "shared 5": 80.0,
             "zigzag": 40.0, "anchor": 98.0, "plain": 87.0, "neighbour": 80.0} | points  # fmt: skip
    rng, found = RNG(0), []
    for _ in range(seeds):
        noise = {name: (at + rng.normal(0, 0.02)) / 100 for name, at in value.items()}

        def tests(arm: str, of: dict[str, float] = noise) -> dict[str, float]:
            return {test: of[f"{arm} {test}"] for test in ("easy", "hard", "long")}

        def chain(*hard: float) -> list[dict[str, float]]:
            return [{"easy": 1.0, "hard": one, "long": 0.6} for one in hard]

        own = [noise[f"gen {g}"] for g in range(3)]
        far = chain(*own, 0.66, 0.65, 0.64)
        kept = chain(own[0], 0.8, 0.8, 0.8, 0.8, noise["shared 5"])
        soft = chain(own[0], 0.74, noise["soft 2"], 0.7, 0.7, 0.7)
        shares = {"0": far, "0.1": far, "0.2": kept, "0.3": kept, "0.5": kept, "soft": soft,
                  negation.MIX: far}  # fmt: skip

        def shape(at: float) -> dict[str, float]:
            return {"best": at, "last": at - 0.01}

        found.append({
            "baseline": tests("baseline"), "concept": tests("concept"), "half": tests("concept"),
            "chain": shares,
            "zigzag": {"plain": shape(0.5), "wide": shape(0.5), "anchor": shape(0.5),
                       "neighbour": shape(0.5 + noise["zigzag"])},
            "pivot": {name: shape(noise[name]) for name in ("plain", "neighbour", "anchor")}
            | {"wide": shape(noise["plain"])},
        })  # fmt: skip
    return found


def decided(**points: float) -> dict[str, str]:
    some = rows(20, **points)
    told = told_of({"sorted": some, "delta": some[:10]})
    return {one["claim"]: one["decision"] for one in told["claims"]}


def test_what_is_as_claimed_is_reproduced() -> None:
    assert set(decided().values()) == {"reproduced"}
    assert len(decided()) == len(CLAIMS) == 16


@pytest.mark.parametrize(
    ("points", "claim", "decision"),
    [({"concept hard": 95.0}, "swaps, hard", "same direction, other size"),
     ({"anchor": 87.0}, "pivot, anchor delta − plain", "not reproduced"),
     ({"concept hard": 50.0}, "swaps, hard", "not reproduced"),
     ({"gen 2": 72.8}, "collapse, generation 2, hard", "not reproduced"),
     ({"neighbour": 90.0}, "pivot, plain − neighbour delta", "not reproduced"),
     ({"shared 5": 60.0}, "20 to 30 % true examples − none, generation 5, hard", "not reproduced"),
     ({"zigzag": 10.0}, "zigzag, neighbour delta − plain of equal width",
      "same direction, other size")],
)  # fmt: skip
def test_claims_are_decided_by_the_rule(
    points: dict[str, float], claim: str, decision: str
) -> None:
    assert decided(**points)[claim] == decision


def test_a_figure_that_is_near_but_of_no_sure_direction_is_not_reproduced() -> None:
    rng, some = RNG(0), rows(10)
    for row in some:  # a spread so wide that eleven points may be none
        row["pivot"]["anchor"]["best"] = row["pivot"]["plain"]["best"] + rng.normal(0.05, 0.2)
    (one,) = (
        one for one in told_of({"sorted": some, "delta": some})["claims"]
        if one["claim"] == "pivot, anchor delta − plain"
    )  # fmt: skip
    assert abs(one["mean"] - one["value"]) < 2 * one["error"]
    assert one["decision"] == "not reproduced"


def test_misses_by_chance_are_told() -> None:
    told = told_of({"sorted": rows(20), "delta": rows(10)})
    assert 0.5 < told["missed_by_chance"] < 1.2
    assert told["words"][-1].startswith("16 reproduced, 0 same direction, other size, 0 not")


Batches = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batches]:
    """What each ensemble would be trained on, 40 batches each; none is trained."""
    seen: list[Batches] = []

    def fit(models: Ensemble, batch: boundaries.Batch, steps: int, *_: Any) -> None:
        drawn = [batch(step) for step in range(40)]
        seen.append([(numbers.numpy(), labels.numpy()) for numbers, labels in drawn])

    monkeypatch.setattr(negation, "fit_ensemble", fit)
    return seen


def falls(numbers: np.ndarray) -> np.ndarray:
    return (np.diff(numbers) < 0).sum(-1)


def test_arms_differ_in_their_negatives_alone(batches: list[Batches]) -> None:
    negation.of_sorted(0, 1)
    shares = []
    for numbers_EBL, labels_EB in batches[0]:
        assert 6 <= numbers_EBL.shape[2] <= 12
        assert ((falls(numbers_EBL) == 0) == (labels_EB == 1)).all()
        assert (labels_EB == labels_EB[:1]).all()
        right_B = labels_EB[0] == 1
        assert (numbers_EBL[:, right_B] == numbers_EBL[:1, right_B]).all(), "the same for all arms"
        wrong_EBL = numbers_EBL[:, ~right_B]
        one_swap = (falls(wrong_EBL) == 1) & (np.diff(np.sort(wrong_EBL)) > 0).all(-1)
        shares.append(one_swap.mean(1))
    baseline, concept, half = np.mean(shares, axis=0)
    assert baseline < 0.04
    assert concept == 1
    assert half == pytest.approx(0.5, abs=0.08)
    ((true_1BL, true_1B), *_) = batches[1]
    assert true_1BL.shape[0] == 1
    assert (falls(true_1BL) == 1 - true_1B).all(), "generation 0: true labels, one swap"


def test_chains_learn_from_the_labels_of_the_last(batches: list[Batches]) -> None:
    negation.of_sorted(0, 1)
    assert len(batches) == 2 + negation.GENERATIONS
    names, told = list(negation.CHAINS), batches[2]
    numbers = {name: [x[place] for x, _ in told] for place, name in enumerate(names)}
    labels = {name: [y[place] for _, y in told] for place, name in enumerate(names)}
    kinds = np.concatenate([np.minimum(falls(some), 2) for some in numbers["0"]])
    assert np.allclose(np.bincount(kinds) / len(kinds), 1 / 3, atol=0.05), "a third of each"
    assert set(np.concatenate(labels["0"])) <= {0, 1}
    soft, hard = np.concatenate(labels["soft"]), np.concatenate(labels["0"])
    assert ((soft > 0) & (soft < 1)).all()
    assert ((soft > 0.5) == (hard == 1)).all()
    for name, share in negation.CHAINS.items():
        other = [(a != b).any(1) for a, b in zip(numbers[name], numbers["0"], strict=True)]
        assert np.concatenate(other).mean() == pytest.approx(share, abs=0.04), name
        for put, some, of in zip(other, numbers[name], labels[name], strict=True):
            assert (falls(some[put]) <= 1).all()
            if name != negation.MIX:
                assert ((falls(some[put]) == 0) == (of[put] == 1)).all(), "which are true"
    truth = [falls(some) == 0 for some in numbers[negation.MIX]]
    right = [(of == 1) == true for of, true in zip(labels[negation.MIX], truth, strict=True)]
    put = [(a != b).any(1) for a, b in zip(numbers[negation.MIX], numbers["0"], strict=True)]
    assert np.concatenate(right)[np.concatenate(put)].mean() < 0.8, "labels of one untrained"


def test_tests_have_their_lengths() -> None:
    tests = negation._sorted_tests(RNG(0))
    assert {name: right.shape for name, (right, _) in tests.items()} == {
        "easy": (500, 20), "hard": (500, 20), "long": (500, 40)
    }  # fmt: skip
    assert (falls(tests["hard"][1]) == 1).all()
    assert (falls(tests["long"][1]) == 1).all()
    assert falls(tests["easy"][1]).mean() > 5


def test_claims_are_drawn(tmp_path: Path) -> None:
    told = told_of({"sorted": rows(3), "delta": rows(3)})
    draw_claims(tmp_path / "claims.png", told)
    assert (tmp_path / "claims.png").stat().st_size > 20_000
    assert told["controls"]["chain, soft, generation 2, hard"]["mean"] == pytest.approx(72, abs=0.1)


def test_a_seed_is_measured_the_same_again() -> None:
    first, again = (negation.measured("sorted", 3, 2) for _ in range(2))
    assert first == again
    assert set(first["chain"]) == set(negation.CHAINS)
    assert all(len(some) == 1 + negation.GENERATIONS for some in first["chain"].values())
    assert first != negation.measured("sorted", 4, 2)
    deltas = negation.measured("delta", 0, 20)
    assert all(
        0 <= of["last"] <= of["best"] <= 1 for shapes in deltas.values() for of in shapes.values()
    )


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_the_study_runs_on_ray_and_repeats_no_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--seeds", "2", "--delta-seeds", "2", "--share-of-steps", "0.005", "--json",
             "--out", str(tmp_path)]  # fmt: skip
    negation.main(words)
    told = json.loads(capsys.readouterr().out)
    assert {one["decision"] for one in told["claims"]} <= {
        "reproduced", "same direction, other size", "not reproduced"
    }  # fmt: skip
    assert (tmp_path / "negation.png").exists()
    (tmp_path / "sorted-1-gone.json").write_text("{}")
    lost = next(tmp_path.glob("sorted-1-*[!e].json"))
    lost.unlink()
    asked: list[tuple[str, int]] = []

    def over_ray(units: list[tuple[str, int]], steps: dict[str, int], _: str | None) -> Any:
        asked.extend(units)
        return ((unit, negation.measured(*unit, steps[unit[0]])) for unit in units)

    monkeypatch.setattr(negation, "_over_ray", over_ray)
    negation.main(words)
    assert asked == [("sorted", 1)], "only what is missing"
    again = json.loads(capsys.readouterr().out)
    assert again | {"seconds": told["seconds"]} == told


@pytest.mark.parametrize(("option", "value"), [("--seeds", "1"), ("--share-of-steps", "0")])
def test_too_little_to_say_anything_is_refused(option: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        negation.main([option, value, "--out", str(tmp_path)])


def test_what_a_study_does_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        negation.main(["--seeds", "1", "--out", str(tmp_path)])
    assert logging.getLogger("studies.negation").isEnabledFor(logging.INFO)
