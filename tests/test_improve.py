"""The loop that improves itself: what a round is taught, its guards, and what a kill costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from test_scorer import says, stand_in
from toys import command

from cllm import discovery, improve, pipeline, round_zero, rounds
from cllm.corpus import Corpus
from cllm.critic import Critic
from cllm.diversity import TextSpace, discrepancy, distinct, even_spread, spread_of, vendi
from cllm.errors import InputError, WorkError
from cllm.files import read_json, write_json
from cllm.ideas import save_ideas
from cllm.improve import Loop, settings_for
from cllm.judge import Judge
from cllm.made import made_part, mixed, real_part, room_for, with_made
from cllm.model import CLLM
from cllm.recipes import Grammar, check
from cllm.round_zero import watched
from cllm.run import SHIPPED_VOIDS, RunFolder, training_facts
from cllm.settings import TrainSettings
from cllm.settling import Written
from cllm.voids import VoidSettings

MADE = Grammar("plain").generate(40, 9)
SHORT = [
    "train.loop.steps=80", "train.loop.seconds=0", "base.loop.steps=40", "base.loop.seconds=0",
    "base.low_rank_loop.steps=40", "base.low_rank_loop.seconds=0",
    "decodes=120", "measured=40", "further=0.1",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _finds() -> Iterator[None]:
    """Writing from voids finds something: unseen recipes stand for places in them."""

    def write(
        model: CLLM, field: object, budget: int, rng: np.random.Generator, *_: Any
    ) -> Written:
        unseen = Grammar("plain").generate(budget // 4, int(rng.integers(1 << 16)))
        places = model.encode(unseen)
        return Written("void", tuple(model.decode(places)), places, budget)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "write_from_voids", write)
        few = VoidSettings(proposals=60, places=200, climbed=10, nulls=1)
        patch.setattr(VoidSettings, "quick", lambda: few)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The shipped model for voids over 420 of its texts; not to be changed."""
    run = RunFolder(tmp_path_factory.mktemp("improve") / "small")
    shutil.copytree(SHIPPED_VOIDS, run.path)
    whole = run.load_corpus()
    corpus = Corpus.load(run.corpus)
    parts = [whole.select(s).sample(n) for s, n in (("train", 300), ("validation", 60),
                                                    ("test", 60))]  # fmt: skip
    wanted = {name for part in parts for name in part.ids}
    corpus = whole.only([name in wanted for name in whole.ids])
    run.corpus.unlink()
    corpus.save(run.corpus)
    for folder in (run.model, run.base):
        told = read_json(folder / "training.json")
        told["facts"]["corpus_hash"] = corpus.hash
        if folder == run.base:
            told["settings"]["rank"] = 8
        write_json(folder / "training.json", told)
    pipeline.embed_corpus(run, replace=True)
    discovery.search_voids(run, 0, quick=True)
    return run


def begun(small: RunFolder, path: Path, *changes: str, **own: Any) -> Loop:
    how, settings = settings_for("quick", [*SHORT, *changes])
    return Loop.begun(path, small, how, settings, **own)


def test_what_a_model_wrote_joins_the_training_texts_and_can_be_told_from_them(
    corpus: Corpus,
) -> None:
    once = with_made(corpus, MADE[:3])
    twice = with_made(once, MADE[3:5])
    assert twice.ids[-2:] == ("cllm-made-000003", "cllm-made-000004")
    assert made_part(twice).texts == tuple(MADE[:5])
    assert set(made_part(twice).splits) == {"train"}
    assert real_part(twice) == corpus
    assert real_part(twice).hash == corpus.hash
    assert twice.titles[-1] in MADE[4]


def test_a_loop_goes_on_where_settings_were_added_since(small: RunFolder, tmp_path: Path) -> None:
    loop = begun(small, tmp_path / "loop")
    told = read_json(loop.path / "improve.json")
    del told["settings"]["passage_dim"], told["how"]["repeats"]
    write_json(loop.path / "improve.json", told)
    assert begun(small, tmp_path / "loop").how == loop.how
    with pytest.raises(InputError, match="share"):
        begun(small, tmp_path / "loop", "share=0.2")


@pytest.mark.parametrize(
    ("share", "repeats", "rows"), [(0.3, 0, 116), (0.3, 10, 50), (0.0, 10, 0), (0.01, 10, 3)]
)
def test_real_texts_stay_and_made_ones_take_no_more_than_their_share(
    corpus: Corpus, share: float, repeats: int, rows: int
) -> None:
    real = corpus.select("train")
    taught = mixed(with_made(corpus, MADE[:5]), share, repeats)
    train = taught.select("train")
    assert train.texts[: len(real)] == real.texts
    rest = train.texts[len(real) :]
    assert len(rest) == rows == pytest.approx(share / (1 - share) * len(real), abs=1) or repeats
    assert set(rest) <= set(MADE[:5])
    assert len(set(taught.ids)) == len(taught)
    assert taught.select("validation").texts == corpus.select("validation").texts
    assert max(map(rest.count, rest), default=0) <= (repeats or 24)


