"""The stages of a round of self-improvement, one function each, over its run folder.

    do(loop, 1, "write")    # then choose, base, model, embed, voids, measure

Each reads the round before, and what round 0 set up: the judge, the yardstick, the real texts.
"""

# Shapes: n texts.
from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm import discovery, pipeline
from cllm.arms import void_starts, write_from_voids
from cllm.batches import TokenTexts
from cllm.cards import command_line, write_base_card, write_model_card
from cllm.corpus import Corpus
from cllm.critic import Critic
from cllm.critics import make_critic
from cllm.errors import InputError
from cllm.evaluate import nats_without
from cllm.field import Field
from cllm.files import file_digest, read_json, replacing, write_json
from cllm.further import arrays_of, base_on, mixed, model_on, real_part, room_for, with_made
from cllm.ideas import Idea, judge_written, save_ideas
from cllm.improve import Loop, copy_of, timed
from cllm.judge import Judge
from cllm.measured import measure
from cllm.metrics import wilson
from cllm.model import CLLM
from cllm.negatives import KINDS, Negatives
from cllm.pretrain import token_texts
from cllm.ranking import best_first
from cllm.retrieval import TfidfIndex
from cllm.run import RunFolder, training_facts
from cllm.scorer import choose
from cllm.settings import BaseSettings, LoopSettings, RunSettings
from cllm.sphere import ExactIndex, prefix
from cllm.store import Latents
from cllm.writing import field_of, make_plausible

log = logging.getLogger(__name__)

TESTED, LEARNT_FROM = 400, 5000  # texts that the judge is put to; that rubbish is made of
TOKEN_NOISE = 0.1  # where a hard-negative term needs some and the run's own training has none
ARRAYS = 1000  # of a round that goes through no text


@dataclass(frozen=True)
class Stage:
    """A part of a round, and which rounds have it."""

    name: str
    work: Callable[[Loop, int], None]
    first: bool = False  # round 0
    later: bool = True


def do(loop: Loop, number: int, name: str) -> None:
    """One stage of one round, which is noted once it is done."""
    begun = time.perf_counter()
    next(stage for stage in STAGES if stage.name == name).work(loop, number)
    timed(loop, number, name, begun)


# ---- round 0 -----------------------------------------------------------------------------


def begin(loop: Loop, _number: int = 0) -> None:
    """Round 0: a copy of the run, the judge of all rounds, and what gains are counted from."""
    first = loop.round(0)
    if not first.path.exists():
        copy_of(RunFolder(loop.origin), first.path)
    model = first.load_model()
    if not first.latents.exists():
        pipeline.embed_corpus(first)
    if not first.voids.exists():
        discovery.search_voids(first, loop.how.seed, quick=loop.settings.quick_voids)
    # how places are completed was chosen by the run's own judge, which measures here
    voids = first.notes().get("voids", {})
    first.note("voids", {name: fact for name, fact in voids.items() if name != "rest"})
    first.forget("ideas", "review")
    corpus = real_part(first.load_trained_corpus())
    if not loop.yardstick.exists():
        write_json(loop.yardstick, _yardstick(loop, model, corpus))
    make_critic(first, loop.settings, reuse=True, anyway=True)
    loop.note(0, judge=_put_to_the_test(loop, corpus))


def _yardstick(loop: Loop, model: CLLM, corpus: Corpus) -> dict[str, Any]:
    """What real held-out texts cost without a vector, and a nearly real copy of each test text."""
    reference, entropy = loop.round(0).load_reference(model.base), corpus.info.get("entropy_nats")
    told: dict[str, Any] = {}
    for split in ("validation", "test"):
        tokens = token_texts(
            model.base, corpus.select(split).sample(loop.how.measured), model.config.context
        )
        told[split] = nats_without(model, reference, tokens, entropy).tolist()
    rng = np.random.default_rng([loop.how.seed, 21])
    maker = Negatives.of(corpus.select("train").sample(LEARNT_FROM).texts, rng)
    texts = corpus.select("test").sample(loop.how.measured).texts
    edits = [maker.edited(text, rng, KINDS) for text in texts]
    return told | {"edits": [edit and edit[0] for edit in edits]}


