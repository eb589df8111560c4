"""Correction: places whose texts stray are put right, and every decode of that counts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import Spelled, command, killed_and_on, ringed_field

from cllm.arms import write_from_voids
from cllm.errors import InputError
from cllm.field import Field
from cllm.run import SHIPPED_VOIDS, RunFolder
from cllm.settling import Correction, Settling, with_limit
from cllm.sphere import angle, unit
from studies import correction, void_arm

Vectors = np.ndarray
POLE = np.array([[0.0, 0.0, 1.0]])


class Pulled(Spelled):
    """Whatever it is given, it tells what lies nearer to the equator, as texts there are known."""

    def decode(self, vectors_ND: Vectors, how: object = None) -> list[str]:
        return super().decode(unit(vectors_ND * [1, 1, 0.6]))


class Rough(Spelled):
    """It misses its place, by more if it samples; the first time each sample is exact."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.sampled = 0

    def decode(self, vectors_ND: Vectors, how: object = None) -> list[str]:
        if getattr(how, "sample", False):
            self.sampled += 1
            if self.sampled == 1:
                return super().decode(vectors_ND)
        away = 0.03 * self.rng.standard_normal(vectors_ND.shape)
        return super().decode(unit(vectors_ND + away))


class Loose(Spelled):
    """Near the pole its texts depend on every coordinate, elsewhere on none."""

    def decode(self, vectors_ND: Vectors, how: object = None) -> list[str]:
        near_N = angle(vectors_ND, POLE) < 0.2
        return [
            text if near else "0.1 0.2 0.3"
            for near, text in zip(near_N, super().decode(vectors_ND), strict=True)
        ]


@pytest.fixture(scope="module")
def field() -> Field:
    return ringed_field()


@pytest.fixture
def starts(field: Field) -> Vectors:
    pool_SD = field.proposals(9000, np.random.default_rng(1))
    return pool_SD[field.is_void(pool_SD)][:40]


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_steps_bring_back_what_a_decoder_pulls_away(field: Field, starts: Vectors) -> None:
    plain = Settling(Pulled(), field, 1000)
    stepped = Settling(Pulled(), field, 1000, how=Correction(steps=4))
    plain_nD, stepped_nD = (one.settle(starts, field.is_void) for one in (plain, stepped))
    assert field.is_void(stepped_nD).all()
    assert len(stepped_nD) > 1.5 * len(plain_nD)
    assert stepped.spent == stepped.model.decodes > plain.spent == plain.model.decodes == 40
    assert stepped.starts == plain.starts == 40


def test_a_place_with_an_implausible_text_retreats_towards_its_nearest_text(
    field: Field, starts: Vectors
) -> None:
    def low(texts: list[str]) -> np.ndarray:
        """Plausible is what lies off the pole."""
        return angle(Spelled().encode(texts), POLE) > 0.35

    plain = Settling(Spelled(), field, 1000, low)
    back = Settling(Spelled(), field, 1000, low, Correction(retreat=3))
    plain_nD, back_nD = (one.settle(starts, field.is_void) for one in (plain, back))
    assert (angle(back_nD, POLE) > 0.35).all()
    assert field.is_void(back_nD).all()
    assert len(back_nD) > len(plain_nD)
    assert back.spent == back.model.decodes


def test_of_several_texts_the_one_that_comes_back_nearest_is_taken(
    field: Field, starts: Vectors
) -> None:
    made = Settling(Rough(), field, 120, how=Correction(best_of=3))
    made.keep(starts)
    written = made.write("void", rng())
    assert written.decodes == made.model.decodes == 120
    np.testing.assert_allclose(Spelled().encode(written.texts), written.points_nD, atol=1e-4)
    poor = Settling(Rough(), field, 120)
    poor.keep(starts)
    away = angle(Spelled().encode(poor.write("void", rng()).texts), starts)
    assert np.median(away) > 0.01


def test_texts_whose_passes_disagree_are_left_out(field: Field) -> None:
    wanted = unit(np.array([[0.1, 0.02 * i + 0.02, 1.0] for i in range(5)]
                           + [[1.0, 0.0, 0.01 * i] for i in range(5)]))  # fmt: skip
    held_out = unit(np.array([[1.0, 0.1 * i, 0.2] for i in range(20)]))
    how = with_limit(Correction(passes=30), Loose(), held_out)
    assert how.least_agreement == 1, "what is told off the pole hangs on no coordinate"
    assert with_limit(Correction(), Loose(), held_out) == Correction()
    made = Settling(Loose(), field, 310, how=how)
    made.keep(wanted)
    assert len(made.kept_nD) == 10, "31 decodes each"
    kept_nD = made.write("void", rng()).points_nD
    assert (angle(kept_nD, POLE) > 0.2).all()
    assert len(kept_nD) == 5


def test_what_is_left_over_and_writes_nothing_more_ends_it(field: Field) -> None:
    how = Correction(settled=False, walked=0, passes=2)  # a text costs three, settling nothing
    written = write_from_voids(Spelled(), field, 20, np.random.default_rng(3), None, how)
    assert written.decodes == 18
    assert len(written.points_nD) == 6


def test_no_more_is_spent_than_the_budget_however_it_is_corrected(field: Field) -> None:
    how = Correction(steps=3, retreat=2, best_of=2, passes=1)
    model = Pulled()
    written = write_from_voids(model, field, 300, np.random.default_rng(3), None, how)
    assert written.decodes == model.decodes <= 300
    assert len(set(written.texts)) == len(written.texts) > 0


