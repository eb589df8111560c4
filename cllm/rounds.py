"""The stages of a round of self-improvement, one function each, over its run folder.

    do(loop, 1, "write")    # then choose, base, model, embed, voids, measure

Each reads the round before, and what round 0 set up: the judge, the yardstick, the real texts.
"""

# Shapes: n texts or places, M held-out texts, D bottleneck.
from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm import discovery, pipeline
from cllm.arms import void_starts, write_from_voids
from cllm.artefacts import settings_of
from cllm.cards import command_line, write_base_card, write_model_card
from cllm.files import file_digest, read_json, replacing, write_json
from cllm.further import Arrays, base_on, model_on
from cllm.ideas import Idea, judge_written, save_ideas
from cllm.improve import Loop
from cllm.made import mixed, real_part, room_for, with_made
from cllm.measured import measure
from cllm.model import CLLM
from cllm.ranking import best_first
from cllm.retrieval import TfidfIndex
from cllm.round_zero import begin, field_for, judge_of, plausible_for
from cllm.run import RunFolder, training_facts
from cllm.scorer import choose
from cllm.settings import BaseSettings, LoopSettings, RunSettings
from cllm.sphere import ExactIndex, prefix

log = logging.getLogger(__name__)

ARRAYS = 1000  # of a round that goes through no text
EVALUATIONS = 3  # of a training at most: it is short


def do(loop: Loop, number: int, stage: str) -> None:
    """One stage of one round, which is noted once it is done; one that ended the loop is not."""
    begun = time.perf_counter()
    if loop.notes(number).get("ended"):
        loop.note(number, ended=None)  # by what an earlier try found
    STAGES[stage][0](loop, number)
    if not loop.notes(number).get("ended"):
        loop.timed(number, stage, begun)


def write(loop: Loop, number: int) -> None:
    """Texts from the voids of the round before, judged: candidates.parquet."""
    parent, run, how = loop.round(number - 1), loop.round(number), loop.how
    run.path.mkdir(parents=True, exist_ok=True)
    model, corpus = parent.load_model(), parent.load_trained_corpus()
    loop.note(number, round=number, parent=parent.path.name, parent_model=model.hash)
    judge = judge_of(loop, corpus, corpus.select("validation").texts)
    field, rng = field_for(loop, number, model), np.random.default_rng([how.seed, 20, number])
    written = write_from_voids(model, field, how.decodes, rng, plausible_for(loop))
    index = ExactIndex(prefix(field.cloud_ND, model.config.void_dim))
    ideas = judge_written(model, judge, written, index)
    save_ideas(loop.candidates(number), ideas, model.hash)
    passed = sum(idea.verdict.valid for idea in ideas)
    if ideas and passed == len(ideas):
        log.warning("the judge passed all %d texts: it guards little in this round", passed)
    loop.note(number, decodes=written.decodes, duplicate_above=judge.duplicate_above,
              valid=passed)  # fmt: skip


def choose_texts(loop: Loop, number: int) -> None:
    """The corpus of the round: its parent's, and the best of what was written.

    Where nothing may be taught, the loop is told to end.
    """
    parent, run, how = loop.round(number - 1), loop.round(number), loop.how
    corpus, ideas = parent.load_trained_corpus(), loop.written(number)
    kept: list[Idea] = []
    if how.taught:
        known = set(corpus.texts)
        distinct = {idea.text: idea for idea in reversed(ideas) if idea.text.strip()}
        new = [idea for idea in reversed(distinct.values()) if idea.text not in known]
        if how.judge:
            good = best_first([idea for idea in new if idea.yields])
            limit = loop.notes(1)["duplicate_above"]  # that of real texts alone
            new = apart(good, limit, real_part(corpus).select("train").texts)
        if loop.scorer and new:
            asked = new[: loop.asked]
            new = [asked[row] for row in choose(loop.scorer, [idea.text for idea in asked])]
            if not new:
                loop.note(number, ended=f"the scorer chose none of {len(asked)} texts")
        elif not new:
            loop.note(number, ended=_why_none(ideas, judge=how.judge))
        kept = new[: room_for(corpus, how.share, how.real)]
    loop.note(number, kept=len(kept))
    texts = [idea.text for idea in kept]
    pipeline.keep_corpus(run, with_made(corpus, texts) if texts else corpus)