def _put_to_the_test(loop: Loop, corpus: Corpus) -> dict[str, float]:
    """Shares of real unseen texts, of nearly real ones and of rubbish that the judge passes.

    Raises:
        InputError: it passes rubbish as it does real texts, so that it would guard nothing.
    """
    judge, texts = judge_of(loop, corpus), corpus.select("test").sample(TESTED).texts
    rng = np.random.default_rng([loop.how.seed, 23])
    maker = Negatives.of(corpus.select("train").sample(LEARNT_FROM).texts, rng)
    kinds = {
        "real": list(texts),
        "edited": [maker.wrong(text, rng) for text in texts],
        "rubbish": [maker.corrupted(text, rng) for text in texts],
    }
    passed = {name: sum(v.valid for v in judge.judge(some)) for name, some in kinds.items()}
    real, rubbish = (wilson(passed[name], len(texts)) for name in ("real", "rubbish"))
    if loop.how.judge and rubbish.high >= real.low:
        raise InputError(
            f"the judge passes {passed['rubbish']} of {len(texts)} corrupted texts, and "
            f"{passed['real']} real ones: it guards nothing; give it more texts, or more time "
            "(a larger --preset), or go on without one: --set judge=false"
        )
    return {name: count / len(texts) for name, count in passed.items()}


def judge_of(loop: Loop, corpus: Corpus) -> Judge:
    """Round 0's critic, which took no part in writing, and what this corpus makes a duplicate.

    Where it learns no reference LM's band: that has chosen what is written (`plausible`). A
    corpus's checker measures, and does not judge here.
    """
    first = loop.round(0)
    base = first.load_base()
    critic = Critic.load(first.critic, base)
    context = first.load_reference(base).model.config.n_positions

    def reality(texts: list[str]) -> Any:  # noqa: ANN401
        names = [str(row) for row in range(len(texts))]
        return critic.logits(TokenTexts.of(names, base.tokenize(texts), base.pad, context))

    train, held_out = corpus.select("train"), real_part(corpus).select("validation")
    return Judge.calibrate(train.ids, train.texts, held_out.texts, critic=reality)


# ---- later rounds ------------------------------------------------------------------------


def write(loop: Loop, number: int) -> None:
    """Texts from the voids of the round before, judged: candidates.parquet."""
    parent, run, how = loop.round(number - 1), loop.round(number), loop.how
    run.path.mkdir(parents=True, exist_ok=True)
    model, corpus = parent.load_model(), parent.load_trained_corpus()
    loop.note(number, round=number, parent=parent.path.name, parent_model=model.hash)
    latents, judge = parent.load_latents(model), judge_of(loop, corpus)
    rng = np.random.default_rng([how.seed, 20, number])
    field = field_of(parent, model, judge, latents, rng, keep=False)
    plausible = None
    if how.judge:  # by round 0's reference LM, of real texts
        first = loop.round(0)
        plausible = make_plausible(first, first.load_model(), real_part(first.load_corpus()))
    written = write_from_voids(model, field, how.decodes, rng, plausible)
    index = ExactIndex(prefix(latents.select("train").vectors_ND, model.config.void_dim))
    ideas = judge_written(model, judge, written, index)
    save_ideas(loop.candidates(number), ideas, model.hash)
    loop.note(number, decodes=written.decodes, duplicate_above=judge.duplicate_above)