def test_places_may_be_decoded_as_they_are(field: Field) -> None:
    raw = Correction(settled=False, walked=0)
    model = Pulled()
    written = write_from_voids(model, field, 60, np.random.default_rng(3), None, raw)
    assert 50 < written.decodes == model.decodes == len(written.texts) == written.starts <= 60
    assert field.is_void(written.points_nD).all()
    away = angle(Spelled().encode(written.texts), written.points_nD)
    assert np.median(away) > 0.05, "their texts lie elsewhere"


@pytest.mark.parametrize(
    "wrong", [{"best_of": 0}, {"steps": -1}, {"passes": -1}, {"walked": 1.5}, {"temperature": 0},
              {"settled": False, "steps": 1}, {"settled": False, "retreat": 1}],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"must be|set settled"):
        Correction(**wrong)


@pytest.mark.chain
def test_the_study_counts_each_part_and_goes_on_where_it_stopped(
    tmp_path: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--runs", str(SHIPPED_VOIDS), "--parts", "usual", "steps", "--seeds", "1",
             "--decodes", "60", "--alarm", "2", "--out", str(tmp_path), "--json"]  # fmt: skip
    killed_and_on(monkeypatch, void_arm, "write_from_voids", 1, 3, lambda: correction.main(words))
    told = json.loads(capsys.readouterr().out)
    assert told["parts"].keys() == {"usual", "steps"}
    for part in told["parts"].values():
        assert part["decodes"] <= 60
        assert part["new"] <= part["yields"] <= part["texts"] <= part["decodes"]

    usual, raw = told["alarm"]
    assert [usual["part"], raw["part"]] == ["usual", "none"]
    (one,) = usual["each"]
    assert (one["texts"], one["valid"]) == (
        told["parts"]["usual"]["texts"], told["parts"]["usual"]["valid"]
    )  # fmt: skip
    assert usual.get("auroc") == one["auroc"], "of one seed the mean is its own"
    assert raw["each"][0]["texts"] > 50, "nothing is left out of what is decoded as it is"

    def never(*_: object) -> None:
        raise AssertionError("it was counted before")

    monkeypatch.setattr(void_arm, "write_from_voids", never)
    correction.main(words)
    assert json.loads(capsys.readouterr().out) == told


def test_parts_are_added_to_what_settles_and_left_out_of_all() -> None:
    parts = correction.PARTS
    assert parts["settled, best of"] == replace(parts["settled"], best_of=3)
    assert parts["all but best of"] == replace(parts["all"], best_of=1)
    assert parts["all but passes"] == replace(parts["all"], passes=0)
    assert len(set(parts.values())) == len(parts)


def test_a_ratio_needs_something_to_divide_by() -> None:
    rows = [
        {"run": "a", "part": part, "seed": seed, "new": new, "decodes": 9, "starts": 9, "texts": 9,
         "distinct": 9, "valid": 9, "hit": 9, "yields": new}
        for part, found in (("none", (10, 20, 12)), ("steps", (20, 40, 24)))
        for seed, new in enumerate(found)
    ]  # fmt: skip
    told = correction.of_part(rows, "steps")["new_over_none"]
    assert told["ratio"] == pytest.approx(2)
    assert told["ci"] == pytest.approx([2, 2])
    fewer = [row | {"texts": 3 if row["part"] == "steps" else 9} for row in rows]
    share = correction.of_part(fewer, "steps")
    assert share["yield_over_none"]["ratio"] == pytest.approx(6), "new of all texts"
    assert share["new_over_none"]["ratio"] == pytest.approx(2)
    alone = [row for row in rows if row["seed"] == 0]
    assert "ci" not in correction.of_part(alone, "steps")["new_over_none"]
    others = [row | {"run": "b", "new": row["new"] * (3 if row["part"] == "steps" else 1)}
              for row in rows]  # fmt: skip
    both = correction.of_part([*rows, *others], "steps")["new_over_none"]
    assert both["units"] == 2, "seeds of one run are no runs of their own"
    assert both["ci"][0] < 1 < 4 < both["ci"][1]
    rows[0]["new"] = 0
    assert correction.of_part(rows, "steps")["new_over_none"] is None


@pytest.mark.chain
def test_the_command_switches_parts_on_and_off_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED_VOIDS, run.path)
    words = ["generate", "--run", str(run.path), "--n", "60", "--json"]
    parts = "walked=0", "steps=2", "best_of=2", "passes=1"
    given = [word for part in parts for word in ("--correction", part)]
    assert command(*words, *given) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    without_places = {arm for arm, told in arms.items() if "correction" not in told}
    assert without_places == {"copy", "base"}
    for arm in arms.keys() - without_places:
        assert arms[arm]["decodes"] <= 60
        told = arms[arm]["correction"]
        assert told.pop("least_agreement") > 0, "found where none is given"
        assert told == {"walked": 0, "steps": 2, "best_of": 2, "passes": 1}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("steps", "has no '='; write it like steps=5"),
        ("turns=2", "--correction 'turns': there are settled, walked, steps"),
        ("steps=some", "--correction steps: Input should be a valid integer"),
        ("best_of=0", "best_of is 0; it must be 1 or more"),
        ("walked=2", "walked is 2.0; it must be 0 to 1"),
        ("walked=NaN", "walked is nan; it must be 0 to 1"),
        ("settled=false steps=2", "set settled"),
    ],
)
def test_a_correction_that_means_nothing_is_refused(given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Correction.of(given.split())


def test_a_correction_is_of_the_arms_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--run", str(SHIPPED_VOIDS), "--anywhere", "--correction", "steps=2"]
    assert command(*words) == 2
    assert "--correction is of the arms' texts" in capsys.readouterr().err
