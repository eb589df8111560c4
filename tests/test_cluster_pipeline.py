"""The chain as one job: configuration files, and which stages are done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cllm.errors import InputError, WorkError
from cllm.run import PLAUSIBLE

pytest.importorskip("ray")
from cluster import pipeline
from cluster.pipeline import Config, Stage, chain, load
from cluster.remote import contents, write_text

RECIPES = Path(__file__).parents[1] / "cluster/configs/recipes.yaml"


def test_the_configuration_for_gpus_wants_them_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLLM_RUNS", raising=False)
    file = RECIPES.with_name("gpu.yaml")
    with pytest.raises(InputError, match="CLLM_RUNS is not set"):
        load(file)
    monkeypatch.setenv("CLLM_RUNS", "s3://bucket/runs")
    config = load(file)
    assert config.run == "s3://bucket/runs/recipes"
    assert config.step.gpu
    assert config.train.gpu
    assert config.embed.gpu


def test_the_shipped_configuration_is_sound(tmp_path: Path) -> None:
    config = load(RECIPES)
    assert Path(config.run).is_absolute()
    assert config.train.workers == 2
    assert load(RECIPES, "s3://bucket/run").run == "s3://bucket/run"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: r\nworkers: 3", "workers"),
        ("run: r\ntrain: {workers: -1}", "train.workers"),
        ("texts: 100", "run"),
        ("run: r\nset: [train.nonsense=1]", "no setting 'train.nonsense'"),
        ("run: r\nset: [passage=32]", "one level only so far"),
        ("run: [", "is no configuration"),
        ("- a list", "is no configuration"),
        ("", "run"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml is no configuration"):
        load(tmp_path / "none.yaml")


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two stages, the second of which reads what the first makes."""
    done: list[str] = []

    def stage(name: str, reads: tuple[str, ...], makes: str) -> Stage:
        def work(config: Config) -> None:
            done.append(name)
            write_text(f"{config.run}/{makes}", f"{name} {config.seed}")

        return Stage(name, reads, (makes,), lambda c: c.seed if name == "first" else None, work)

    stages = (stage("first", (), "a"), stage("second", ("a",), "b"))
    monkeypatch.setattr(pipeline, "STAGES", stages)
    monkeypatch.setattr(pipeline, "require_all", lambda *_: None)
    return done


def config(folder: Path, **changed: object) -> Config:
    return Config(run=str(folder / "run"), **changed)


def test_stages_that_are_done_are_kept(tmp_path: Path, done: list[str]) -> None:
    assert list(chain(config(tmp_path))["made"]) == ["first", "second"]
    assert chain(config(tmp_path))["kept"] == ["first", "second"]
    assert done == ["first", "second"]


def test_what_a_later_stage_adds_to_an_earlier_ones_part_makes_neither_anew(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(config: Config) -> None:
        done.append("adding")
        text = Path(f"{config.run}/a").read_text()
        write_text(f"{config.run}/a", f"{text} and more")
        write_text(f"{config.run}/c", "found")

    adding = Stage("adding", ("a",), ("c", "a"), lambda _: None, add)
    monkeypatch.setattr(pipeline, "STAGES", (*pipeline.STAGES[:1], adding))
    chain(config(tmp_path))
    assert chain(config(tmp_path))["kept"] == ["first", "adding"]
    assert list(chain(config(tmp_path, seed=1))["made"]) == ["first", "adding"]
    assert done == 2 * ["first", "adding"]


def test_a_source_that_changes_while_a_stage_works_is_noticed_the_next_time(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_text("old")

    def slow(config: Config) -> None:
        stages[0].work(config)
        source.write_text("new")

    stages = pipeline.STAGES
    first = replace(stages[0], decided_by=lambda _: contents(str(source)), work=slow)
    monkeypatch.setattr(pipeline, "STAGES", (first, stages[1]))
    chain(config(tmp_path))
    pipeline.forget_hashes()
    assert list(chain(config(tmp_path))["made"]) == ["first"]
    assert chain(config(tmp_path))["kept"] == ["first", "second"]


def test_what_is_learnt_beside_a_reference_lm_does_not_make_another_base(tmp_path: Path) -> None:
    (tmp_path / "base/reference").mkdir(parents=True)
    (tmp_path / "base/reference/model.safetensors").write_text("weights")
    before = contents(str(tmp_path / "base"))
    (tmp_path / "base/reference" / PLAUSIBLE).write_text("learnt")
    assert contents(str(tmp_path / "base")) == before


@pytest.mark.parametrize(("failing", "error"), [(0, InputError), (1, WorkError)])
def test_bad_input_that_is_found_after_work_had_begun_is_a_failure(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch, failing: int,
    error: type[Exception],
) -> None:  # fmt: skip
    def refuse(_: Config) -> None:
        raise InputError("not like this")

    stages = list(pipeline.STAGES)
    stages[failing] = replace(stages[failing], work=refuse)
    monkeypatch.setattr(pipeline, "STAGES", stages)
    with pytest.raises(error, match="not like this"):
        chain(config(tmp_path))


def test_a_stage_that_leaves_nothing_here_is_said(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(pipeline.STAGES[0], work=lambda _: None)
    monkeypatch.setattr(pipeline, "STAGES", (elsewhere,))
    with pytest.raises(WorkError, match="stage first left no a in"):
        chain(config(tmp_path))


def test_a_base_of_ones_own_decides_by_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")
    told = []
    for base in ("null", "google-t5/t5-small", "mine"):
        file.write_text(f"run: r\nbase: {base}")
        told.append((load(file).base, load(file).own_base))
    mine = str(tmp_path / "mine")
    assert told == [(None, ""), ("google-t5/t5-small", ""), (mine, mine)]
    before = pipeline.BASE.decided_by(load(file))
    (tmp_path / "mine/config.json").write_text('{"wider": 1}')
    assert pipeline.BASE.decided_by(load(file)) != before


def test_a_change_is_passed_on(tmp_path: Path, done: list[str]) -> None:
    chain(config(tmp_path))
    chain(config(tmp_path, seed=1))
    assert done == ["first", "second"] * 2


@pytest.mark.parametrize(("lost", "again"), [("a", ["first"]), ("b", ["second"])])
def test_what_is_lost_is_made_again(
    tmp_path: Path, done: list[str], lost: str, again: list[str]
) -> None:
    chain(config(tmp_path))
    (tmp_path / "run" / lost).unlink()
    chain(config(tmp_path))
    assert done[2:] == again  # the first makes just what it made before


def test_what_was_changed_by_hand_is_made_again(tmp_path: Path, done: list[str]) -> None:
    chain(config(tmp_path))
    (tmp_path / "run/a").write_text("otherwise")
    chain(config(tmp_path))
    assert done[2:] == ["first"]