def choose_texts(loop: Loop, number: int) -> None:
    """The corpus of the round: its parent's, and the best of what was written.

    Where nothing may be taught, the loop is told to end.
    """
    parent, run = loop.round(number - 1), loop.round(number)
    corpus = parent.load_trained_corpus()
    ideas = loop.written(number)
    kept: list[Idea] = []
    if loop.how.learns:
        known = set(corpus.texts)
        good = [idea for idea in best_first(ideas) if idea.yields or not loop.how.judge]
        first = {idea.text: idea for idea in reversed(good) if idea.text.strip()}
        distinct = [idea for idea in good if first.get(idea.text) is idea]
        new = [idea for idea in distinct if idea.text not in known]
        if loop.how.judge:
            new = apart(new, loop.notes(number)["duplicate_above"])
        if loop.scorer and new:
            asked = new[: loop.asked]
            new = [asked[row] for row in choose(loop.scorer, [idea.text for idea in asked])]
        kept = new[: room_for(corpus, loop.how.share)]
        if not ideas:
            loop.note(number, ended="no text was written from a void")
        elif not new:
            loop.note(number, ended=f"the judge passed none of {len(ideas)} texts")
    texts = [idea.text for idea in kept]
    loop.note(number, kept=len(kept))
    pipeline.keep_corpus(run, with_made(corpus, texts, run.path.name) if texts else corpus)


def apart(ideas: Sequence[Idea], limit: float) -> list[Idea]:
    """Without those that are more like a better one of the same round than `limit`."""
    if len(ideas) < 2:
        return list(ideas)
    texts = [idea.text for idea in ideas]
    similarity_nn, rows_nn = TfidfIndex(texts).nearest(texts, len(texts))
    kept: dict[int, Idea] = {}
    for row, idea in enumerate(ideas):
        near = rows_nn[row][similarity_nn[row] > limit].tolist()
        if not kept.keys() & set(near):
            kept[row] = idea
    return list(kept.values())


def train_base(loop: Loop, number: int) -> None:
    """The parent's base, trained on; with round 0's reference LM and critic."""
    parent, run, how = loop.round(number - 1), loop.round(number), loop.how
    corpus = run.load_corpus()
    facts = dict(training_facts(parent.base))
    with replacing(run.base) as new:
        shutil.copytree(parent.base, new)
        if how.further:
            own = read_json(parent.base / "training.json")["settings"]
            settings = BaseSettings.model_validate(own)
            preset = loop.settings.base
            settings = settings.model_copy(update={
                "loop": _shortened(settings.loop, preset.loop, loop, number),
                "low_rank_loop": _shortened(
                    settings.low_rank_loop, preset.low_rank_loop, loop, number
                ),
                "rank": min(settings.rank, preset.rank),
            })  # fmt: skip
            base = parent.load_base()
            taught = mixed(corpus, how.share if how.learns else 0, how.repeats)
            stages = base_on(base, taught, settings, run.path / "training" / "base")
            base.save(new)
            facts |= pipeline.base_facts(base, real_part(corpus), facts["context"])
            facts["name"] = training_facts(parent.base)["name"]
            told = read_json(new / "training.json")
            write_json(new / "training.json", told | {"identity": run.path.name})
        facts["corpus_hash"] = corpus.hash
        for folder, changed in ((new, facts), (new / "critic", None)):
            told = read_json(folder / "training.json")
            weights = file_digest(new / "reference" / "model.safetensors")
            judged_by = {"judged_by": f"{corpus.hash} {weights}"}
            told["facts"] = told["facts"] | (judged_by if changed is None else changed)
            write_json(folder / "training.json", told | {"command": command_line()})
        write_base_card(new, facts, corpus, how.seed, command_line())
    if how.further:
        for stage in stages:
            stage.checkpoint.remove()
    run.note("base", facts)


