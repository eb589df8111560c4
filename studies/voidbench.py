"""VoidBench: do texts written from voids beat those from the controls? `cllm study voidbench`.

Arms, funnel, lift, withheld and later fill, and plausibility, for run folders or for any object
with `encode(texts)` and `decode(vectors)`:
    cllm study voidbench --json --runs runs/a runs/b runs/c
    cllm study voidbench --json --model my_package.my_module:load --corpus corpus.parquet
Intervals are over models and, within each, over places. Goes on where it stopped.
"""

# Shapes: N texts, D coordinates, K of the prefix.
from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from cllm import discovery
from cllm.arms import Autoencoder, Field, Plausible, Written, near_copies, write_arms
from cllm.console import one_line_errors, set_up_logging
from cllm.content import content_items
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.files import digest, read_json, write_json
from cllm.ideas import Idea, judge_written, unaided
from cllm.judge import Judge
from cllm.retrieval import TfidfIndex
from cllm.run import RunFolder
from cllm.scoreboard import ARMS
from cllm.sphere import ExactIndex, prefix, unit
from cllm.voids import VoidSettings, find_voids
from studies.pooling import Row, summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """One trained autoencoder with the corpus it was trained on."""

    name: str
    identity: str  # of the weights and the corpus; results kept of another are not used
    model: Autoencoder
    corpus: Corpus
    void_dim: int
    judge: Judge
    plausible: Plausible | None = None
    alone: Callable[[int, int], Written] | None = None  # the base arm: texts wanted, seed


# ---- one model ---------------------------------------------------------------------------


