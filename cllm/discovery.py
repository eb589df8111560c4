"""From a trained run to its outcome: voids, ideas, scores, map and report.

Each step writes its own part of the run folder and its section of report.json.
    search_voids(run, seed=0); write_ideas(run, seed=0, n=100); report_run(run, seed=0)
"""

# Shapes: N texts, D bottleneck, K prefix, M shown ideas.
from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

import numpy as np

from cllm import __version__
from cllm.arms import write_all, write_from_voids
from cllm.arrays import TokenArrays
from cllm.base import Generation
from cllm.cards import write_model_card
from cllm.clouds import describe
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.evaluate import Evaluation, evaluate
from cllm.field import Field
from cllm.files import read_json, write_json
from cllm.ideas import (
    Idea,
    funnel,
    judge_written,
    lift,
    load_ideas,
    places_of,
    save_ideas,
)
from cllm.map import draw_map
from cllm.ranking import best_first
from cllm.report import write_report
from cllm.review import reviewed
from cllm.run import RunFolder, training_facts
from cllm.scoreboard import IdeaRow, VoidRow
from cllm.scorer import Scorer, choose
from cllm.settling import USUAL, Correction, with_limit
from cllm.sphere import ExactIndex, prefix
from cllm.subjects import Kind, amid, around, kind_of, require_groups, subjects_of
from cllm.unaided import unaided
from cllm.void_balls import void_around, written_voids
from cllm.void_files import load_voids, save_voids, standing_voids
from cllm.voids import Void, VoidSearch, VoidSettings, find_voids
from cllm.writing import field_of, make_judge, make_plausible

log = logging.getLogger(__name__)


def search_voids(
    run: RunFolder,
    seed: int,
    *,
    quick: bool = False,
    find: Callable[..., VoidSearch] = find_voids,
) -> None:
    """Find voids among the training texts on the sphere of the prefix.

    `find` is `find_voids`, on this machine or, as `cluster/` has it, over several.
    """
    begun = time.perf_counter()
    model, corpus = run.load_model(), run.load_trained_corpus()
    latents, k = run.load_latents(model), model.config.void_dim
    train = latents.select("train")
    cloud_NK = prefix(train.vectors_ND, k)
    held_out_MK = prefix(latents.select("validation").vectors_ND, k)
    rng = np.random.default_rng([seed, 1])
    how = VoidSettings.quick() if quick else VoidSettings()
    log.info("searching voids among %d texts and in null clouds", len(train))
    search = find(cloud_NK, how, rng, held_out_MK)
    if run.ideas.exists():
        log.info("ideas of earlier voids are removed; `cllm generate` writes new ones")
        run.ideas.unlink()
    run.forget("ideas")
    save_voids(run.voids, search.voids, train.ids, model.hash)
    facts: dict[str, Any] = {
        "count": sum(v.stands for v in search.voids),
        "enclosed": len(search.enclosed),
        "radius_ratio": search.radius_ratio,
        "p_value": search.p_value,
        "p_values": dict(search.p_values),
        "chance_score": search.chance,
        "scores": [void.score for void in search.enclosed],
        "null_scores": {kind: [max(s, 0.0) for s in some] for kind, some in search.null_scores},
        "sheet_dim": search.sheet_dim,
        "void_dim": k,
        "quick": quick,
    } | describe(ExactIndex(cloud_NK), rng, subjects_of(corpus, train.ids))
    known = {name: v for name, v in facts.items() if v is not None and v != np.inf}
    run.note("voids", known)
    run.time("voids", begun)


def found_voids(
    run: RunFolder, groups: str | None = None, group: Sequence[str] = ()
) -> list[VoidRow]:
    """The run's voids as JSON and page show them, emptiest first; none before a search.

    Those within one group, between two or across more, or with a group on their rim, if asked for.
    """
    if not run.voids.exists():
        return []
    model, corpus = run.load_model(), run.load_trained_corpus()
    ids = run.load_latents(model).select("train").ids
    title_of = dict(zip(corpus.ids, corpus.titles, strict=True))
    text_of = dict(zip(corpus.ids, corpus.texts, strict=True))
    subjects = subjects_of(corpus, ids) or ("",) * len(ids)
    rows: list[VoidRow] = []
    for void in load_voids(run.voids, ids, model.hash):
        amidst = around(subjects, void.rim)
        if not amid(amidst, groups, group):
            continue
        rim = [{"id": ids[row], "title": title_of[ids[row]] or text_of[ids[row]]}
               for row in void.rim]  # fmt: skip
        rows.append({
            "id": void.id, "radius": void.radius, "score": void.score, "p_value": void.p_value,
            "enclosed": void.enclosed, "stands": void.stands, "written": void.written,
            "groups": amidst, "kind": kind_of(amidst), "rim": rim,  # type: ignore[typeddict-item]
        })  # fmt: skip
    return rows


