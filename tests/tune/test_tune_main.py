"""What `cllm tune` refuses, in one line and before any cluster is joined; and what it hands on."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_run_in

from cllm.base import BaseLM
from cllm.corpus import Corpus, built_in_corpus
from cllm.files import write_json
from cllm.run import RunFolder
from cllm.settings import LoopSettings, RunSettings, preset
from tune import main as command
from tune.check import BY_SIZES
from tune.controls import control_space
from tune.space import Space


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a cluster was joined")

    monkeypatch.setattr("ray.init", never)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()  # what came before
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1
    return line


UNJUDGED = ["--measure", "gain", "--separate", ""]  # no reference LM is asked for


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--objectives", "beauty"], "no objective 'beauty'"),
        (["--objectives", "yield", "--measure", "gain"], "yield would never appear"),
        (["--objectives", "gain_nats,auroc", "--scheduler", "asha"], "ASHA prunes by gain_nats"),
        (["--objectives", ""], "--objectives names none"),
        (["--space", "dim=8,2000"], "d = 2000 is more than the"),
        (["--space", "lr"], "has no values"),
        (["--space", "train.nothing=1"], "no setting 'train.nothing'"),
        (["--space", "lr=1e-3..1e-2", "--search", "grid"], "lr is a range"),
        (["--space", "dim=4,8", "--search", "grid", "--trials", "1"], "the grid has 2 points"),
        (["--trials", "0"], "--trials is 0"),
        (["--d-max", "2000", "--space", "dim=8"], "d = 2000 is more than the"),
        (["--measure", "texts"], "texts are judged by it"),
        (["--apply"], "find something to apply with `cllm tune`"),
        (["--suggest"], "name it with --corpus"),
        (["--choose", "--d-max", "64", "--separate", "128"], "--separate has '128'"),
        (["--choose", "--separate", "four"], "--separate has 'four'"),
        (["--seeds", "0"], "--seeds is 0; it must be 1 or more"),
        (["--keep", "1"], "--keep is 1; it must be 2 or more"),
        (["--cap", "0"], "--cap is 0; it must be a number above 0"),
        (["--cap", "inf"], "--cap is inf; it must be a number above 0"),
        (["--seconds", "0"], "--seconds is 0; it must be a number above 0"),
        (["--steps", "0"], "--steps is 0; it must be 1 or more"),
        (["--corpus", "texts.jsonl"], "--corpus is for --suggest"),
        (["--workers", "-1"], "--workers is -1"),
        (["--space", "dim=big"], "--space dim has 'big'; it takes whole numbers"),
        (["--set", "model.dim=8"], "sizes are what is searched"),
        (["--controls", "-1"], "--controls is -1"),
        (["--aim", "voids", "--separate", "4", "--no-choice", "--choose"], "8 coordinates or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tiny_run: RunFolder, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    few = [] if options[0] in ("--apply", "--suggest") else ["--allow-weak-base", *UNJUDGED]
    assert told in refused(capsys, "--run", str(tiny_run.path), *few, *options)


def test_a_corpus_of_fifty_texts_decides_nothing(
    tmp_path: Path, tiny_base: BaseLM, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run_in(tmp_path / "few", built_in_corpus("plain", 50, 0), tiny_base)
    line = refused(capsys, "--run", str(run.path))
    assert "validation texts of" in line
    assert "give 600 texts or more" in line


def test_a_run_without_a_base_that_was_tested_is_refused(
    tiny_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = tiny_run.notes()["base"]
    tiny_run.note("base", facts | {"restored_tokens": 0.5})
    assert "the base restores 50.00 %" in refused(capsys, "--run", str(tiny_run.path))
    tiny_run.base.rename(tiny_run.path / "elsewhere")
    assert "does not exist" in refused(capsys, "--run", str(tiny_run.path))


def test_auroc_is_refused_where_nothing_is_withheld(
    tmp_path: Path, tiny_base: BaseLM, recipes: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run_in(tmp_path / "other", replace(recipes, info={}), tiny_base)
    words = ["--run", str(run.path), "--objectives", "auroc"]
    assert "texts are judged by it" in refused(capsys, *words), "there is no reference LM"
    line = refused(capsys, *words, "--measure", "gain", "--no-choice")
    assert "this corpus withholds nothing" in line


def test_the_default_space_keeps_to_what_the_corpus_allows(tiny_run: RunFolder) -> None:
    options = command.parser().parse_args(["--d-max", "16"])
    assert command.space_of(tiny_run, options).axes["dim"] == (8, 16)
    options = command.parser().parse_args(["--search", "grid"])
    assert set(command.space_of(tiny_run, options).axes) == {"dim", "cluster_weight"}


def test_apply_trains_the_best_point_in_full(
    tiny_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"settings": {"preset": "quick", "aim": "text", "set": ["model.form=direct"], "cap": 2},
            "best": {"point": {"dim": 8, "lr": 0.001, "void_dim": 2}},
            "dimension": {"d": 4}, "corpus": tiny_run.load_corpus().hash}  # fmt: skip
    kept = tiny_run.path / "tune" / command.KEPT
    write_json(kept, told | {"corpus": "another"})
    assert "is of other texts than" in refused(capsys, "--run", str(tiny_run.path), "--apply")
    write_json(kept, told | {"dimension": {"d": None}, "best": {"point": {}}})
    assert "no dimension was enough" in refused(capsys, "--run", str(tiny_run.path), "--apply")
    write_json(kept, told)
    command.main(["--run", str(tiny_run.path), "--apply", "--steps", "3", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["dim"] == 4
    assert facts["void_dim"] == 2
    assert facts["steps"] == 3
    assert _trained(tiny_run)["loop"]["lr"] == 0.001
    assert _trained(tiny_run)["nested"]
    write_json(kept, told | {"dimension": {"d": 4, "by": BY_SIZES}})
    command.main(["--run", str(tiny_run.path), "--apply", "--steps", "3", "--json"])
    assert not _trained(tiny_run)["nested"], "as the models that it was chosen by"


def _trained(run: RunFolder) -> dict[str, Any]:
    return dict(json.loads((run.model / "training.json").read_text())["settings"]["train"])


def test_apply_gives_a_chosen_dimension_the_budget_that_it_was_chosen_by(
    tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loops = list[LoopSettings]()

    def train(run: RunFolder, settings: RunSettings, **_: Any) -> None:
        loops.append(settings.train.loop)

    monkeypatch.setattr("cllm.pipeline.train_model", train)
    told = {"settings": {"preset": "quick", "aim": "text", "set": [], "cap": 3},
            "best": {"point": {"dim": 8}}, "corpus": tiny_run.load_corpus().hash}  # fmt: skip
    usual = preset("quick").train.loop
    words = ["--run", str(tiny_run.path), "--apply", "--json"]
    tiny_run.note("model", {"dim": 4})
    for chosen, factor in (({"dimension": {"d": 4}}, 3), ({}, 1)):
        write_json(tiny_run.path / "tune" / command.KEPT, told | chosen)
        command.main(words)
        assert loops[-1].seconds == factor * usual.seconds
        assert bool(loops[-1].plateau) == (factor == 3)
    capsys.readouterr()


def test_sizes_that_get_a_model_each_are_never_none_by_themselves() -> None:
    options = command.parser().parse_args(["--d-max", "3"])
    assert command.separate_sizes(options) == (3,)
    assert command.separate_sizes(command.parser().parse_args(["--d-max", "10"])) == (4, 8)


README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
SHOWN = [line.partition("#")[0] for line in README.splitlines() if line.startswith("cllm tune ")]


def test_readme_shows_how_to_search() -> None:
    assert len(SHOWN) >= 5


@pytest.mark.parametrize("line", SHOWN)
def test_what_readme_shows_is_not_refused(tiny_run: RunFolder, line: str) -> None:
    from tune.sweep import require_objectives, require_space

    options = command.parser().parse_args(shlex.split(line)[2:])
    command._require_sense(options)
    plan, how = command.plan_of(tiny_run, options), command.how_of(options)
    require_objectives(how, plan)
    require_space(command.space_of(tiny_run, options), plan, how)
    for dim in command.separate_sizes(options):
        command.budget_of(options).settings({"dim": dim})


def test_trained_for_voids_no_model_is_too_small_for_them() -> None:
    options = command.parser().parse_args(["--aim", "voids"])
    assert command.separate_sizes(options) == (8, 16, 32, 64)


def test_voids_are_compared_among_as_many_coordinates(
    tiny_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    by = ("--run", str(tiny_run.path), "--objectives", "gain_nats,uniformity", "--no-choice",
          "--measure", "gain", "--allow-weak-base")  # fmt: skip
    told = "uniformity is of the coordinates that voids are sought in"
    assert told in refused(capsys, *by, "--space", "dim=8", "--space", "void_dim=4,8")
    assert told in refused(capsys, *by, "--space", "dim=4,8", "--space", "void_dim=8")
    assert told in refused(capsys, *by, "--space", "dim=4,8", "--space", "void_dim=4,8")
    assert told in refused(capsys, *by, "--space", "dim=4,8"), "each trial would choose its own"
    assert told in refused(capsys, *by, "--space", "dim=8,16", "--aim", "voids")
    options = command.parser().parse_args([*by])
    assert command.space_of(tiny_run, options).axes["void_dim"] == (8,)


def test_a_sweep_is_followed_by_pairs_of_its_best_point() -> None:
    space = Space.parse(["cluster_weight=0.1,0,0.01", "lr=1e-3..1e-2", "seed=7"])
    best = {"point": {"cluster_weight": 0.01, "lr": 0.004, "seed": 7}}
    found = control_space(space, best, 2, 0.5)
    assert found is not None
    points = found.grid()
    assert len(points) == 12
    assert {p["lr"] for p in points} == {0.004}
    assert {p["cluster_weight"] for p in points} == {0, 0.01, 0.1}
    assert {(p["cluster_floor"], p["seed"]) for p in points} == {(0, 0), (0, 1), (0.5, 0), (0.5, 1)}
    ranged = control_space(Space.parse(["cluster_weight=0..0.3"]), best, 1, 0.5)
    assert ranged is not None
    assert ranged.axes["cluster_weight"] == (0, 0.3)
    assert control_space(space, best, 0, 0.5) is None
    assert control_space(Space.parse(["lr=1e-3..1e-2"]), best, 2, 0.5) is None


@pytest.mark.parametrize("predictor", ["text_nats", "mean_dim"])  # the second needs a base
def test_a_suggestion_is_a_number_with_an_interval_and_its_reasons(
    predictor: str, tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from test_tune_law import corpora

    from tune import suggest as module
    from tune.law_fit import Form, fit_law

    law = fit_law(corpora(), Form((predictor,)), spread=0.3)
    monkeypatch.setattr(module, "the_law", lambda: law)
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in corpus.texts))
    command.main(["--suggest", "--corpus", str(file), "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    low, high = told["d_interval"]
    assert 2 <= low <= told["d"] <= high
    assert told["extrapolates"], "recipes of 140 nats are beyond the made-up corpora"
    assert np.isfinite(told["statistics"]["text_nats"])
    assert told["predictors"][predictor] > 1
    command.main(["--suggest", "--corpus", str(file)])
    assert "extrapolates" in capsys.readouterr().out


def test_a_suggestion_says_where_texts_are_too_few_for_it(
    tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in corpus.texts[:50]))
    command.main(["--suggest", "--corpus", str(file), "--json"])  # by the law that ships
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    low, high = told["d_interval"]
    assert low < told["d"] < high
    assert told["d"] > told["statistics"]["texts"] >= told["d_max_to_try"]
    assert "more than the" in told["extrapolates"][0]
    assert "products-1300" in told["measured_without_d"]
