"""VoidBench: do texts written from voids beat those from the controls? `cllm study voidbench`.

Arms, funnel, lift, withheld and later fill, and plausibility, for run folders or for any object
with `encode(texts)` and `decode(vectors)`:
    cllm study voidbench --json --runs runs/a runs/b runs/c
    cllm study voidbench --json --model my_package.my_module:load --corpus corpus.parquet
Intervals are over models and, within each, over places. Goes on where it stopped.
"""

# Shapes: N texts, D coordinates, P places of an arm, C counts.
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
from numpy.typing import NDArray

from cllm import discovery
from cllm.arms import Autoencoder, Field, Plausible, Written, near_copies, write_arms
from cllm.console import one_line_errors, set_up_logging
from cllm.content import content_items
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.files import digest, read_json, write_json
from cllm.ideas import ARMS, Idea, judge_written, unaided
from cllm.judge import Judge
from cllm.retrieval import TfidfIndex
from cllm.run import RunFolder
from cllm.sphere import ExactIndex, prefix, unit
from cllm.voids import VoidSettings, find_voids

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Row = dict[str, Any]
COUNTS = ("texts", "valid", "hit", "yields", "withheld", "later")
DRAWS = 2000


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


# ---- all models --------------------------------------------------------------------------


def summary(trials: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """Every arm's funnel, and the void arm over the density arm; intervals over models, places."""
    counts = {
        arm: [_by_place(t["rows"], arm) for t in trials]
        for arm in ARMS if any(r["arm"] == arm for t in trials for r in t["rows"])
    }  # fmt: skip
    arms = {arm: _arm(arm, trials, some, rng) for arm, some in counts.items()}
    out: dict[str, Any] = {"models": len(trials), "arms": arms}
    if {"void", "density"} <= counts.keys():
        pairs = list(zip(counts["void"], counts["density"], strict=True))
        out["void_over_density"] = {
            name: told_ratio(pairs, above, below, rng)
            for name, above, below in (
                ("lift", "yields", "texts"),
                ("withheld_fill", "withheld", "yields"),
                ("withheld_of_all", "withheld", "texts"),
                ("later_fill", "later", "yields"),
            )
        }
    return out


def _arm(
    arm: str, trials: Sequence[dict[str, Any]], counts: list[Floats], rng: np.random.Generator
) -> dict[str, Any]:
    rows = [row for t in trials for row in t["rows"] if row["arm"] == arm]
    told: dict[str, Any] = {name: sum(bool(row.get(name)) for row in rows) for name in COUNTS[1:]}
    told |= {"texts": len(rows), "decodes": sum(t["decodes"].get(arm, 0) for t in trials)}
    told["new"] = sum(row["valid"] and not row["duplicate"] for row in rows)
    told["yield"] = told_share(counts, "yields", "texts", rng)
    if any("withheld" in row for row in rows):
        told["withheld_fill"] = told_share(counts, "withheld", "yields", rng)
        found = {tuple(r["combination"]) for r in rows if r.get("combination")}
        told["distinct_withheld"] = len(found)
    if any("later" in row for row in rows):
        told["later_fill"] = told_share(counts, "later", "yields", rng)
    known = [row["pmi"] for row in rows if "pmi" in row and row["valid"]]
    if known:
        told["plausibility"] = float(np.mean(known))
    return told


def _by_place(rows: Sequence[Row], arm: str) -> Floats:
    """Counts of an arm by place, (P, C)."""
    places: dict[str, list[int]] = {}
    for row in rows:
        if row["arm"] == arm:
            counted = places.setdefault(row["place"], [0] * len(COUNTS))
            for i, name in enumerate(COUNTS):
                counted[i] += 1 if name == "texts" else bool(row.get(name))
    return np.array(list(places.values()), dtype=float).reshape(-1, len(COUNTS))


def told_share(
    counts: list[Floats], above: str, below: str, rng: np.random.Generator
) -> dict[str, Any] | None:
    """A share of an arm, pooled over models, with its interval; None where nothing was counted."""
    a, b = COUNTS.index(above), COUNTS.index(below)
    sums = np.sum([c_PC.sum(0) for c_PC in counts], axis=0)
    if not sums[b]:
        return None
    draws = np.array([d[a] / max(1.0, d[b]) for (d,) in _drawn([(c,) for c in counts], rng)])
    return {"share": float(sums[a] / sums[b]), "ci": np.quantile(draws, (0.025, 0.975)).tolist()}


def told_ratio(
    pairs: Sequence[tuple[Floats, ...]], above: str, below: str, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Share of the first arm over that of the second; half a text is added, for counts of 0."""
    a, b = COUNTS.index(above), COUNTS.index(below)

    def ratio(first_C: Floats, second_C: Floats) -> float:
        one, other = ((c[a] + 0.5) / (c[b] + 1.0) for c in (first_C, second_C))
        return float(one / other)

    first_C, second_C = (np.sum([pair[i].sum(0) for pair in pairs], axis=0) for i in (0, 1))
    if not (first_C[b] and second_C[b]):
        return None
    draws = np.array([ratio(*drawn) for drawn in _drawn(pairs, rng)])
    return {
        "ratio": ratio(first_C, second_C), "ci": np.quantile(draws, (0.025, 0.975)).tolist(),
    }  # fmt: skip


def _drawn(
    models: Sequence[tuple[Floats, ...]], rng: np.random.Generator
) -> list[tuple[Floats, ...]]:
    """Sums of counts with models drawn with replacement, then the places within each arm."""
    found = []
    for _ in range(DRAWS):
        chosen = [models[i] for i in rng.integers(len(models), size=len(models))]
        drawn = [tuple(_resampled(c_PC, rng) for c_PC in arms) for arms in chosen]
        found.append(tuple(np.sum(arm, axis=0) for arm in zip(*drawn, strict=True)))
    return found


def _resampled(counts_PC: Floats, rng: np.random.Generator) -> Floats:
    if not len(counts_PC):
        return np.zeros(len(COUNTS))
    times_P = rng.multinomial(len(counts_PC), np.full(len(counts_PC), 1 / len(counts_PC)))
    return np.asarray(times_P @ counts_PC)


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
    checker: Callable[[str], Sequence[object]] | None = None
    if corpus.info.get("richness"):
        from cllm.recipes import check

        checker = check
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
