"""VoidBench: what is counted, how sure it is, and any autoencoder put to the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.judge import Judge, Verdict
from cllm.settling import Written
from cllm.sphere import unit
from studies import voidbench
from studies.pooling import summary
from studies.worth import PairCounts, Worth


class Spelled:
    """An autoencoder that loses nothing: a vector's text is its coordinates."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return unit(np.array([[float(x) for x in text.split()] for text in texts]))

    def decode(self, vectors_ND: np.ndarray) -> list[str]:
        return [" ".join(f"{x:.6f}" for x in row) for row in vectors_ND]


def load() -> Spelled:
    """What `--model` names in the test of the command."""
    return Spelled()


def row(arm: str, place: str, yields: bool, withheld: bool = False) -> dict[str, Any]:
    return {
        "arm": arm, "place": place, "text": "x", "valid": yields, "duplicate": False,
        "hit": True, "yields": yields, "withheld": withheld,
        "combination": ["soup", place] if withheld else None,
    }  # fmt: skip


def trial(rows: list[dict[str, Any]], **spent: dict[str, int]) -> dict[str, Any]:
    """What a model's trial keeps; the arms are those of the rows unless told."""
    return {
        "rows": rows, "later_by_chance": 0.1, "spent": spent or {row["arm"]: {} for row in rows},
    }  # fmt: skip


def told(
    models: int, void: Sequence[tuple[bool, bool]], density: Sequence[tuple[bool, bool]]
) -> dict[str, Any]:
    rows = [row("void", str(i), *found) for i, found in enumerate(void)]
    rows += [row("density", str(i), *found) for i, found in enumerate(density)]
    spent = {"decodes": 300, "starts": 200, "likely": 150}
    one = trial(rows, void=spent, density=spent)
    return summary([one] * models, np.random.default_rng(0))


def test_shares_are_pooled_over_models_and_lie_in_their_intervals() -> None:
    half = [(i % 2 == 0, i % 4 == 0) for i in range(80)]
    found = told(3, half, [(i % 4 == 0, False) for i in range(80)])
    void = found["arms"]["void"]
    assert void["texts"] == 240
    assert void["decodes"] == 900
    assert void["yield"]["share"] == pytest.approx(0.5)
    assert void["withheld_fill"]["share"] == pytest.approx(0.5)
    assert void["distinct_withheld"] == 20
    low, high = void["yield"]["ci"]
    assert 0.4 < low < 0.5 < high < 0.6
    assert (void["starts"], void["likely"]) == (600, 450)
    lift = found["void_over_density"]["yield"]
    assert lift["ratio"] == pytest.approx(2, rel=0.02)
    assert lift["ci"][0] > 1


def test_arms_without_places_have_new_texts_but_nothing_to_hit() -> None:
    rows = [row("copy", str(i), i % 2 == 0) | {"hit": None} for i in range(40)]
    copy = summary([trial(rows)], np.random.default_rng(0))["arms"]["copy"]
    assert copy["new_share"]["share"] == pytest.approx(0.5)
    assert not {"hit", "yield", "yields"} & set(copy)


def test_an_arm_that_wrote_nothing_keeps_its_shape() -> None:
    rows = [row("density", str(i), True) for i in range(10)]
    void = summary([trial(rows, void={}, density={})], np.random.default_rng(0))["arms"]["void"]
    assert void["texts"] == void["yields"] == 0
    assert void["yield"] is None


def test_plausibility_is_the_mean_over_valid_texts() -> None:
    rows = [row("void", "a", True) | {"pmi": 0.4, "unknown_items": 0.0},
            row("void", "b", True) | {"pmi": 0.2, "unknown_items": 0.5},
            row("void", "c", False) | {"pmi": 9.0, "unknown_items": 1.0}]  # fmt: skip
    void = summary([trial(rows)], np.random.default_rng(0))["arms"]["void"]
    assert void["plausibility"]["mean"] == pytest.approx(0.3)
    low, high = void["plausibility"]["ci"]
    assert 0.2 <= low < 0.3 < high <= 0.4
    assert void["unknown_items"]["mean"] == pytest.approx(0.25)


def test_later_fill_is_told_over_that_of_real_unseen_texts() -> None:
    rows = [row("void", str(i), True) | {"later": i < 10} for i in range(50)]
    later = summary([trial(rows)], np.random.default_rng(0))["arms"]["void"]["later_fill"]
    assert later["share"] == pytest.approx(0.2)
    assert later["over_chance"] == pytest.approx(2.0)


def test_a_text_written_twice_counts_once_at_its_first_place() -> None:
    written = Written("void", ("a", "b", "a"), unit(np.eye(3)), 6)
    first = voidbench.once(written)
    assert first.texts == ("a", "b")
    assert np.array_equal(first.points_nD, np.eye(3)[:2])
    assert first.decodes == 6


