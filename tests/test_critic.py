"""A critic of a tiny base: what it tells apart, and that it comes back from its folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from toys import stopping

from cllm.base import BaseLM
from cllm.corpus import built_in_corpus
from cllm.critic import Critic, Examples, are_real, train_critic
from cllm.critics import make_critic
from cllm.errors import InputError
from cllm.reference import ReferenceLM
from cllm.run import SHIPPED, RunFolder
from cllm.settings import LoopSettings, overridden
from cllm.writing import make_judge

TEXTS = [text[:60] for text in built_in_corpus("plain", 300, 0).texts]
WRONG = [" ".join(reversed(text.split())) for text in TEXTS]


@pytest.fixture(scope="module")
def base() -> BaseLM:
    return RunFolder(SHIPPED).load_base()


@pytest.fixture(scope="module")
def reference(base: BaseLM) -> ReferenceLM:
    return RunFolder(SHIPPED).load_reference(base)


def test_it_tells_real_texts_from_wrong_ones_and_comes_back(
    base: BaseLM, reference: ReferenceLM, tmp_path: Path
) -> None:
    loop = LoopSettings(steps=24, batch=16, lr=5e-4, evaluations=2)
    examples, held_out = Examples(TEXTS[:200], WRONG[:200]), Examples(TEXTS[200:], WRONG[200:])
    cut = Examples(["a soup of leeks"] * 2, ["a soup of leeks and", "no soup of leeks"])
    assert len(cut.tokens(base, 4)) == 2, "what differs beyond the context is not wrong"
    before = {name: value.clone() for name, value in reference.model.state_dict().items()}
    critic, _ = train_critic(reference, base, examples, held_out, loop, tmp_path / "training")
    context = reference.model.config.n_positions
    tokens = held_out.tokens(base, context)
    real_n = np.array(are_real(tokens.names))
    assert real_n.tolist() == [1] * 100 + [0] * 100
    logits_n = critic.logits(tokens)
    assert roc_auc_score(real_n, logits_n) > 0.9
    untrained = Critic.new(reference, base, seed=0).logits(tokens)
    assert roc_auc_score(real_n, untrained) < 0.9
    assert all(
        (before[name] == value).all() for name, value in reference.model.state_dict().items()
    )

    critic.save(tmp_path / "critic")
    again = Critic.load(tmp_path / "critic", base)
    np.testing.assert_allclose(again.logits(tokens), logits_n, atol=1e-5)
    with pytest.raises(InputError, match="holds no critic"):
        Critic.load(tmp_path / "none", base)


@pytest.mark.chain
def test_the_study_measures_each_arm_on_what_none_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies import critic

    words = ["--seeds", "2", "--steps", "3", "--decodes", "60", "--texts", "600",
             "--void-decodes", "60", "--left-out", "swap", "--out", str(tmp_path)]  # fmt: skip
    kinds, made, RECIPES = [], critic.Examples.made, critic.RECIPES

    def seen(texts: list[str], *how: Any) -> Any:
        kinds.extend([how[-1]] if len(texts) > 500 else [])
        return made(texts, *how)

    monkeypatch.setattr(critic.Examples, "made", seen)
    with monkeypatch.context() as killed:
        killed.setattr(critic, "train_critic", stopping(critic.train_critic, after=3))
        with pytest.raises(SystemExit):
            critic.main(words)
    assert len(kinds) == 4, "three were kept; the fourth was made ready"
    critic.main(words)
    kinds.pop(3)
    told = json.loads(capsys.readouterr().out)
    assert told["decodes"] == 60
    assert 0 < told["wrong"] < 60
    assert set(told["failures"]) == {
        *critic.ARMS, *critic.LESS, "likelihood", "usual", *critic.UNTAUGHT
    }  # fmt: skip
    assert told["failures"]["likelihood"]["auroc_rubbish"]["mean"] > 0.9
    known = json.loads(next(tmp_path.glob("voids-*.json")).read_text())["texts"]
    assert told["void_texts"] == len(set(known)) > 0
    assert set(told["left_out"]["swap"]) == {
        *critic.ARMS, "wrong", *critic.LESS, "on_decodes"
    }  # fmt: skip
    assert all(0 < one < 1 for arm in critic.ARMS
               for one in told["left_out"]["swap"]["on_decodes"][arm])  # fmt: skip
    seeds = {arm: np.array(of["auroc"]["seeds"]) for arm, of in told["failures"].items()}
    assert all(((seeds[arm] > 0) & (seeds[arm] < 1)).all() for arm in critic.ARMS)
    difference = float((seeds["edits"] - seeds["random"]).mean())
    less = told["failures"]["edits_less_random"]["auroc"]
    assert less["mean"] == pytest.approx(difference)
    assert less["ci"][0] < difference < less["ci"][1]
    assert len(kinds) == 8, (
        "none is made twice; random corruption knows no kinds: one critic for all"
    )
    assert [some for some in kinds if "swap" in some] == [RECIPES] * 4
    assert sorted({some for some in kinds if some} - {RECIPES}) == [RECIPES[1:]]

    def never(*_: object) -> None:
        raise AssertionError("it was trained before")

    monkeypatch.setattr(critic, "train_critic", never)
    critic.main(words)
    assert json.loads(capsys.readouterr().out) == told


@pytest.fixture
def unchecked(tmp_path: Path) -> RunFolder:
    """The shipped run, as if nobody knew what makes its texts right."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED, run.path)
    corpus = run.load_corpus()
    info = {name: value for name, value in corpus.info.items() if name != "richness"}
    replace(corpus, info=info).save(run.corpus)
    return run


def test_texts_without_a_checker_are_no_subject_of_the_study(unchecked: RunFolder) -> None:
    from studies import critic

    with pytest.raises(SystemExit, match="2"):
        critic.main(["--run", str(unchecked.path)])


@pytest.mark.chain
def test_where_there_is_no_checker_a_critic_judges(
    unchecked: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = overridden("quick", steps=40, changes=["train.loop.batch=16"])
    make_critic(unchecked, settings)
    with monkeypatch.context() as m:
        m.setattr("cllm.critics.train_critic", None)
        make_critic(unchecked, settings, reuse=True)  # it is there
    model, corpus = unchecked.load_model(), unchecked.load_trained_corpus()
    judge = make_judge(unchecked, model, corpus)
    real = list(corpus.select("validation").texts)
    limit = judge.validator.least_real
    real_n = judge.validator.critic(real)
    assert (real_n >= limit).mean() == pytest.approx(0.99, abs=0.005)
    (verdict,) = judge.judge([real[int(np.argmin(real_n))]])
    assert not verdict.valid
    assert any("a critic gives it" in reason for reason in verdict.reasons)
    with monkeypatch.context() as m:  # texts are held against what a model can write of them
        m.setattr(type(model), "as_cut", lambda _, texts: [f"{text} cut" for text in texts])
        m.setattr("cllm.judge.Judge.calibrate", lambda _, train, held_out, **__: (train, held_out))
        assert all(text.endswith(" cut") for some in make_judge(unchecked, model, corpus)
                   for text in some)  # fmt: skip
    note = unchecked.critic / "training.json"
    note.write_text(note.read_text().replace(corpus.hash, "0" * 16))
    assert make_judge(unchecked, model, corpus).validator.critic is None
    assert "is of other texts" in caplog.text


def test_texts_with_a_checker_need_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED, run.path)
    make_critic(run, overridden("quick", steps=1))
    assert not run.critic.exists()