def train_model(loop: Loop, number: int) -> None:
    """The parent's CLLM, trained on over this round's base."""
    parent, run, how = loop.round(number - 1), loop.round(number), loop.how
    corpus, base, teacher = run.load_corpus(), run.load_base(), parent.load_model()
    model = parent.load_model()  # one of its own to train on
    model.base, model.config.base_hash = base, base.hash
    told = read_json(parent.model / "training.json")
    facts = told["facts"] | {"corpus_hash": corpus.hash}
    result = None
    if how.further:
        settings = RunSettings.model_validate(told["settings"])
        train = settings.train.model_copy(update={
            "loop": _shortened(settings.train.loop, loop.settings.train.loop, loop, number),
            "negative_weight": how.negative_weight,
            "token_noise": settings.train.token_noise or bool(how.negative_weight) * TOKEN_NOISE,
        })  # fmt: skip
        arrays = _arrays(loop, number, teacher) if how.arrays else None
        if arrays is not None and not len(arrays):
            loop.note(number, ended="no place is empty enough to unfold an array from")
            return
        taught = mixed(corpus, how.share if how.learns else 0, how.repeats)
        result = model_on(
            model, taught, train, run.path / "training" / "model",
            teacher=teacher, soft=how.soft, arrays_nMH=arrays, share=how.share,
        )  # fmt: skip
        facts |= {"steps": result.steps, "best_step": result.best_step,
                  "seconds": round(result.seconds, 1)}  # fmt: skip
    facts |= pipeline.model_facts(model)
    with replacing(run.model) as new:
        model.save_pretrained(new)
        base.tokenizer.save_pretrained(new)
        note = {"identity": run.path.name, "settings": told["settings"], "facts": facts}
        write_json(new / "training.json", note | {"command": command_line()})
        write_model_card(new, facts, corpus, how.seed, command_line(), {})
    if result:
        result.checkpoint.remove()
    run.note("model", facts)
    run.note("seed", how.seed)


def _arrays(loop: Loop, number: int, model: CLLM) -> Any:  # noqa: ANN401 - a tensor
    """Token embeddings unfolded from places in the parent's voids, as they are."""
    field = _field(loop, number, model)
    rng = np.random.default_rng([loop.how.seed, 24, number])
    return arrays_of(model, void_starts(field, ARRAYS, rng))


def _field(loop: Loop, number: int, model: CLLM) -> Field:
    parent = loop.round(number - 1)
    latents: Latents = parent.load_latents(model)
    rng = np.random.default_rng([loop.how.seed, 20, number])
    judge = judge_of(loop, parent.load_trained_corpus())
    return field_of(parent, model, judge, latents, rng, keep=False)


def _shortened(own: LoopSettings, preset: LoopSettings, loop: Loop, number: int) -> LoopSettings:
    """The run's own loop, for a share of the preset's time, at a share of its own rate."""
    return own.model_copy(update={
        "seconds": preset.seconds * loop.how.further, 
        "steps": max(1, round(preset.steps * loop.how.further)),
        "lr": own.lr * loop.how.rate, "plateau": 0.0, "seed": 1000 * loop.how.seed + number,
    })  # fmt: skip


def embed(loop: Loop, number: int) -> None:
    """Vectors of all texts, those of the corpus's new ones included."""
    parent, run = loop.round(number - 1), loop.round(number)
    if _same_space(parent, run):
        with replacing(run.latents) as new:
            shutil.copytree(parent.latents, new)
        return
    pipeline.embed_corpus(run, replace=True)


def search(loop: Loop, number: int) -> None:
    """The voids of this round's space."""
    parent, run = loop.round(number - 1), loop.round(number)
    if _same_space(parent, run):
        with replacing(run.voids) as new:
            shutil.copyfile(parent.voids, new)
        run.note("voids", parent.notes().get("voids", {}))
        return
    discovery.search_voids(run, loop.how.seed, quick=loop.settings.quick_voids)


def _same_space(parent: RunFolder, run: RunFolder) -> bool:
    """Whether neither model nor texts have changed."""
    return (
        training_facts(parent.model)["hash"] == training_facts(run.model)["hash"]
        and parent.load_corpus().hash == run.load_corpus().hash
    )


def measured(loop: Loop, number: int) -> None:
    """What the round did, on real held-out texts and by what it wrote."""
    loop.note(number, measured=measure(loop, number))


STAGES = (
    Stage("begin", begin, first=True, later=False),
    Stage("write", write),
    Stage("choose", choose_texts),
    Stage("base", train_base),
    Stage("model", train_model),
    Stage("embed", embed),
    Stage("voids", search),
    Stage("measure", measured, first=True),
)
