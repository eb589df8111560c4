"""VoidBench: do texts written from voids beat those from the controls? `cllm study voidbench`.

Arms, funnel, lift, withheld and later fill, and plausibility, for run folders or for any object
with `encode(texts)` and `decode(vectors)`:
    cllm study voidbench --json                       # trains models of three seeds
    cllm study voidbench --json --runs runs/a runs/b runs/c
    cllm study voidbench --json --model my_module:load --corpus corpus.parquet
Intervals are over models and, within each, over places. Goes on where it stopped.
"""

# Shapes: N texts, D coordinates, K of the prefix.
from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from cllm import pipeline, writing
from cllm.arms import Vectors, write_all
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, built_in_corpus
from cllm.errors import InputError
from cllm.field import Field, Rest
from cllm.files import digest, read_json, write_json
from cllm.ideas import choose_rest, judge_written
from cllm.judge import Judge
from cllm.plausibility import SURPRISE, Plausibility
from cllm.run import RunFolder, training_facts
from cllm.scoreboard import ARMS
from cllm.settings import overridden
from cllm.settling import Autoencoder, Written
from cllm.sphere import ExactIndex, prefix, require_unit
from cllm.unaided import unaided
from cllm.voids import VoidSettings, find_voids
from studies.knows import BASE_SECONDS, prepare, shared_base
from studies.pooling import Row, each, summary
from studies.worth import Worth

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
    plausible: Plausibility | None = None
    unaided: Callable[[int, int], Written] | None = None  # the base arm: texts wanted, seed
    withheld_in_copies: int | None = None  # combinations that swapped copies named in training


REFERENCE_SECONDS = 240  # as for the shipped base
METHOD = 4  # raised when the same model would be measured otherwise


# ---- one model ---------------------------------------------------------------------------


def trial(
    subject: Subject, budget: int, seed: int, search: VoidSettings, rest: Rest | None = None
) -> dict[str, Any]:
    """Facts of the void search, and every arm's texts with what they are worth.

    `rest` None: chosen on held-out texts (`choose_rest`).
    """
    rng = np.random.default_rng([seed, 5])
    corpus, model = subject.corpus, subject.model
    cloud_ND, held_out_MD = (
        require_unit(model.encode(list(corpus.select(split).texts)), f"{split} vector")
        for split in ("train", "validation")
    )
    cloud_NK, held_out_MK = (prefix(x, subject.void_dim) for x in (cloud_ND, held_out_MD))
    found = find_voids(cloud_NK, search, rng, held_out_MK)
    chance = np.inf if found.chance is None else found.chance
    field = Field.of(cloud_ND, held_out_MD, subject.void_dim, chance, rng)
    if rest:
        field = replace(field, rest=rest)
    else:
        field = choose_rest(model, subject.judge, field, held_out_MD)
    written = write_all(
        model, field, corpus.select("train").texts, budget, rng, subject.plausible, subject.unaided
    )
    index, worth = ExactIndex(cloud_NK), Worth.of(corpus)
    rows: list[Row] = []
    for arm in ARMS:
        if arm in written:
            texts = once(written[arm])
            judged = worth.rows(judge_written(model, subject.judge, texts, index))
            places = _whereabouts(field, texts)
            rows += [row | where for row, where in zip(judged, places, strict=True)]
    return {
        "voids": sum(void.stands for void in found.voids),
        "radius_ratio": found.radius_ratio, "p_value": found.p_value,
        "rest": field.rest, "void_dim": subject.void_dim,
        "chance_score": chance, "least_score": field.least_score,
        "later_by_chance": worth.later_by_chance(subject.judge),
        "withheld": len(corpus.info.get("withheld", ())),
        "withheld_in_copies": subject.withheld_in_copies,
        "filter": subject.plausible and subject.plausible.limits,
        "spent": {
            arm: {
                "decodes": x.decodes, "starts": x.starts, "likely": x.likely,
                "repeated": len(x.texts) - len(set(x.texts)),
            } for arm, x in written.items()
        },
        "crowding": _medians(field, written), "rows": rows,
    }  # fmt: skip


def once(written: Written) -> Written:
    """The same without a text's second and further writings."""
    first: dict[str, int] = {}
    for row, text in enumerate(written.texts):
        first.setdefault(text, row)
    points_nD = None if written.points_nD is None else written.points_nD[list(first.values())]
    return replace(written, texts=tuple(first), points_nD=points_nD)


def _whereabouts(field: Field, written: Written) -> list[Row]:
    """Of each text of an arm: its place, and, where it has one, whether that is in a void."""
    rows: list[Row] = [{"place": place} for place in written.patches(field)]
    if written.points_nD is None or not rows:
        return rows
    inside_n = field.is_void(written.points_nD)
    return [row | {"in_void": bool(inside)} for row, inside in zip(rows, inside_n, strict=True)]