def test_fewer_real_texts_are_trained_on_where_that_is_asked_for(corpus: Corpus) -> None:
    few = mixed(with_made(corpus, ["a made text"]), 0, most=20)
    real = corpus.select("train")
    assert few.select("train").texts == real.sample(20).texts
    assert few.select("validation").texts == corpus.select("validation").texts


def test_without_real_texts_there_are_only_made_ones(corpus: Corpus) -> None:
    taught = mixed(with_made(corpus, MADE[:5]), 1.0, 10)
    assert set(taught.select("train").texts) == set(MADE[:5])
    assert mixed(corpus, 1.0).select("train").texts == corpus.select("train").texts


def test_the_share_limits_how_many_join(corpus: Corpus) -> None:
    real = len(corpus.select("train"))
    room = room_for(corpus, 0.3)
    assert room / (room + real) <= 0.3 < (room + 1) / (room + 1 + real)
    assert room_for(with_made(corpus, MADE), 0.3) == room - len(MADE)
    assert room_for(with_made(corpus, MADE), 0.01) == 0
    few = room_for(corpus, 0.3, most=50)
    assert few == 21, "of fewer real texts, as they are mixed"
    whole = with_made(corpus, MADE[:few])
    assert set(made_part(whole).texts) <= set(mixed(whole, 0.3, 10, most=50).texts)


def test_diversity_and_distance_are_what_their_names_say() -> None:
    same, apart = np.tile([[1.0, 0, 0]], (5, 1)), np.eye(5)
    assert vendi(same) == pytest.approx(1)
    assert vendi(apart) == pytest.approx(5)
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct([""], 2) == 0
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal([shift, 0, 0, 0], 1, (200, 4)) for shift in (0, 0, 2))
    a, b, c = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b, c))
    assert abs(discrepancy(a, b)) < 0.1 < discrepancy(a, c)
    assert spread_of(None, ["one"], ["two"]) == {}  # type: ignore[arg-type]


def test_diversity_of_as_many_texts_compares() -> None:
    texts = [f"{word} with {word}s" for word in ("leek", "bean", "rice", "corn", "kale", "fig")]
    space = TextSpace.of(texts)
    every = even_spread(space, texts, 6)
    assert every["vendi"] == pytest.approx(spread_of(space, texts, [])["vendi"])
    assert even_spread(space, [*texts, *texts], 6)["vendi"] < every["vendi"]
    assert 2 < even_spread(space, texts, 4)["vendi"] <= 4 < every["vendi"]
    assert even_spread(space, texts, 4)["distinct_1"] > every["distinct_1"], "of fewer words"
    assert even_spread(space, texts, 7) == {}


def test_soft_targets_pull_towards_what_the_teacher_expects(
    new_cllm: Callable[..., Any], corpus: Corpus, texts: Any
) -> None:
    from cllm.further import Taught
    from cllm.losses import Restoring
    from cllm.settings import TrainSettings
    from cllm.training_texts import TrainingTexts

    model, teacher = new_cllm(), new_cllm(seed=1)
    teacher.spread.mul_(30)  # of its own mind
    settings = TrainSettings(nested=False, null=0, vector_noise=0)
    of = TrainingTexts.of(model.base, corpus, settings, 80)
    ((batch,),) = [pieces for pieces, _ in zip(of.real.batches(4, 0, 0), range(1), strict=False)]
    hard, half, soft = (
        Taught(model, settings, of, teacher, weight).losses(batch, 0)["cross_entropy"].item()
        for weight in (0.0, 0.5, 1.0)
    )
    plain = Restoring(model, settings, of.held_out).losses(batch, 0)["cross_entropy"].item()
    assert hard == pytest.approx(plain, rel=1e-5)
    assert half == pytest.approx((hard + soft) / 2, rel=1e-5)
    with torch.no_grad():
        memory = teacher.decode_array(teacher.vectors_of(batch))
        own = teacher.base.logits(memory, batch.ids_BT).log_softmax(-1)
        entropy = float((-(own.exp() * own).sum(-1) * batch.mask_BT).sum()) / len(batch)
    itself = Taught(teacher, settings, of, teacher, 1.0).losses(batch, 0)["cross_entropy"].item()
    assert itself == pytest.approx(entropy, rel=1e-4), "nothing is expected like the own"
    assert soft > entropy


def test_arrays_are_restored_beside_the_texts(new_cllm: Callable[..., Any], corpus: Corpus) -> None:
    from cllm.further import Arrays, OfArrays
    from cllm.losses import Restoring
    from cllm.settings import TrainSettings
    from cllm.sphere import unit
    from cllm.training_texts import TrainingTexts

    model = new_cllm()
    settings = TrainSettings(nested=False, null=0, vector_noise=0)
    of = TrainingTexts.of(model.base, corpus, settings, 80)
    ((batch,),) = [pieces for pieces, _ in zip(of.real.batches(4, 0, 0), range(1), strict=False)]
    places = unit(np.random.default_rng(0).standard_normal((6, 8))).astype(np.float32)
    arrays = Arrays.of(model, places)
    assert arrays.values_nMH.shape == (6, 80, 32)
    plain = Restoring(model, settings, of.held_out).losses(batch, 0)
    parts = OfArrays(model, settings, of, arrays, 0.25).losses(batch, 0)
    assert parts["loss"].item() == pytest.approx(
        0.75 * plain["loss"].item() + parts["made"].item(), rel=1e-5
    )
    noise = 3 * torch.randn(arrays.values_nMH.shape)
    far = OfArrays(model, settings, of, Arrays(arrays.values_nMH + noise, "noise"), 0.25)
    assert far.losses(batch, 0)["made"] > parts["made"]


