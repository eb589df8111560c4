"""The editor: it rewrites restored arrays, learns from damaged vectors, is saved with a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import killed_and_on

from cllm.base import BaseLM
from cllm.checkpoints import Folder
from cllm.corpus import Corpus
from cllm.editor import Editing, Editor, fit_editor
from cllm.errors import InputError
from cllm.model import CLLM
from cllm.pipeline import _base_for
from cllm.run import SHIPPED, RunFolder
from cllm.settings import RunSettings, TrainSettings, overridden
from cllm.training import Fit, Spread
from cllm.training_texts import TrainingTexts
from cllm.workers import ALONE
from studies import editor as study


@pytest.fixture(scope="module")
def training(tiny_base: BaseLM, corpus: Corpus) -> TrainingTexts:
    return TrainingTexts.of(tiny_base, corpus, TrainSettings(), 80)


def edited(model: CLLM, steps: int = 2) -> CLLM:
    model.requires_grad_(False)
    model.add_editor(steps)
    return model


def settings(steps: int, editor: int = 2) -> RunSettings:
    changes = [f"train.loop.steps={4 * steps}", "train.loop.seconds=0", "train.loop.lr=0.003",
               f"editor={editor}", "train.loop.batch=16"]  # fmt: skip
    return overridden("quick", changes=changes)


def test_it_does_nothing_at_first(new_cllm: Callable[..., CLLM]) -> None:
    plain, model = new_cllm(), edited(new_cllm())
    vectors_BD = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    torch.testing.assert_close(
        model.decode_array(vectors_BD), plain.decode_array(vectors_BD), rtol=1e-4, atol=1e-5
    )
    assert model.hash != plain.hash, "another model, from here on"


def test_every_step_rewrites_the_whole_array() -> None:
    torch.manual_seed(0)
    once, twice = Editor(6, 32, 1), Editor(6, 32, 2)
    for block in once.blocks:
        torch.nn.init.normal_(block.out.weight, std=0.2)  # type: ignore[union-attr, arg-type]
    twice.load_state_dict(once.state_dict())
    x_BMH = torch.randn(2, 6, 32)
    torch.testing.assert_close(twice(x_BMH), once(once(x_BMH)))
    other_BMH = x_BMH.clone()
    other_BMH[:, 5] += torch.randn(32)
    assert (once(other_BMH)[:, 0] - once(x_BMH)[:, 0]).abs().max() > 1e-4, "each place sees all"


def test_vectors_are_damaged_as_in_voids(
    new_cllm: Callable[..., CLLM], training: TrainingTexts
) -> None:
    model = edited(new_cllm())
    task = Editing(model, training, seed=0, noise=0.1)
    batch = training.real.gather(range(12))
    vectors_BD = model.vectors_of(batch)
    damaged_BD = task.damaged(vectors_BD, batch, 3)
    torch.testing.assert_close(damaged_BD.norm(dim=-1), torch.ones(12))
    kept_B = (damaged_BD * vectors_BD).sum(-1)
    nearest_B = (damaged_BD @ task.partners_PD.T).max(1).values
    assert (kept_B > 0.3).all()
    assert float(kept_B.min()) < 0.97, "some are moved far"
    assert (nearest_B > 0.5).all(), "towards texts, not anywhere"
    part = training.real.gather(range(4, 8))
    torch.testing.assert_close(
        task.damaged(vectors_BD[4:8], part, 3), damaged_BD[4:8], rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(task.damaged(vectors_BD, batch, 4), damaged_BD)


def test_training_it_mends_damaged_arrays_and_leaves_the_rest(
    new_cllm: Callable[..., CLLM], training: TrainingTexts, tmp_path: Path
) -> None:
    model = new_cllm()
    model.config.nested = False  # no vector is cut, which 60 steps could not mend
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = training.held_out.gather(range(8))

    def error(model: CLLM) -> float:
        return float(Editing(model, training, 0, 0.1).losses(batch, 0)["array"].detach())

    at_first = error(edited(new_cllm()))
    result = fit_editor(model, training, settings(60), tmp_path / "editor")
    assert result.steps == 60
    assert error(model) < 0.985 * at_first
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(weight.requires_grad for weight in model.parameters())


def test_it_is_saved_with_its_model(
    new_cllm: Callable[..., CLLM], tiny_base: BaseLM, training: TrainingTexts, tmp_path: Path
) -> None:
    model = new_cllm()
    fit_editor(model, training, settings(4, editor=3), tmp_path / "editor")
    model.save_pretrained(tmp_path / "model")
    again = CLLM.load(tmp_path / "model", tiny_base)
    assert again.hash == model.hash
    assert again.config.editor == 3
    vectors = np.eye(8, dtype=np.float32)[:2]
    assert again.decode(vectors) == model.decode(vectors)


def test_a_cluster_refuses_what_one_process_trains(tmp_path: Path) -> None:
    spread = replace(Spread(), place=Folder(tmp_path, ALONE))
    with pytest.raises(InputError, match="one process"):
        _base_for(RunFolder(SHIPPED), settings(4), spread, None)


def test_a_form_without_arrays_has_no_editor() -> None:
    with pytest.raises(InputError, match="pooled model has none"):
        overridden("quick", form="pooled", editor=True)
    assert overridden("quick", editor=True).editor == 3


def test_some_vectors_are_cut_to_the_prefixes_that_the_model_has(
    new_cllm: Callable[..., CLLM], training: TrainingTexts
) -> None:
    model = edited(new_cllm())
    task = Editing(model, training, seed=0, noise=0.1, prefixes=[2, 4])
    batch = training.real.gather(range(60))
    damaged_BD = task.damaged(model.vectors_of(batch), batch, 0)
    lengths = {int(row.nonzero().max()) + 1 for row in damaged_BD}
    assert lengths == {2, 4, 8}
    torch.testing.assert_close(damaged_BD.norm(dim=-1), torch.ones(60))


@pytest.mark.chain
def test_the_study_writes_with_it_and_without_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--seeds", "2", "--steps", "3", "--decodes", "40", "--measured", "5",
             "--out", str(tmp_path)]  # fmt: skip
    trained: list[RunSettings] = []
    fit = study.fit_editor

    def watched(model: CLLM, texts: TrainingTexts, settings: RunSettings, folder: Path) -> Fit:
        trained.append(settings)
        return fit(model, texts, settings, folder)

    monkeypatch.setattr(study, "fit_editor", watched)
    killed_and_on(monkeypatch, study, "fit_editor", 1, 1, lambda: study.main(words))
    assert {(one.train.prefixes, one.train.swaps) for one in trained} == {((8,), 0.4)}, "its run's"
    told = json.loads(capsys.readouterr().out)
    assert [(row["editor"], row["seed"]) for row in told["rows"]] == [
        ("without", 0), ("with", 0), ("without", 1), ("with", 1)
    ]  # fmt: skip
    for row in told["rows"]:
        for way in study.WAYS:
            assert row[way]["new"] <= row[way]["valid"] <= row[way]["texts"] <= 40
    assert told["none"]["new_with"] == [row["none"]["new"] for row in told["rows"][1::2]]
    assert told["gain_nats_with"] == pytest.approx(told["gain_nats_without"], rel=0.2)
    assert told["ms_a_text_with"] > 0


def test_yields_are_compared_seed_by_seed() -> None:
    def rows(new: list[int], texts: int) -> list[dict[str, Any]]:
        return [{"usual": {"new": one, "texts": texts}} for one in new]

    told = study.yields(rows([30, 45], 50), rows([20, 30], 100), "usual")
    assert told["ratio"] == pytest.approx(3)
    assert told["ci"] == pytest.approx([3, 3])
    wide = study.yields(rows([20, 80], 50), rows([20, 20], 50), "usual")
    assert wide["ratio"] == pytest.approx(2)
    assert wide["ci"][0] < 1 < 4 < wide["ci"][1], "two seeds tell little"
    assert study.yields(rows([0, 1], 50), rows([20, 30], 100), "usual") is None