def test_a_ratio_over_nothing_found_has_a_lower_bound_only() -> None:
    found = told(1, [(True, i < 3) for i in range(30)], [(True, False)] * 30)
    fill = found["void_over_density"]["withheld_fill"]
    assert fill["ratio"] is None
    assert fill["ci"][0] > 0.1
    assert fill["ci"][1] is None
    assert fill["difference"] == pytest.approx(0.1)
    low, high = fill["difference_ci"]
    assert low < 0.1 < high
    low, high = found["arms"]["density"]["withheld_fill"]["ci"]
    assert low < 0.001
    assert 0.05 < high < 0.2  # none of 30 may still be one of ten


def test_a_model_without_a_void_arm_is_left_out_of_the_ratio() -> None:
    rows = [row("density", str(i), True) for i in range(10)]
    spent: dict[str, Any] = {"void": {}, "density": {}}
    empty: dict[str, Any] = {"rows": rows, "later_by_chance": 0.1, "spent": spent}
    full: dict[str, Any] = {
        "rows": [*rows, row("void", "0", True)],
        "later_by_chance": 0.1,
        "spent": spent,
    }
    found = summary([empty, full], np.random.default_rng(0))
    assert found["models"] == 2
    assert found["arms"]["density"]["texts"] == 20
    assert found["void_over_density"]["models"] == 1


def test_texts_of_one_place_are_one_observation() -> None:
    apart = told(1, [(i % 2 == 0, False) for i in range(100)], [(True, False)])
    rows = [row("void", str(i % 4), i % 4 < 2) for i in range(100)] + [row("density", "a", True)]
    trial: dict[str, Any] = {
        "rows": rows,
        "later_by_chance": 0.1,
        "spent": {"void": {}, "density": {}},
    }
    together = summary([trial], np.random.default_rng(0))
    wide, narrow = (np.ptp(x["arms"]["void"]["yield"]["ci"]) for x in (together, apart))
    assert wide > 2 * narrow


def test_pairs_that_go_together_have_a_high_pmi() -> None:
    texts = ["ingredients: 1 leek; 1 potato"] * 10 + ["ingredients: 1 plum; 1 fig"] * 10
    counts = PairCounts.of(texts)
    together = counts.pmi(frozenset({"leek", "potato"}))
    apart = counts.pmi(frozenset({"leek", "fig"}))
    assert together is not None
    assert apart is not None
    assert together > 0.5 > 0 > apart
    assert counts.pmi(frozenset({"leek", "never seen"})) is None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Places on S³ but for a cap, as texts."""
    cloud = unit(np.random.default_rng(1).standard_normal((1500, 4)))
    texts = tuple(Spelled().decode(cloud[cloud[:, 3] < 0.7]))
    count = len(texts)
    splits = tuple("train" if i % 5 else ("validation", "test")[i % 2] for i in range(count))
    names = tuple(f"t{i}" for i in range(count))
    path = tmp_path_factory.mktemp("bench") / "corpus.parquet"
    Corpus(names, texts, names, names, splits).save(path)
    return path


@pytest.mark.chain
def test_any_autoencoder_is_put_to_the_test_once(
    corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = corpus.parent / "out"
    command = ["--json", "--model", f"{__name__}:load", "--corpus", str(corpus), "--quick"]
    command += ["--budget", "80", "--out", str(out)]
    voidbench.main(command)
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == 1
    void = found["arms"]["void"]
    assert void["hit"] == void["texts"] > 0
    assert void["decodes"] <= 80
    crowding = found["each"][0]["crowding"]
    assert crowding["density"]["crowding"] == pytest.approx(crowding["void"]["crowding"], rel=0.05)
    inside = void["in_voids"]
    assert inside["texts"] == void["texts"]
    told = found["each"][0]["arms"]["void"]
    assert told["texts"] == void["texts"]
    assert (out / "voidbench.json").exists()

    def never(*_: object) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(voidbench, "trial", never)
    voidbench.main(command)
    assert json.loads(capsys.readouterr().out) == found

    (kept,) = (file for file in out.glob("*.json") if file.name != "voidbench.json")
    voidbench.main(["--json", "--trials", str(kept), "--out", str(out / "together")])
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--runs", "x", "--model", "y:z"], "give either --runs"),
        (["--model", "nowhere:load", "--corpus", "x.parquet"], "give MODULE:FUNCTION"),
        (["--model", f"{__name__}:load"], "--model and --corpus"),
        (["--nulls", "5"], "--nulls is 5"),
        (["--runs", "x", "--trials", "y"], "--trials are results of models already"),
        (["--trials", "no/such.json"], "no/such.json"),
        (["--budget", "1"], "--budget is 1"),
        (["--runs", "no/such/run"], "no/such/run"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        voidbench.main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert len(error.splitlines()) == 1


def test_a_text_nearer_to_a_held_out_one_comes_later() -> None:
    texts = ("leek soup", "leek pie", "plum tart", "plum jam", "fig cake")
    splits = ("train", "train", "test", "test", "validation")
    corpus = Corpus(texts, texts, texts, texts, splits)
    worth = Worth.of(corpus)
    assert worth.later(["a leek stew", "plum tart and cream"]).tolist() == [False, True]


def test_chance_is_what_real_unseen_texts_give_that_would_count() -> None:
    held_out = ("leek stew", "plum jam", "leek jam", "leek bun")
    texts = ("leek soup", "leek pie", "plum tart", *held_out)
    splits = ("train", "train", "test", *["validation"] * 4)
    worth = Worth.of(Corpus(texts, texts, texts, texts, splits))

    def verdict(text: str) -> Verdict:
        valid, duplicate = text != "leek stew", text == "leek jam"
        return Verdict("novel", valid, duplicate, 1.0, 1.0, (), ())

    judge = SimpleNamespace(judge=lambda some: [verdict(text) for text in some])
    assert worth.later(held_out).tolist() == [False, True, False, False]
    assert worth.later_by_chance(cast("Judge", judge)) == 0.5  # of plum jam and leek bun


def test_places_alike_count_as_places_not_as_texts() -> None:
    rows = [row("void", "a", True) for _ in range(200)]
    found = summary(
        [{"rows": rows, "later_by_chance": 0.1, "spent": {"void": {}}}], np.random.default_rng(0)
    )
    assert found["arms"]["void"]["yield"]["ci"][0] < 0.5
    assert "note" in found


def test_models_that_differ_widen_the_interval() -> None:
    def model(yielding: int) -> dict[str, Any]:
        return trial([row("void", str(i), i < yielding) for i in range(100)])

    alike, apart = (
        summary([model(n) for n in counts], np.random.default_rng(0))["arms"]["void"]["yield"]["ci"]
        for counts in ((30, 30, 30), (20, 30, 40))
    )
    assert np.ptp(apart) > 1.5 * np.ptp(alike)
    assert apart[0] < 0.2  # below the least of three


def test_recipes_and_other_texts_are_not_pooled() -> None:
    other = {"rows": [{"arm": "void", "text": "x"}], "later_by_chance": 0.1, "spent": {"void": {}}}
    with pytest.raises(InputError, match="no common summary"):
        summary(
            [other, {"rows": [row("void", "a", True)], "later_by_chance": 0.1, "spent": {}}],
            np.random.default_rng(0),
        )


class Careless(Spelled):
    """Its vectors are not of length 1."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return 3 * super().encode(texts)