def require_kind(run: RunFolder, groups: str | None, group: Sequence[str] = ()) -> None:
    """Refuse what is no kind of surroundings or no group, and both where no groups are known.

    Raises:
        InputError: as said.
    """
    if groups is None and not group:
        return
    if groups is not None and groups not in get_args(Kind):
        raise InputError(f"--groups is {groups!r}; it must be {', '.join(get_args(Kind))}")
    corpus = run.load_corpus()
    require_groups(group, subjects_of(corpus, corpus.ids))


def write_ideas(
    run: RunFolder, seed: int, budget: int, how: Correction = USUAL, *, controls: bool = True
) -> list[Idea]:
    """Every arm's texts, of at most `budget` decodes each, written and judged: ideas.parquet.

    Without `controls`, those of the void arm alone.
    """
    begun = time.perf_counter()
    model, corpus = run.load_model(), run.load_trained_corpus()
    latents = run.load_latents(model)
    train = latents.select("train")
    known = load_voids(run.voids, train.ids, model.hash) if run.voids.exists() else ()
    searched = [void for void in known if not void.written]
    log.info("writing and judging texts, %d decodes an arm", budget)
    judge = make_judge(run, model, corpus)
    rng = np.random.default_rng([seed, 2])
    field = field_of(run, model, judge, latents, rng)
    train_texts = corpus.select("train").texts
    plausible = make_plausible(run, model, corpus)
    how = with_limit(how, model, latents.select("validation").vectors_ND)
    if controls:
        base = unaided(model, train_texts)
        written = write_all(model, field, train_texts, budget, rng, plausible, base, how)
    else:
        written = {"void": write_from_voids(model, field, budget, rng, plausible, how)}
    index = ExactIndex(prefix(train.vectors_ND, model.config.void_dim))
    ideas, more = list[Idea](), list[Void]()
    changed = {name: value for name, value in asdict(how).items() if value != getattr(USUAL, name)}
    notes: dict[str, Any] = {}
    placed: dict[str, tuple[list[Idea], list[str]]] = {}
    for arm, texts in written.items():
        found, places = judge_written(model, judge, texts, index), texts.patches(field)
        if plausible and found:
            share_n = plausible.shares([idea.text for idea in found])
            found = [
                replace(one, plausibility=float(x)) for one, x in zip(found, share_n, strict=True)
            ]
        spent: dict[str, Any] = {"decodes": texts.decodes, "starts": texts.starts,
                                 "likely": texts.likely}  # fmt: skip
        if changed and texts.points_nD is not None:
            spent["correction"] = changed
        if arm == "void":
            found, more = _in_voids(field, found, searched)
        notes[arm] = spent | funnel(found, rng, places) | _withheld(found, corpus)
        placed[arm] = found, places
        ideas += found
    if {"void", "density"} <= placed.keys():
        notes["void"] |= lift(*placed["void"], *placed["density"], rng)
    if searched or more:
        save_voids(run.voids, [*searched, *more], train.ids, model.hash)
    save_ideas(run.ideas, ideas, model.hash)
    run.note("ideas", notes)
    run.time("generate", begun)
    return ideas


def let_choose(run: RunFolder, ideas: Sequence[Idea], scorer: Scorer, most: int) -> list[Idea]:
    """Have another model choose among the `most` best new texts; kept with the ideas."""
    candidates = [idea for idea in best_first(ideas) if idea.yields][:most]
    if not candidates:
        log.warning("no text is new and sound: the scorer was not asked")
    rows = choose(scorer, [idea.text for idea in candidates])
    if candidates and not rows:
        log.warning("the scorer chose none of %d texts", len(candidates))
    place_of = {candidates[row].id: place for place, row in enumerate(rows, 1)}
    chosen = [replace(idea, chosen=place_of.get(idea.id)) for idea in ideas]
    save_ideas(run.ideas, chosen, run.load_latents().model_hash)
    return chosen


def _in_voids(
    field: Field, ideas: Sequence[Idea], searched: Sequence[Void]
) -> tuple[list[Idea], list[Void]]:
    """Ideas with the void of each, and the voids around new ones that no searched one holds."""
    dim = field.cloud_ND.shape[1]
    new = best_first([idea for idea in ideas if idea.yields])
    written = written_voids(field, places_of(new, dim), searched)
    standing = [void for void in searched if void.stands]
    ids = void_around(places_of(ideas, dim), [*standing, *written])
    return [replace(idea, void_id=number) for idea, number in zip(ideas, ids, strict=True)], written


def _withheld(ideas: Sequence[Idea], corpus: Corpus) -> dict[str, int]:
    """Built-in recipes: how many texts fall into combinations that were never shown."""
    if "withheld" not in corpus.info:
        return {}
    return {"withheld": sum(i.yields and corpus.withheld_pair(i.text) is not None for i in ideas)}