# ---- the loop ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(small: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Two rounds that nothing disturbed."""
    loop = begun(small, tmp_path_factory.mktemp("loop") / "whole", "least=0")
    improve.improve(loop, 2)
    return loop


@pytest.mark.chain
def test_rounds_are_run_folders_that_tell_what_they_came_from(
    small: RunFolder, whole: Loop
) -> None:
    told = read_json(whole.path / "improve.json")
    assert [one["round"] for one in told["rounds"]] == [0, 1, 2]
    first, second, third = (whole.round(k) for k in range(3))
    assert first.load_model().hash == small.load_model().hash
    assert not first.path.samefile(small.path)
    for parent, run in ((first, second), (second, third)):
        model = run.load_model()
        assert model.hash != parent.load_model().hash
        assert run.load_base().hash != parent.load_base().hash
        assert run.load_latents(model).ids == run.load_trained_corpus().ids
        assert run.notes()["improve"]["parent"] == parent.path.name
        assert run.notes()["voids"]["rest"] == first.notes()["voids"]["rest"]
        assert run.notes()["improve"]["parent_model"] == parent.load_model().hash
        assert run.load_corpus().texts[: len(parent.load_corpus())] == parent.load_corpus().texts
        reference = (run.reference / "model.safetensors").read_bytes()
        assert reference == (first.reference / "model.safetensors").read_bytes()
        assert run.find_critic(run.load_base()), "a round's own judge has the first one's critic"
    assert (whole.path / "best").resolve() == whole.round(told["best"]).path.resolve()
    best = max(told["rounds"], key=lambda one: one["validation_ratio"])
    assert told["best"] == best["round"]


@pytest.mark.chain
def test_a_round_can_be_reported_and_measured_as_any_run(whole: Loop) -> None:
    run = str(whole.round(1).path)
    assert command("report", "--run", run) == 0
    assert command("evaluate", "--run", run, "--n", "20") == 0


@pytest.mark.chain
def test_rounds_are_measured_by_what_held_before_the_first(whole: Loop) -> None:
    told = read_json(whole.path / "improve.json")["rounds"]
    assert told[0]["gain_ratio"] == 1
    first, last = (dict(np.load(whole.round(k).path / "measured.npz")) for k in (0, 2))
    assert len(first["gain_nats"]) == 40
    ratio = last["gain_nats"].mean() / first["gain_nats"].mean()
    assert told[2]["gain_ratio"] == pytest.approx(ratio)
    low, high = told[2]["gain_ratio_ci"]
    assert low <= ratio <= high
    assert told[1]["decodes"] <= 120
    written = [idea.text for idea in whole.written(1)]
    assert told[1]["written"]["texts"] == len(written) > 0
    assert told[1]["written"]["valid"] == pytest.approx(np.mean([not check(t) for t in written]))
    assert told[1]["texts"] == {"real": 300, "made": told[1]["kept"]}
    assert told[2]["decodes_so_far"] == told[1]["decodes"] + told[2]["decodes"]


@pytest.mark.chain
def test_what_is_taught_passed_a_judge_and_is_new(whole: Loop) -> None:
    made = made_part(whole.round(2).load_corpus()).texts
    ideas = {idea.text: idea for k in (1, 2) for idea in whole.written(k)}
    assert len(set(made)) == len(made)
    assert all(ideas[text].yields for text in made)
    assert not set(made) & set(whole.round(0).load_corpus().texts)


@pytest.mark.chain
def test_a_kill_at_any_stage_costs_that_stage_and_nothing_else(
    small: RunFolder, whole: Loop, tmp_path: Path
) -> None:
    asked: list[tuple[int, str]] = []

    def killed_once(loop: Loop, number: int, name: str) -> None:
        """All of a stage is written, and not yet noted."""
        asked.append((number, name))
        if asked.count((number, name)) == 1:
            rounds.STAGES[name][0](loop, number)
            raise KeyboardInterrupt
        rounds.do(loop, number, name)

    told: dict[str, Any] = {}
    while not told:
        with suppress(KeyboardInterrupt):
            told = improve.improve(begun(small, tmp_path / "loop", "least=0"), 1, killed_once)
    assert asked == [one for one in dict.fromkeys(asked) for _ in range(2)]
    assert {name for _, name in asked} == set(rounds.STAGES)
    assert told["rounds"] == read_json(whole.path / "improve.json")["rounds"][:2]
    loop = begun(small, tmp_path / "loop", "least=0")
    assert loop.round(1).load_corpus().hash == whole.round(1).load_corpus().hash