def test_an_autoencoder_off_the_sphere_is_refused(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        voidbench.main(["--model", f"{__name__}:Careless", "--corpus", str(corpus)])
    assert "encode(texts) must return unit vectors" in capsys.readouterr().err


class Odd:
    """Returns what the test says, whatever it is asked."""

    def __init__(self, vectors: object = None, texts: object = None) -> None:
        self.vectors, self.texts = vectors, texts

    def encode(self, texts: Sequence[str]) -> Any:
        return self.vectors

    def decode(self, vectors_ND: np.ndarray) -> Any:
        return self.texts


def test_lists_serve_as_vectors() -> None:
    found = voidbench.Foreign("m:f", Odd([[1, 0], [0, 1]])).encode(["a", "b"])
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        ([[1.0, 0], [np.nan, 0]], "vector of text 'b' is not a unit vector"),
        ([[1.0, 0]], r"2 texts gave an array of shape \(1, 2\)"),
        ([1.0, 0], "rows of at least 2 coordinates"),
        (["x", "y"], "could not convert"),
        (None, r"array of shape \(\)"),
    ],
)
def test_a_wrong_vector_is_named(vectors: object, told: str) -> None:
    with pytest.raises(InputError, match=f"--model m:f: .*{told}"):
        voidbench.Foreign("m:f", Odd(vectors)).encode(["a", "b"])


@pytest.mark.parametrize("texts", [["one"], [1, 2], []])
def test_decode_must_return_a_text_a_vector(texts: object) -> None:
    with pytest.raises(InputError, match="decode of 2 vectors must return as many texts"):
        voidbench.Foreign("m:f", Odd(texts=texts)).decode(np.eye(2, dtype=np.float32))


def test_few_withheld_combinations_widen_the_interval_of_their_share() -> None:
    def fill(kinds: int) -> list[float]:
        rows = [row("void", str(i), yields=True, withheld=i % 2 == 0) for i in range(120)]
        for number, one in enumerate(rows):
            if one["withheld"]:
                one["combination"] = ["soup", f"main {number % kinds}"]
        models = [trial(rows) | {"withheld": 30}] * 3
        found = summary(models, np.random.default_rng(0))["arms"]["void"]["withheld_fill"]
        assert found["share"] == 0.5
        return found["ci"]

    many, few = fill(60), fill(2)
    assert many[0] < 0.5 < many[1]
    assert np.ptp(few) > 1.5 * np.ptp(many)