def trial(subject: Subject, budget: int, seed: int, search: VoidSettings) -> dict[str, Any]:
    """Facts of the void search, and every arm's texts with what they are worth."""
    rng = np.random.default_rng([seed, 5])
    corpus, model = subject.corpus, subject.model
    train_texts = corpus.select("train").texts
    cloud_ND, held_out_MD = (
        unit(model.encode(list(corpus.select(split).texts))) for split in ("train", "validation")
    )
    cloud_NK, held_out_MK = (prefix(x, subject.void_dim) for x in (cloud_ND, held_out_MD))
    found = find_voids(cloud_NK, search, rng, held_out_MK)
    if found.chance is None or not np.isfinite(found.chance):
        raise InputError("too few null clouds to say what is a void; give --nulls 19 or more")
    field = Field.of(cloud_ND, held_out_MD, subject.void_dim, found.chance, rng)
    written = write_arms(model, field, budget, rng, subject.plausible)
    written["copy"] = near_copies(train_texts, budget // 2, rng).only(subject.plausible)
    if subject.alone:
        written["base"] = subject.alone(budget // 2, seed).only(subject.plausible)
    voids = [void for void in found.voids if void.stands]
    index, worth = ExactIndex(cloud_NK), Worth.of(corpus)
    rows: list[Row] = []
    for arm in ARMS:
        if arm in written:
            rows += worth.rows(judge_written(model, subject.judge, written[arm], index, voids))
    return {
        "voids": len(voids), "radius_ratio": found.radius_ratio, "p_value": found.p_value,
        "chance_score": found.chance, "void_dim": subject.void_dim,
        "later_by_chance": worth.later_share,
        "decodes": {arm: texts.decodes for arm, texts in written.items()},
        "crowding": _medians(field, written), "rows": rows,
    }  # fmt: skip


def _medians(field: Field, written: Mapping[str, Written]) -> dict[str, dict[str, float]]:
    """Median score, d_k and crowding of the places of each arm: what the controls share."""
    told: dict[str, dict[str, float]] = {}
    for arm, texts in written.items():
        if texts.points_nD is not None and len(texts.points_nD):
            seen = field.look(texts.points_nD)
            values = {"score": seen.score_n, "d_k": seen.dk_n, "crowding": seen.crowding_n}
            told[arm] = {name: float(np.median(x_n)) for name, x_n in values.items()}
    return told


@dataclass(frozen=True)
class Worth:
    """What a text is worth beside its verdict: facts of the corpus that no arm has seen."""

    train: TfidfIndex
    later: TfidfIndex | None
    later_share: float  # of held-out texts among all: what chance gives the later fill
    withheld: frozenset[tuple[str, str]] | None
    pairs: PairCounts

    @classmethod
    def of(cls, corpus: Corpus) -> Worth:
        """Held-out texts are those of the test split."""
        train, test = corpus.select("train").texts, corpus.select("test").texts
        pairs = corpus.info.get("withheld")
        return cls(
            TfidfIndex(train),
            TfidfIndex(test) if test else None,
            len(test) / max(1, len(test) + len(train)),
            None if pairs is None else frozenset((pair[0], pair[1]) for pair in pairs),
            PairCounts.of(test),
        )

    def rows(self, ideas: Sequence[Idea]) -> list[Row]:
        """The texts of an arm, as JSON."""
        if self.later is None:
            return [self._row(idea) for idea in ideas]
        texts = [idea.text for idea in ideas]
        near_n, later_n = (index.nearest(texts)[0][:, 0] for index in (self.train, self.later))
        return [
            self._row(idea) | {"later": bool(idea.yields and nearer)}
            for idea, nearer in zip(ideas, later_n > near_n, strict=True)
        ]

    def _row(self, idea: Idea) -> Row:
        row: Row = {
            "arm": idea.arm, "text": idea.text, "valid": idea.verdict.valid,
            "duplicate": idea.verdict.duplicate, "hit": idea.hit, "yields": idea.yields,
            "place": idea.id if idea.void_id is None else f"void {idea.void_id}",
        }  # fmt: skip
        if self.withheld is not None:
            from cllm.recipes import combination

            pair = combination(idea.text)
            row["withheld"] = bool(idea.yields and pair in self.withheld)
            row["combination"] = list(pair) if row["withheld"] and pair else None
        pmi = self.pairs.pmi(content_items(idea.text))
        return row if pmi is None else row | {"pmi": pmi}


@dataclass(frozen=True)
class PairCounts:
    """In how many texts each content item and each pair of them stands."""

    texts: int
    single: Counter[str]
    double: Counter[tuple[str, str]]

    @classmethod
    def of(cls, texts: Sequence[str]) -> PairCounts:
        """Counted over these texts."""
        items = [sorted(content_items(text)) for text in texts]
        double = Counter(pair for each in items for pair in combinations(each, 2))
        return cls(len(texts), Counter(item for each in items for item in each), double)

    def pmi(self, items: frozenset[str]) -> float | None:
        """Mean over pairs of log p(a, b) / p(a) p(b), half a text added to each count."""
        known = sorted(item for item in items if item in self.single)
        found = [
            np.log((self.double[a, b] + 0.5) * (self.texts + 0.5))
            - np.log((self.single[a] + 0.5) * (self.single[b] + 0.5))
            for a, b in combinations(known, 2)
        ]
        return float(np.mean(found)) if found else None


# ---- the command -------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Try every subject that was not tried yet, and print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        search = VoidSettings.quick() if options.quick else VoidSettings()
        search = search.model_copy(update={"nulls": options.nulls})
        if bool(options.model) == bool(options.runs):
            raise InputError("give either --runs with run folders or --model with --corpus")
        trials = [kept(subject, options, search) for subject in subjects(options)]
        found = summary(trials, np.random.default_rng(0))
        facts = (
            "voids",
            "radius_ratio",
            "p_value",
            "chance_score",
            "void_dim",
            "crowding",
            "later_by_chance",
        )
        found["each"] = [{name: t[name] for name in facts} for t in trials]
        write_json(options.out / "voidbench.json", found)
        print(json.dumps(found))


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """What the options name, one at a time."""
    if options.model:
        yield own(options)
    for path in options.runs or ():
        yield of_run(RunFolder(path), options.void_dim)


def kept(subject: Subject, options: argparse.Namespace, search: VoidSettings) -> dict[str, Any]:
    """The subject's trial, from the output folder where it is there already."""
    place = options.out / f"{subject.name}.json"
    made_from = digest(
        subject.identity,
        str(subject.void_dim),
        str(options.budget),
        str(options.seed),
        search.model_dump_json(),
    )
    if place.exists() and read_json(place)["made_from"] == made_from:
        return read_json(place)
    log.info("%s: %d decodes an arm", subject.name, options.budget)
    found = {"made_from": made_from} | trial(subject, options.budget, options.seed, search)
    write_json(place, found)
    return found


def of_run(run: RunFolder, void_dim: int = 0) -> Subject:
    """A trained run folder; `void_dim` 0 is the model's own."""
    model, corpus = run.load_model(), run.load_trained_corpus()
    lengths = [len(row) for row in model.tokens(list(corpus.select("train").texts[:2000])).rows]

    def alone(count: int, seed: int) -> Written:
        drawn = np.random.default_rng(seed).choice(lengths, count).tolist()
        return unaided(model.base, model.config.context, drawn, seed)

    return Subject(
        run.path.resolve().name, digest(model.hash, corpus.hash), model, corpus,
        void_dim or model.config.void_dim, discovery.make_judge(run, model, corpus),
        discovery.make_plausible(run, model, corpus), alone,
    )  # fmt: skip


def own(options: argparse.Namespace) -> Subject:
    """The object that `--model` names; validity is the checker's or, without one, repetition's."""
    module, _, name = options.model.partition(":")
    try:
        make: Callable[[], Autoencoder] = getattr(import_module(module), name)
        model = make()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--model {options.model}: {error}; give MODULE:FUNCTION, where FUNCTION() returns an "
            "object with encode(texts) and decode(vectors)"
        ) from error
    if not options.corpus:
        raise InputError("--model needs --corpus, the texts that the model was trained on")
    corpus = Corpus.load(options.corpus)
    train, held_out = corpus.select("train"), corpus.select("validation")
    checker = discovery.checker_of(corpus)
    whole = len(model.encode([train.texts[0]])[0])
    return Subject(
        name, digest(options.model, corpus.hash), model, corpus,
        options.void_dim or int(getattr(model, "void_dim", whole)),
        Judge.calibrate(train.ids, train.texts, held_out.texts, checker=checker),
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(prog="cllm study voidbench", description=__doc__.split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--runs", nargs="*", type=Path, help="trained run folders, three or more")
    p.add_argument("--model", help="MODULE:FUNCTION that returns your own autoencoder")
    p.add_argument(
        "--corpus",
        type=Path,
        help="corpus.parquet, of `cllm corpus build`, that --model was trained on",
    )
    p.add_argument(
        "--void-dim",
        type=int,
        default=0,
        help="coordinates that voids are sought in; 0 = the model's own",
    )
    p.add_argument("--budget", type=int, default=2000, help="decodes an arm")
    p.add_argument("--nulls", type=int, default=19, help="null clouds a kind")
    p.add_argument("--quick", action="store_true", help="a quarter of the void search")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/voidbench"))
    return p


if __name__ == "__main__":
    main()