def _why_none(ideas: Sequence[Idea], *, judge: bool) -> str:
    if not ideas:
        return "no text was written from a void"
    if not judge:
        return f"none of {len(ideas)} texts is new"
    counts = {
        "passed by the judge": sum(idea.verdict.valid for idea in ideas),
        "new": sum(not idea.verdict.duplicate for idea in ideas),
        "back at its place": sum(bool(idea.hit) for idea in ideas),
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"none of {len(ideas)} texts is all of what is taught ({told})"


def apart(ideas: Sequence[Idea], limit: float, real: Sequence[str]) -> list[Idea]:
    """Without those that are more like a better one of the same round than `limit`.

    `real`: training texts, by which both were found.
    """
    if len(ideas) < 2:
        return list(ideas)
    texts = [idea.text for idea in ideas]
    similarity_nn, rows_nn = TfidfIndex(texts, real).nearest(texts, len(texts))
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
    facts = training_facts(parent.base) | {"corpus_hash": corpus.hash}
    base, stages = parent.load_base(), []
    if how.further:
        settings = settings_of(parent.base, BaseSettings)
        preset = loop.settings.base
        settings = settings.model_copy(update={
            "loop": _shortened(settings.loop, preset.loop, loop, number),
            "low_rank_loop": _shortened(
                settings.low_rank_loop, preset.low_rank_loop, loop, number
            ),
        })  # fmt: skip
        taught = mixed(corpus, how.taught, how.repeats, how.real)
        context = int(training_facts(parent.model)["context"])
        stages = base_on(base, taught, settings, run.path / "training" / "base", context)
        facts |= pipeline.base_facts(base, real_part(corpus), facts["context"])
        facts |= {"corpus_hash": corpus.hash, "name": training_facts(parent.base)["name"]}
    with replacing(run.base) as new:
        shutil.copytree(parent.base, new)
        base.save(new)
        _note_facts(new, facts)
        weights = file_digest(new / "reference" / "model.safetensors")
        _note_facts(new / "critic", {"judged_by": f"{corpus.hash} {weights}"})
        write_base_card(new, facts, corpus, how.seed, command_line())
    for stage in reversed(stages):  # the first one is needed to go on with the second
        stage.checkpoint.remove()
    run.note("base", facts)


def _note_facts(folder: Path, facts: dict[str, Any]) -> None:
    told = read_json(folder / "training.json")
    told |= {"facts": told["facts"] | facts, "command": command_line()}
    write_json(folder / "training.json", told)


def train_model(loop: Loop, number: int) -> None:
    """The parent's CLLM, trained on over this round's base."""
    parent, run, how = loop.round(number - 1), loop.round(number), loop.how
    corpus, base, teacher = run.load_corpus(), run.load_base(), parent.load_model()
    model = parent.load_model()  # one of its own to train on
    model.base, model.config.base_hash = base, base.hash
    told = read_json(parent.model / "training.json")
    result = None
    if how.further:
        own = settings_of(parent.model, RunSettings).train
        train = own.model_copy(update={
            "loop": _shortened(own.loop, loop.settings.train.loop, loop, number),
            "negative_weight": max(own.negative_weight, how.negative_weight),
            "swaps": 0.0,  # new subjects are to come from voids
        })  # fmt: skip
        arrays = None
        if how.arrays:
            places_nD = _empty_places(loop, number, teacher)
            if not len(places_nD):
                loop.note(number, ended="no place is empty enough to unfold an array from")
                return
            arrays = Arrays.of(teacher, places_nD)
        result = model_on(
            model, mixed(corpus, how.taught, how.repeats, how.real), train,
            run.path / "training" / "model", teacher=teacher, soft=how.soft, arrays=arrays,
            share=how.share,
        )  # fmt: skip
        told |= {"further": train.model_dump()}
        told["facts"] |= {"steps": result.steps, "best_step": result.best_step,
                          "seconds": round(result.seconds, 1)}  # fmt: skip
    facts = told["facts"] | pipeline.model_facts(model) | {"corpus_hash": corpus.hash}
    with replacing(run.model) as new:
        model.save_pretrained(new)
        base.tokenizer.save_pretrained(new)
        note = told | {"identity": run.path.name, "facts": facts, "command": command_line()}
        write_json(new / "training.json", note)
        write_model_card(new, facts, corpus, how.seed, command_line(), {})
    if result:
        result.checkpoint.remove()
    run.note("model", facts)
    run.note("seed", how.seed)


def _empty_places(loop: Loop, number: int, model: CLLM) -> NDArray[np.float32]:
    """Places in the parent's voids, as they are, (n, D)."""
    rng = np.random.default_rng([loop.how.seed, 24, number])
    return void_starts(field_for(loop, number, model), ARRAYS, rng)


def _shortened(own: LoopSettings, preset: LoopSettings, loop: Loop, number: int) -> LoopSettings:
    """The run's own loop, for a share of the preset's time, at a share of its own rate."""
    limits = preset.for_share(loop.how.further)
    return own.model_copy(update={
        "seconds": limits.seconds, "steps": limits.steps,
        "lr": own.lr * loop.how.rate, "plateau": 0.0, "seed": 1000 * loop.how.seed + number,
        "evaluations": min(own.evaluations, EVALUATIONS),
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
    """The voids of this round's space; texts are written from any place that is one."""
    parent, run = loop.round(number - 1), loop.round(number)
    if _same_space(parent, run):
        if parent.voids.exists():
            with replacing(run.voids) as new:
                shutil.copyfile(parent.voids, new)
        run.note("voids", parent.notes()["voids"])
        return
    if not loop.how.search:
        known = parent.notes()["voids"]
        run.note("voids", {name: known[name] for name in ("chance_score", "rest") if name in known})
        return
    discovery.search_voids(run, loop.how.seed, quick=loop.settings.quick_voids)
    rest = loop.round(0).notes()["voids"]["rest"]
    run.note("voids", run.notes()["voids"] | {"rest": rest})


def _same_space(parent: RunFolder, run: RunFolder) -> bool:
    """Whether neither model nor texts have changed."""
    same = training_facts(parent.model)["hash"] == training_facts(run.model)["hash"]
    return bool(same) and parent.load_corpus().hash == run.load_corpus().hash


def take_measures(loop: Loop, number: int) -> None:
    """What the round did, on real held-out texts and by what it wrote."""
    loop.note(number, measured=measure(loop, number))


# what does it, and which parts of the round's folder it leaves beside its notes
STAGES: dict[str, tuple[Callable[[Loop, int], None], tuple[str, ...]]] = {
    "begin": (begin, ("corpus.parquet", "base", "model", "latents", "voids.parquet",
                      "yardstick.json")),
    "write": (write, ("candidates.parquet",)),
    "choose": (choose_texts, ("corpus.parquet",)),
    "base": (train_base, ("base",)),
    "model": (train_model, ("model",)),
    "embed": (embed, ("latents", "milvus.db")),
    "voids": (search, ("voids.parquet",)),
    "measure": (take_measures, ("measured.npz",)),
}  # fmt: skip
FIRST, LATER = ("begin", "measure"), tuple(STAGES)[1:]