def test_a_loop_that_was_begun_otherwise_is_refused(small: RunFolder, tmp_path: Path) -> None:
    begun(small, tmp_path / "loop")
    begun(small, tmp_path / "loop")
    with pytest.raises(InputError, match=r"begun with share = 0.3, not 0.1"):
        begun(small, tmp_path / "loop", "share=0.1")
    with pytest.raises(InputError, match=r"begun with steps = 80, not 9"):
        begun(small, tmp_path / "loop", "train.loop.steps=9")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        begun(small, tmp_path / "other")
    with pytest.raises(InputError, match="no model yet"):
        begun(RunFolder(tmp_path / "nothing"), tmp_path / "new")


@pytest.mark.parametrize(
    "change",
    ["share=1.5", "decodes=0", "judge=perhaps", "rate=0", "seed=3", "train.swaps=0", "model.dim=4",
     "train.loop.lr=1"],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(change: str) -> None:
    with pytest.raises(InputError, match=change.split("=")[0]):
        settings_for("quick", [change])


def test_arrays_stand_beside_real_texts() -> None:
    with pytest.raises(InputError, match="share must be below 1"):
        settings_for("quick", ["arrays=true", "share=1"])


@pytest.mark.chain
def test_rounds_that_were_removed_are_not_made_again_unasked(
    small: RunFolder, whole: Loop, tmp_path: Path
) -> None:
    loop = begun(small, tmp_path / "loop", "least=0")
    for k in range(2):
        shutil.copytree(whole.round(k).path, loop.round(k).path, symlinks=True)
    shutil.copyfile(whole.path / "improve.json", loop.path / "improve.json")
    asked: list[int] = []
    told = improve.improve(loop, 1, lambda _, number, __: asked.append(number))
    assert not asked
    assert [one["round"] for one in told["rounds"]] == [0, 1]


@pytest.mark.chain
def test_another_loop_goes_on_from_a_round_and_knows_what_is_real(
    whole: Loop, tmp_path: Path
) -> None:
    second = whole.round(2)
    how, settings = settings_for("quick", [*SHORT, "least=0"], 5)
    loop = Loop.begun(tmp_path / "other", second, how, settings)
    told = improve.improve(loop, 1)["rounds"]
    made = len(made_part(second.load_corpus()))
    assert [one["texts"]["real"] for one in told] == [300, 300]
    assert told[0]["texts"]["made"] == made
    assert told[1]["texts"]["made"] == made + told[1]["kept"] > made
    assert told[0]["gain_ratio"] == 1
    ids = loop.round(1).load_corpus().ids
    assert len(set(ids)) == len(ids)


# ---- what can go wrong -------------------------------------------------------------------


@pytest.fixture
def after_write(small: RunFolder, whole: Loop, tmp_path: Path) -> Callable[..., Loop]:
    """A loop whose first round has been written and nothing more."""

    def make(*changes: str, **own: Any) -> Loop:
        loop = begun(small, tmp_path / "loop", "least=0", *changes, **own)
        for k in range(2):
            shutil.copytree(whole.round(k).path, loop.round(k).path, symlinks=True)
        loop.round(1).voids.unlink()
        known = ("round", "parent", "parent_model", "decodes", "duplicate_above")
        notes = {name: loop.notes(1)[name] for name in known}
        loop.round(1).note("improve", notes | {"seconds": {"write": 1.0}})
        return loop

    return make


@pytest.mark.chain
@pytest.mark.parametrize("what", ["passed by the judge", "back at its place"])
def test_a_judge_that_passes_nothing_ends_the_loop(
    after_write: Callable[..., Loop], what: str
) -> None:
    loop = after_write()
    ideas = [
        replace(idea, hit=False) if what == "back at its place"
        else replace(idea, verdict=replace(idea.verdict, valid=False))
        for idea in loop.written(1)
    ]  # fmt: skip
    save_ideas(loop.candidates(1), ideas, loop.notes(1)["parent_model"])
    told = improve.improve(loop, 2)
    assert told["ended"].startswith(f"none of {len(ideas)} texts is all of what is taught (")
    assert f"0 {what}" in told["ended"]
    assert told["best"] == 0
    assert [one["round"] for one in told["rounds"]] == [0]
    assert (loop.path / "best").resolve() == loop.round(0).path.resolve()


@pytest.mark.chain
def test_a_round_without_a_text_ends_the_loop(after_write: Callable[..., Loop]) -> None:
    loop = after_write()
    save_ideas(loop.candidates(1), [], loop.notes(1)["parent_model"])
    assert improve.improve(loop, 2)["ended"] == "no text was written from a void"


@pytest.mark.chain
def test_a_judge_that_passes_everything_is_told(
    after_write: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    loop = after_write()
    for faults, told in ((["bad"], False), ([], True)):

        def judge_of(_: Loop, corpus: Corpus, held_out: Any, faults: Any = faults) -> Judge:
            return Judge.calibrate(corpus.ids, corpus.texts, held_out, checker=lambda _: faults)

        monkeypatch.setattr(rounds, "judge_of", judge_of)
        rounds.do(loop, 1, "write")
        assert loop.notes(1)["valid"] == told * len(loop.written(1))
        assert ("passed all" in caplog.text) == told
    assert "guards little" in caplog.text


@pytest.mark.chain
def test_a_judge_that_passes_rubbish_is_refused_before_the_first_round(
    after_write: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = after_write()
    monkeypatch.setattr(Critic, "logits", lambda _, texts: np.zeros(len(texts)))
    with pytest.raises(InputError, match=r"guards too little.*judge=false"):
        rounds.begin(loop)


@pytest.mark.chain
def test_a_scorer_chooses_and_one_that_is_gone_costs_no_text(
    small: RunFolder, after_write: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cllm.scorer import Scorer

    loop = after_write(scorer=Scorer("http://127.0.0.1:9/v1", "one", seconds=2))
    before = loop.candidates(1).read_bytes()
    with pytest.raises(WorkError, match=r"scorer at http://127\.0\.0\.1:9"):
        improve.improve(loop, 1)
    assert loop.candidates(1).read_bytes() == before
    assert not loop.done(1, "choose")
    with pytest.raises(InputError, match="begun with scorer"):
        begun(small, loop.path, "least=0")
    monkeypatch.setattr(rounds, "choose", lambda *_: [])
    assert improve.improve(loop, 1)["ended"].startswith("the scorer chose none of")
    assert not loop.done(1, "choose"), "the same command asks again"
    monkeypatch.setattr(rounds, "choose", lambda _, texts: [len(texts) - 1])
    with suppress(KeyboardInterrupt):
        improve.improve(loop, 1, _stopping_after("choose"))
    assert loop.notes(1)["kept"] == 1
    assert not loop.notes(1)["ended"], "by the try before"
    assert loop.done(1, "choose")


@pytest.mark.chain
def test_every_round_learns_against_nearly_real_copies(
    after_write: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, heard = after_write(), list[Any]()

    def stop(*asked: Any, **_: Any) -> None:
        heard.extend(asked)
        raise KeyboardInterrupt

    rounds.do(loop, 1, "choose")
    monkeypatch.setattr(rounds, "model_on", stop)
    with pytest.raises(KeyboardInterrupt):
        rounds.do(loop, 1, "model")
    (settings,) = [one for one in heard if isinstance(one, TrainSettings)]
    assert settings.negative_weight >= 0.05
    texts = heard[1].select("train").texts
    real = loop.round(0).load_corpus().select("train").texts
    assert texts[: len(real)] == real, "all of them, as they are"


@pytest.mark.chain
def test_a_copy_that_was_half_made_is_made_again(small: RunFolder, tmp_path: Path) -> None:
    loop = begun(small, tmp_path / "loop")
    half = loop.round(0)
    shutil.copytree(small.base, half.base)  # as a worker of a cluster leaves it, or a URL has it
    rounds.do(loop, 0, "begin")
    assert half.load_model().hash == loop.start


def test_the_best_round_is_not_told_by_texts_that_weights_are_chosen_by(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = corpus.select("validation")
    assert set(watched(corpus, 500).ids) == set(validation.ids), "too few to leave some out"
    monkeypatch.setattr(round_zero, "HELD_OUT", len(validation) // 2)
    monkeypatch.setattr(round_zero, "ENOUGH", 5)
    chosen_by = validation.sample(len(validation) // 2).ids
    apart = watched(corpus, 500).ids
    assert len(apart) == len(validation) - len(chosen_by)
    assert not set(apart) & set(chosen_by)


@pytest.mark.chain
def test_a_full_disk_is_told_and_the_round_goes_on_after_it(
    after_write: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = after_write()
    save = rounds.CLLM.save_pretrained

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rounds.CLLM, "save_pretrained", full)
    shutil.rmtree(loop.round(1).model)
    with pytest.raises(WorkError, match=r"round-1/model.*free some disk space"):
        improve.improve(loop, 1)
    assert loop.done(1, "base")
    assert not loop.round(1).model.exists()
    monkeypatch.setattr(rounds.CLLM, "save_pretrained", save)
    assert len(improve.improve(loop, 1)["rounds"]) == 2


@pytest.mark.chain
def test_a_parent_that_is_gone_or_exchanged_is_told(
    small: RunFolder, whole: Loop, tmp_path: Path
) -> None:
    shutil.copytree(whole.path, tmp_path / "loop", symlinks=True)
    loop = begun(small, tmp_path / "loop", "least=0")
    away = tmp_path / "away"
    loop.round(1).path.rename(away)
    with pytest.raises(InputError, match=r"round-1 is gone, and .*round-2 was trained from it"):
        improve.improve(loop, 3)
    shutil.copytree(whole.round(2).path, loop.round(1).path)
    with pytest.raises(InputError, match="holds another model"):
        improve.improve(loop, 3)
    shutil.rmtree(loop.round(1).path)
    away.rename(loop.round(1).path)
    assert len(improve.improve(loop, 2)["rounds"]) == 3


@pytest.mark.chain
def test_a_loop_that_loses_what_it_had_ends_and_goes_back(
    after_write: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = after_write()
    loop = replace(loop, how=loop.how.model_copy(update={"least": 0.97}))

    def worse(loop: Loop, number: int, name: str) -> None:
        if name == "measure" and number:
            told = dict(loop.notes(0)["measured"])
            loop.note(number, measured=told | {"round": number, "validation_ratio": 0.9})
            loop.timed(number, name, 0.0)
        else:
            rounds.do(loop, number, name)

    told = improve.improve(loop, 3, worse)
    assert "0.900 of what they did in round 0, below 0.97" in told["ended"]
    assert told["best"] == 0
    assert [one["round"] for one in told["rounds"]] == [0, 1]
    assert (loop.path / "best").resolve() == loop.round(0).path.resolve()


@pytest.mark.chain
@pytest.mark.parametrize(
    "changes",
    [("share=1", "repeats=0"), ("judge=false",), ("arrays=true",), ("soft=0.5",),
     ("share=0", "further=0"), ("further=0",), ("share=1", "judge=false"),
     ("share=0.9", "repeats=0"), ("share=0", "real=80"), ("negative_weight=0", "search=false")],
)  # fmt: skip
def test_arms_differ_by_their_guards(
    after_write: Callable[..., Loop], changes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = after_write(*changes)
    heard = {name: _heard(monkeypatch, name) for name in ("base_on", "model_on")}
    if "arrays=true" in changes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rounds, "void_starts", lambda field, *_: field.cloud_ND[:0])
            assert "no place is empty enough" in improve.improve(loop, 1)["ended"]
        monkeypatch.setattr(rounds, "void_starts", lambda field, *_: field.cloud_ND[:9])
    told = improve.improve(loop, 1)["rounds"][1]
    run, parent = loop.round(1), loop.round(0)
    same = run.load_model().hash == parent.load_model().hash
    assert same == ("further=0" in changes)
    if "further=0" not in changes:
        assert read_json(run.model / "training.json")["facts"]["best_step"] > 0
        of_real = 0 if "share=1" in changes else loop.how.real or 300
        for (taught_here,) in heard.values():
            assert len(real_part(taught_here).select("train")) == of_real
    taught = loop.how.taught > 0
    assert (told["kept"] > 0) == taught == (told["texts"]["made"] > 0)
    if "judge=false" in changes:
        assert told["kept"] == len(
            {i.text for i in loop.written(1)} - set(loop.round(0).load_corpus().texts)
        )
    if same and not taught:
        assert run.voids.read_bytes() == parent.voids.read_bytes()
    if "search=false" in changes:
        assert not run.voids.exists()
        kept = [one.notes()["voids"] for one in (run, parent)]
        assert kept[0]["rest"] == kept[1]["rest"]
        assert kept[0].get("chance_score") == kept[1].get("chance_score")


def _stopping_after(last: str) -> Callable[[Loop, int, str], None]:
    def work(loop: Loop, number: int, stage: str) -> None:
        rounds.do(loop, number, stage)
        if stage == last:
            raise KeyboardInterrupt

    return work


def _heard(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Corpus]:
    """What a training of rounds is asked to learn."""
    heard, plain = list[Corpus](), getattr(rounds, name)

    def listening(model: Any, corpus: Corpus, *asked: Any, **how: Any) -> Any:
        heard.append(corpus)
        return plain(model, corpus, *asked, **how)

    monkeypatch.setattr(rounds, name, listening)
    return heard


@pytest.mark.chain
def test_the_command_tells_its_rounds(
    small: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [part for change in SHORT for part in ("--set", change)]
    out = str(tmp_path / "out")
    start = ["improve", "--run", str(small.path), "--out", out, "--rounds", "1"]
    assert command(*start, *words, "--set", "further=0", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["rounds"]) == 2
    assert command(*start, *words, "--set", "further=0") == 0
    shown = capsys.readouterr().out
    assert "best: round" in shown
    assert command(*start, *words, "--set", "share=2") == 2
    assert command(*start, "--scorer", "nowhere") == 2
    assert training_facts(small.model)["hash"] == told["start"]


@pytest.mark.chain
def test_the_study_tells_what_loops_came_to_over_seeds(
    small: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from studies import loop as study
    from studies.loop_told import SHARES, verdicts

    words = ["--json", "--arms", "guarded", "no training", study.AT_ONCE, "--seeds", "2",
             "--rounds", "1", "--decodes", "120", "--measured", "40", "--run", str(small.path),
             "--steps", "20", "--base-steps", "4", "--out", str(tmp_path)]  # fmt: skip
    study.main(words)
    told = json.loads(capsys.readouterr().out)
    assert study.AT_ONCE not in told["arms"], "it has another number of rounds"
    guarded, still = told["arms"]["guarded"], told["arms"]["no training"]
    assert [one["mean"] for one in still["gain_ratio"]] == [1, 1]
    values = [
        [dict(np.load(tmp_path / f"guarded-{seed}" / f"round-{k}" / "measured.npz"))["gain_nats"]
         for k in (0, 1)] for seed in (0, 1)
    ]  # fmt: skip
    first, last = np.mean(values, axis=(0, 2))
    assert guarded["gain_ratio"][1]["mean"] == pytest.approx(last / first)
    assert len(guarded["made"][0]["each"]) == 2
    for name in SHARES:
        bounds = [one["ci"] for one in guarded.get(name, []) if one and "ci" in one]
        assert all(0 <= low <= high <= 1 for low, high in bounds), name
    low, high = guarded["gain_ratio"][1]["ci"]
    assert low < last / first < high
    (less,) = told["gain, less guarded"]["no training"]
    assert less["mean"] == pytest.approx(1 - last / first)
    assert all(0 < step <= 20 for step in guarded["best_step"][0]["each"])
    assert told["found, guarded over no training, at once"]["mine"] == [
        loop_found(tmp_path / f"guarded-{seed}") for seed in (0, 1)
    ]
    found = told["found, guarded over no training"]
    assert found["ratio"] == pytest.approx(
        (sum(found["mine"]) + 0.5) / (sum(found["others"]) + 0.5)
    )
    assert (tmp_path / "loop.png").stat().st_size > 10_000
    assert told["words"] == verdicts(told)
    assert told["words"][1].startswith("no training: holds")
    lower = json.loads(json.dumps(told))
    lower["arms"]["guarded"]["gain_ratio"][1]["ci"] = [0.8, 0.9]
    assert verdicts(lower)[0].startswith("guarded: decays")
    monkeypatch.setattr(rounds, "do", None)  # nothing is done again
    study.main(words)
    assert json.loads(capsys.readouterr().out) == told
    known = tmp_path / "known.json"
    known.write_text(json.dumps(told))
    words[words.index("--arms") + 1 : words.index("--seeds")] = ["no training"]
    study.main([*words, "--beside", str(known)])
    both = json.loads(capsys.readouterr().out)
    assert both["arms"] == told["arms"]
    assert both["gain, less guarded"] == told["gain, less guarded"]
    known.write_text(json.dumps(told | {"decodes": 60}))
    with pytest.raises(SystemExit):
        study.main([*words, "--beside", str(known)])
    assert "--beside has decodes 60, these loops 120" in capsys.readouterr().err


def test_arms_of_another_run_stand_beside_these() -> None:
    from studies.loop_told import beside

    def run(f1: float, **arms: list[float]) -> dict[str, Any]:
        rounds_ = {name: [{"seeds": [1.0, 1.0, 1.0]}, {"seeds": seeds}]
                   for name, seeds in arms.items()}  # fmt: skip
        return {"rounds": 1, "seeds": 3, "first_seed": 0, "decodes": 9, "steps": 1,
                "arms": {name: {"content_f1": [{"mean": f1}], "gain_ratio": values}
                         for name, values in rounds_.items()}}  # fmt: skip

    known = run(0.9, guarded=[1.0, 1.1, 1.2])
    told = beside(run(0.9, arrays=[0.9, 1.0, 1.2]), known)
    assert list(told["arms"]) == ["guarded", "arrays"]
    (less,) = told["gain, less guarded"]["arrays"]
    each = np.array([-0.1, -0.1, 0.0])
    assert less["seeds"] == pytest.approx(each)
    expected = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
    assert less["ci"] == pytest.approx(expected)
    with pytest.raises(InputError, match=r"restore 0\.9000 of content words in round 0, and"):
        beside(run(0.8, arrays=[1.0]), known)


def test_the_study_has_all_decodes_at_once_beside_those_of_rounds(
    small: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies import loop as study
    from studies import loop_told

    asked: list[tuple[int, int]] = []

    def no_round(loop: Loop, rounds_: int) -> None:
        asked.append((loop.how.decodes, rounds_))
        loop.round(0).path.mkdir(exist_ok=True)

    monkeypatch.setattr(study, "improve", no_round)
    for rounds_ in ("3", "5"):
        words = ["--run", str(small.path), "--out", str(tmp_path), "--rounds", rounds_]
        options = study.parser().parse_args([*words, "--decodes", "120"])
        loops = [study.loop_of(arm, 0, options) for arm in ("guarded", study.AT_ONCE)]
    assert asked == [(120, 3), (360, 1), (120, 5), (600, 1)]
    told = {"guarded-0": [0, 2, 4, 5, 5, 6], loops[1].path.name: [0, 3]}
    monkeypatch.setattr(loop_told, "_reached", lambda loop, k: min(k, len(told[loop.path.name])))
    monkeypatch.setattr(
        loop_told, "_told", lambda loop, k: {"withheld_so_far": told[loop.path.name][k]}
    )
    assert loop_told._found(*loops, 5, 1) == (6, 3)
    assert loop_told._found(*loops, 1, 1) == (2, 3)


def loop_found(path: Path) -> int:
    return int(read_json(path / "improve.json")["rounds"][-1]["withheld_so_far"])


@pytest.mark.chain
def test_the_study_tells_of_loops_that_ended_too(after_write: Callable[..., Loop]) -> None:
    from studies.loop_told import summary

    loop = after_write("judge=false")
    save_ideas(loop.candidates(1), [], loop.notes(1)["parent_model"])
    improve.improve(loop, 1)
    assert "no text was written" in loop.notes(1)["ended"]
    arm = summary({"guarded": [loop]}, 2)["arms"]["guarded"]
    assert arm["ended"] == 1
    assert arm["best_step"][0]["each"] == [None], "no training was done"
    assert [one["mean"] for one in arm["gain_ratio"]] == [1, 1, 1]


# ---- on a cluster ------------------------------------------------------------------------


@pytest.mark.chain
def test_rounds_at_a_url_are_those_of_a_folder(
    small: RunFolder, whole: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from cluster import improve as spread
    from cluster import tasks
    from cluster.remote import is_there, read_text

    def here(run: str, reads: Any, makes: Any, work: Any, *_: Any) -> None:
        tasks._task(run, reads, makes, work)

    monkeypatch.setattr(tasks, "on_worker", here)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    out, needs = f"file://{tmp_path}/store/loop", tasks.Needs()
    (tmp_path / "mirror").mkdir()

    def go_on(rounds_: int) -> tuple[Loop, dict[str, Any]]:
        place = spread.Place(f"file://{small.path}", out, tmp_path / "mirror")
        place.bring()
        loop = begun(small, place.here, "least=0")
        place.send()
        return loop, improve.improve(loop, rounds_, partial(place.work, needs=needs))

    send, cut_off = tasks.give_back, set[tuple[str, ...]]()

    def once_half(folder: RunFolder, run: str, parts: list[str]) -> None:
        if tuple(parts) in cut_off:
            send(folder, run, parts)
            return
        cut_off.add(tuple(parts))
        send(folder, run, [part for part in parts if not part.endswith("report.json")])
        raise ConnectionError("the worker is gone")

    monkeypatch.setattr(tasks, "give_back", once_half)
    told: dict[str, Any] = {}
    for _ in range(20):  # killed in each stage, when its parts are there and its notes are not
        with suppress(ConnectionError):
            told = go_on(1)[1]
            break
        shutil.rmtree(tmp_path / "mirror")  # another driver goes on
        (tmp_path / "mirror").mkdir()
    assert len(cut_off) == len(rounds.STAGES) + 1, "measured twice, all else once"
    asked: list[str] = []
    monkeypatch.setattr(tasks, "on_worker", lambda *how: asked.append(how[-1]))
    loop, again = go_on(1)
    assert not asked
    assert again["rounds"] == told["rounds"] == read_json(whole.path / "improve.json")["rounds"][:2]
    assert is_there(f"{out}/round-1/latents")
    assert json.loads(read_text(f"{out}/improve.json") or "")["start"] == loop.start


def test_a_worker_has_the_rounds_that_a_stage_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from cluster import improve as spread
    from cluster import tasks

    asked: list[list[str]] = []
    monkeypatch.setattr(tasks, "on_worker", lambda _, reads, *__: asked.append(reads))
    monkeypatch.setattr(spread, "is_there", lambda _: True)
    place = spread.Place("run", str(tmp_path), tmp_path)
    for number, stage in ((0, "begin"), (1, "write"), (4, "choose"), (2, "measure")):
        place.work(None, number, stage, needs=tasks.Needs())  # type: ignore[arg-type]
    assert asked == [["round-0"], ["round-0", "round-1"],
                     ["round-0", "round-3", "round-4", "round-1/report.json"],
                     ["round-0", "round-1", "round-2"]]  # fmt: skip


@pytest.mark.chain
def test_a_scorer_chooses_among_a_clusters_texts_too(
    small: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("ray")
    from cluster import improve as spread
    from cluster import joining, tasks

    monkeypatch.setattr(tasks, "on_worker", lambda *how: tasks._task(*how[:4]))
    monkeypatch.setattr(joining, "joined", lambda _: nullcontext())
    monkeypatch.setattr(joining, "require_seen", lambda _: None)
    monkeypatch.setenv("CLLM_SCORER_KEY", "secret")
    words = [part for change in [*SHORT, "least=0"] for part in ("--set", change)]
    with stand_in(says("[1]")) as (url, heard):
        spread.main(["--run", str(small.path), "--out", str(tmp_path / "loop"), "--rounds", "1",
                     "--preset", "quick", "--scorer", url, *words])  # fmt: skip
    told = capsys.readouterr()
    assert [one["kept"] for one in json.loads(told.out)["rounds"][1:]] == [1]
    assert {one["key"] for one in heard} == {"Bearer secret"}
    assert "secret" not in told.out + told.err
    assert read_json(tmp_path / "loop" / "improve.json")["scorer"] == url


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_round_is_made_by_tasks_of_a_cluster(small: RunFolder, tmp_path: Path) -> None:
    words = [part for change in SHORT for part in ("--set", change)]
    done = subprocess.run(
        [sys.executable, "-m", "cluster.improve", "--run", str(small.path), "--out",
         str(tmp_path / "loop"), "--rounds", "1", "--preset", "quick", "--address", "local",
         *words, "--set", "share=0", "--set", "least=0"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert [one["round"] for one in told["rounds"]] == [0, 1]
    assert RunFolder(tmp_path / "loop" / "round-1").load_model().hash == told["rounds"][1]["model"]