def evaluate_run(
    run: RunFolder, seed: int, limit: int, split: str = "test", beams: int = 1,
    known: TokenArrays | None = None,
) -> Evaluation:  # fmt: skip
    """Measure reconstruction on held-out texts; the report takes the test split, greedy.

    `known` token embeddings are not worked out again.
    """
    if split not in ("validation", "test"):
        raise InputError(f"no held-out split {split!r}; there are validation and test")
    begun = time.perf_counter()
    model, corpus = run.load_model(), run.load_trained_corpus()
    model.base.known = known
    reference = run.load_reference(model.base)
    rng = np.random.default_rng([seed, 3])
    latents = run.load_latents(model)
    log.info("restoring held-out texts from their vectors")
    how = Generation(beams=beams)
    result = evaluate(model, reference, corpus, latents, rng, split, limit, how)
    result.numbers.update(_training_times(run, corpus))
    if split == "test" and beams == 1 and not run.shipped:
        run.note("reconstruction", result.numbers)
        write_json(
            run.path / "reconstructions.json", {"model": model.hash, "pairs": result.pairs[:20]}
        )
        told = read_json(run.model / "training.json")
        write_model_card(
            run.model, run.notes().get("model", told["facts"]), corpus,
            told["settings"]["seed"], told.get("command", "an older version"), result.numbers,
        )  # fmt: skip
        run.time("evaluate", begun)
    return result


def _training_times(run: RunFolder, corpus: Corpus) -> dict[str, float]:
    """Seconds that CLLM and reference LM were trained; a gain needs them equal."""
    facts = {"model": training_facts(run.model), "reference": training_facts(run.reference)}
    times = {
        f"{k}_seconds": float(told["seconds"]) for k, told in facts.items() if "seconds" in told
    }
    reference, model = times.get("reference_seconds", 0.0), times.get("model_seconds", 0.0)
    if reference < 0.9 * model and "entropy_nats" not in corpus.info:
        log.warning(
            "the reference LM was trained for %.0f s, the CLLM for %.0f s: the gain may be too "
            "large; train it as long with `cllm pretrain --reference-seconds`", reference, model,
        )  # fmt: skip
    return times


def report_run(run: RunFolder, seed: int | None = None) -> dict[str, Any]:
    """map.png, report.html and the whole of report.json."""
    model = run.load_model()
    latents, k = run.load_latents(model), model.config.void_dim
    train = latents.select("train")
    ideas = best_first(load_ideas(run.ideas, model.hash)) if run.ideas.exists() else []
    voids = standing_voids(run, model.hash, train)
    shown = [idea for idea in ideas if idea.arm == "void"][:50]
    places_MK = prefix(places_of(shown, model.config.dim), k) if shown else None
    draw_map(
        run.path / "map.png", prefix(train.vectors_ND, k), voids[:40],
        ideas_MK=places_MK, verdicts=[idea.verdict.label for idea in shown],
    )  # fmt: skip
    corpus = run.load_trained_corpus()
    notes = run.notes() | {"versions": versions()}
    notes.pop("review", None)  # of marks that may be gone
    if told := reviewed(run, np.random.default_rng([0, 4])):
        notes["review"] = told
    if seed is not None:  # at the end of a chain
        notes |= {"seed": seed, "peak_memory_gb": peak_memory()}
    steps = {k: v for k, v in notes.get("seconds", {}).items() if k != "total"}
    notes["seconds"] = steps | {"total": round(sum(steps.values()), 2)}
    pairs = run.path / "reconstructions.json"
    told = read_json(pairs) if pairs.exists() else {}
    of_this_model = told.get("model") == model.hash
    write_report(
        run.path,
        notes,
        ideas=idea_rows(ideas, dict(zip(corpus.ids, corpus.texts, strict=True))),
        reconstructions=[(a, b) for a, b in told["pairs"]] if of_this_model else [],
        metrics=run.metrics(),
        places=found_voids(run),
    )
    return run.notes()


def idea_rows(ideas: Sequence[Idea], text_of: dict[str, str]) -> list[IdeaRow]:
    """Ideas, best first, as they are shown; of good ones and of the rest, those from voids first.

    What another model chose comes before all of them. With their nearest texts.
    """
    ordered = sorted(
        ideas, key=lambda idea: (idea.chosen is None, not idea.yields, idea.arm != "void")
    )
    return [
        IdeaRow(
            text=idea.text,
            verdict=idea.verdict.label,
            reasons=idea.verdict.reasons,
            nearest=[(text_of.get(i, i), s) for i, s in idea.verdict.nearest],
            arm=idea.arm,
            void_id=idea.void_id,
            novelty=idea.verdict.novelty,
            validity=idea.verdict.validity,
            round_trip=idea.round_trip,
            hit=idea.hit,
            plausibility=idea.plausibility,
            chosen=idea.chosen,
        )
        for idea in ordered
    ]


def peak_memory() -> float:
    """The most main memory this process has had, in GB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes * (1024 if sys.platform != "darwin" else 1) / 1e9, 2)


def versions() -> dict[str, str]:
    """What made these numbers."""
    from importlib.metadata import version

    names = ("torch", "transformers", "tokenizers", "numpy", "faiss-cpu", "pymilvus", "milvus-lite")
    return {"cllm": __version__} | {name: version(name) for name in names}