def _medians(field: Field, written: Mapping[str, Written]) -> dict[str, dict[str, float]]:
    """Median score, d_k and crowding of the places of each arm: what the controls share."""
    told: dict[str, dict[str, float]] = {}
    for arm, texts in written.items():
        if texts.points_nD is not None and len(texts.points_nD):
            seen = field.look(texts.points_nD)
            values = {"score": seen.score_n, "d_k": seen.dk_n, "crowding": seen.crowding_n}
            told[arm] = {name: float(np.median(x_n)) for name, x_n in values.items()}
    return told


# ---- the command -------------------------------------------------------------------------


FACTS = (
    "voids", "rest", "radius_ratio", "p_value", "chance_score", "least_score", "void_dim",
    "crowding", "later_by_chance", "withheld_in_copies", "filter",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Try every subject that was not tried yet, and print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        search = VoidSettings.quick() if options.quick else VoidSettings()
        search = search.model_copy(update={"nulls": options.nulls})
        _require_sound(options)
        trials: dict[str, dict[str, Any]] = {str(path): read_json(path) for path in options.trials}
        for subject in () if trials else subjects(options):
            if subject.identity in trials:
                raise InputError(f"{subject.name} is the same model as another one")
            trials[subject.identity] = kept(subject, options, search)
        found = summary([*trials.values()], np.random.default_rng(0))
        found["each"] = [
            {"name": t["name"]} | {name: t[name] for name in FACTS} | {"arms": each(t)}
            for t in trials.values()
        ]
        write_json(options.out / "voidbench.json", found)
        print(json.dumps(found))


def _require_sound(options: argparse.Namespace) -> None:
    """Refuse at once what would be refused after hours."""
    if options.trials and (options.runs or options.model):
        raise InputError("--trials are results of models already: leave --runs and --model out")
    if options.runs and (options.model or options.corpus):
        raise InputError("give either --runs with run folders or --model with --corpus")
    if bool(options.model) != bool(options.corpus):
        raise InputError("--model and --corpus, the texts that it was trained on, go together")
    if options.nulls < 19:
        raise InputError(f"--nulls is {options.nulls}; 19 or more say what p = 0.05 is")
    if options.budget < 2:
        raise InputError(f"--budget is {options.budget}; an arm needs 2 decodes or more")


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """What the options name, one at a time; with neither runs nor models, runs trained here."""
    if options.model:
        for name in options.model:
            yield own(name, options)
        return
    for run in map(RunFolder, options.runs or map(partial(trained, options), options.seeds)):
        yield of_run(run, options.void_dim, options.surprise)


def trained(options: argparse.Namespace, seed: int) -> Path:
    """A run folder of plain recipes and a CLLM of one seed, trained for voids."""
    settings = overridden(
        "quick", dim=32, seed=seed, seconds=options.seconds, aim="voids", changes=options.set
    )
    made_from = digest(settings.model_dump_json())[:8]
    fold, texts = options.fold, 20_000
    name = f"fold-{fold}-seed" if fold else "seed"
    run = RunFolder(options.out / f"{name}-{seed}-{made_from}")
    base = shared_base("plain", fold, texts, options.base_seconds, options.out)
    if not (base / "reference").is_dir():  # it says what is plausible
        how = overridden("quick").model_copy(update={"reference_seconds": REFERENCE_SECONDS})
        pipeline.make_reference(RunFolder(base.parent), how, reuse=True)
    prepare(run, built_in_corpus("plain", texts, seed, fold), base)
    pipeline.train_model(run, settings, reuse=True)
    return run.path


def kept(subject: Subject, options: argparse.Namespace, search: VoidSettings) -> dict[str, Any]:
    """The subject's trial, from the output folder where it is there already."""
    how = {
        "method": METHOD,
        "budget": options.budget, "seed": options.seed, "void_dim": subject.void_dim,
        "filter": subject.plausible and subject.plausible.limits,
        "search": search.model_dump(), "rest": options.rest,
    }  # fmt: skip
    made_from = digest(subject.identity, json.dumps(how))
    place = options.out / f"{subject.name}-{made_from[:8]}.json"
    if place.exists():
        return read_json(place)
    log.info("%s: %d decodes an arm", subject.name, options.budget)
    found = {"name": subject.name, "how": how}
    found |= trial(subject, options.budget, options.seed, search, options.rest)
    write_json(place, found)
    return found


def of_run(run: RunFolder, void_dim: int = 0, surprise: float = SURPRISE) -> Subject:
    """A trained run folder; `void_dim` 0 is the model's own."""
    model, corpus = run.load_model(), run.load_trained_corpus()
    return Subject(
        run.path.resolve().name, digest(model.hash, corpus.hash, _weights(run)), model, corpus,
        void_dim or model.config.void_dim, writing.make_judge(run, model, corpus),
        writing.make_plausible(run, model, corpus, surprise),
        unaided(model, corpus.select("train").texts),
        training_facts(run.model).get("withheld_in_copies"),
    )  # fmt: skip


def _weights(run: RunFolder) -> str:
    """Digest of the reference LM, which says what is plausible."""
    file = run.reference / "model.safetensors"
    return digest(file.read_bytes()) if file.exists() else ""


@dataclass(frozen=True)
class Foreign:
    """Somebody's own autoencoder; what it returns is checked before it is believed."""

    place: str  # MODULE:FUNCTION
    made: Autoencoder

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, (N, D); InputError names the text whose vector is none."""
        try:
            vectors_ND = np.asarray(self.made.encode(list(texts)), float)
            if vectors_ND.shape[:1] != (len(texts),):
                raise ValueError(f"{len(texts)} texts gave an array of shape {vectors_ND.shape}")
            return require_unit(vectors_ND, "text", [repr(text[:60]) for text in texts])
        except (InputError, ValueError, TypeError) as error:
            raise InputError(
                f"--model {self.place}: {str(error).partition(';')[0]}; encode(texts) must "
                "return unit vectors, one row a text"
            ) from error

    def decode(self, vectors_ND: Vectors) -> list[str]:
        """One text a vector."""
        texts = list(self.made.decode(vectors_ND))
        if len(texts) != len(vectors_ND) or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"--model {self.place}: decode of {len(vectors_ND)} vectors must return as many "
                f"texts, not {len(texts)} of type {type(texts[0]).__name__ if texts else None}"
            )
        return texts


def own(place: str, options: argparse.Namespace) -> Subject:
    """The object that MODULE:FUNCTION returns; validity is the checker's, or repetition's."""
    made, corpus = _made(place), Corpus.load(options.corpus)
    model = Foreign(place, made)
    train, held_out = corpus.select("train"), corpus.select("validation")
    checker = writing.checker_of(corpus)
    judge = Judge.calibrate(train.ids, train.texts, held_out.texts, checker=checker)
    vectors_MD = model.encode(held_out.texts[:100])
    decoded = model.decode(vectors_MD)
    return Subject(
        place.replace(":", "."), digest(place, corpus.hash, vectors_MD.tobytes(), *decoded),
        model, corpus, options.void_dim or getattr(made, "void_dim", None) or vectors_MD.shape[1],
        judge,
    )  # fmt: skip


def _made(place: str) -> Autoencoder:
    """What MODULE:FUNCTION returns; the module may lie in the working directory."""
    module, _, name = place.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make: Callable[[], Autoencoder] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(
            f"--model {place}: {error}; give MODULE:FUNCTION, where FUNCTION() returns an "
            "object with encode(texts) and decode(vectors)"
        ) from error
    return make()


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(prog="cllm study voidbench", description=__doc__.split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--runs", nargs="+", type=Path, help="trained run folders, three or more")
    p.add_argument(
        "--model", nargs="+", help="MODULE:FUNCTION that returns your own autoencoder; several"
    )
    p.add_argument(
        "--corpus",
        type=Path,
        help="corpus.parquet, of `cllm corpus build`, that --model was trained on",
    )
    p.add_argument(
        "--trials", nargs="+", type=Path, default=[],
        help="files that this study left in --out, of several folds say: told together",
    )  # fmt: skip
    p.add_argument(
        "--void-dim",
        type=int,
        default=0,
        help="coordinates that voids are sought in; 0 = the model's own",
    )
    p.add_argument("--budget", type=int, default=2000, help="decodes an arm")
    p.add_argument(
        "--rest", choices=("open", "nearest"),
        help="other coordinates of places: none, or the nearest text's; else chosen on validation",
    )  # fmt: skip
    p.add_argument("--nulls", type=int, default=19, help="null clouds a kind")
    p.add_argument("--quick", action="store_true", help="a quarter of the void search")
    p.add_argument(
        "--surprise", type=float, default=SURPRISE,
        help="nats above what held-out texts cost that a text with a new pair of words may",
    )  # fmt: skip
    p.add_argument(
        "--seeds", nargs="+", type=int, default=[1, 2, 3],
        help="of the models trained here, where neither --runs nor --model are given",
    )  # fmt: skip
    p.add_argument("--fold", type=int, default=0, help="which fifth they withhold, 0 to 2")
    p.add_argument(
        "--base-seconds", type=float, default=BASE_SECONDS, help="for the base of other folds"
    )
    p.add_argument("--seconds", type=float, default=3000, help="of training, for each of them")
    p.add_argument("--set", action="append", default=[], help="any setting, as in `cllm train`")
    p.add_argument("--seed", type=int, default=0, help="of the search and the arms")
    p.add_argument("--out", type=Path, default=Path("runs/voidbench"))
    return p


if __name__ == "__main__":
    main()
