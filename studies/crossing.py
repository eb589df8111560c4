"""Texts between two subjects, from voids that both enclose: `cllm study crossing --json`.

One model learns two subjects. Texts are written from voids with texts of both on their rim; at as
many decodes from these without settling, from voids within one subject, from great circles between
both, and by the base LLM alone. A text counts if the critic of each subject, which learnt from its
texts alone over an LM of both, takes it for real, and it is like no known one. No filter of what is
plausible: it refuses pairs of words that no text joins, which are what is looked for. Without
files: recipes of wet dishes and of dry ones. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm import discovery, pipeline
from cllm.arms import write_from_voids
from cllm.artefacts import finished, identity, remember
from cllm.cli_corpus import read_corpus
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, build_corpus
from cllm.critic import Critic
from cllm.critics import RATE, learnt
from cllm.errors import InputError
from cllm.files import read_json, replacing, write_json
from cllm.model import CLLM
from cllm.places import Places
from cllm.reading import Row
from cllm.recipes import Grammar, combination
from cllm.run import RunFolder
from cllm.settings import RunSettings, overridden
from cllm.settling import USUAL, Correction
from cllm.sphere import slerp
from cllm.subjects import Kind
from cllm.unaided import unaided
from cllm.where import Where
from studies.crossing_told import COUNTED, Arm, Taken, Taste, Words, less

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

WET = ("soup", "stew", "curry", "risotto")  # words of dishes that stand for one subject
TAIL = 0.01  # of a subject's held-out texts that its critic refuses
VOID_DIM = 8  # coordinates that voids are sought in: more take hours
MIDDLE = (0.3, 0.7)  # of a great circle
PICKED = 10  # texts that are shown
AS_DRAWN = Correction(settled=False, walked=0)  # places are decoded where they were drawn
MINE = "between"
VOIDS: dict[str, tuple[Kind, Correction]] = {  # arms that are written from voids
    MINE: ("between", USUAL), "between, as drawn": ("between", AS_DRAWN),
    "within": ("within", USUAL),
}  # fmt: skip
ARMS = (*VOIDS, "great circle", "base alone")
METHOD = 3  # raised when the same would be written otherwise


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, write, judge, and print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if bool(o.first) != bool(o.second):
            raise InputError("give --first and --second, or neither for built-in recipes")
        corpus = of_two(o)
        settings = overridden(
            "quick", dim=o.dim, seed=o.seed, seconds=o.seconds, base_seconds=o.base_seconds,
            aim="voids", changes=[f"void_dim={VOID_DIM}", *o.set],
        )  # fmt: skip
        run = RunFolder(o.out)
        trained(run, corpus, settings)
        told = crossed(run, corpus, settings, o)
        write_json(o.out / "crossing.json", told)
        print(json.dumps(told))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(
        prog="cllm study crossing", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--first", type=Path, help="texts of one subject")
    p.add_argument("--second", type=Path, help="of another")
    p.add_argument("--texts", type=int, default=4000, help="of each subject at most")
    p.add_argument("--dim", type=int, default=64)
    p.add_argument("--seconds", type=float, default=900, help="of the CLLM, and the reference LM")
    p.add_argument("--base-seconds", type=float, default=600, help="of the base, both stages")
    p.add_argument("--critic-steps", type=int, default=600, help="of each subject's critic")
    p.add_argument("--decodes", type=int, default=1000, help="of each arm")
    p.add_argument("--arm-seconds", type=float, default=1200, help="of each void arm at most")
    p.add_argument("--set", action="append", default=[], help="any setting, as in `cllm train`; "
                   "base.context=256 for texts beyond 128 tokens")  # fmt: skip
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/crossing"), help="a run folder")
    return p


def of_two(options: argparse.Namespace) -> Corpus:
    """Texts of both subjects, as many of each as there are of the smaller one at most."""
    o = options
    if o.first:
        parts = {path.name.partition(".")[0]: read_corpus(path, "text", 100, 0).texts
                 for path in (o.first, o.second)}  # fmt: skip
        if len(parts) < 2:
            raise InputError("--first and --second are of one name; rename one of the files")
    else:
        parts = {"wet": [], "dry": []}  # type: ignore[dict-item]
        for text in Grammar("plain").generate(4 * o.texts, 0):
            pair = combination(text)
            wet = pair is not None and any(word in pair[0] for word in WET)
            parts["wet" if wet else "dry"].append(text)  # type: ignore[attr-defined]
    count = min(o.texts, *map(len, parts.values()))
    rng = np.random.default_rng(0)
    rows = [Row(text=texts[row], subject=name) for name, texts in parts.items()
            for row in rng.permutation(len(texts))[:count]]  # fmt: skip
    return build_corpus([rows[row] for row in rng.permutation(len(rows))], seed=0)


def trained(run: RunFolder, corpus: Corpus, settings: RunSettings) -> None:
    """Base, reference LM, CLLM, vectors and voids of the whole, as far as they are not there."""
    pipeline.require_same_texts(run, corpus)
    pipeline.keep_corpus(run, corpus)
    pipeline.make_base(run, settings.base, reuse=True)
    pipeline.make_reference(run, settings, reuse=True)
    pipeline.train_model(run, settings, allow_weak=True, reuse=True)
    if not run.latents.exists() or run.load_latents().model_hash != run.load_model().hash:
        pipeline.embed_corpus(run, replace=True)
    if "chance_score" not in run.notes().get("voids", {}):
        discovery.search_voids(run, settings.seed, quick=True)


def taste_of(run: RunFolder, corpus: Corpus, subject: str, options: argparse.Namespace) -> Taste:
    """Of a subject's real texts alone; its critic is kept."""
    base, folder = run.load_base(), run.path / "critics" / subject
    mine = corpus.only([one == subject for one in corpus.subjects])
    reference, train = run.load_reference(base), mine.select("train").texts
    loop = overridden("quick", seed=options.seed).train.loop.model_copy(
        update={"seconds": 0.0, "steps": options.critic_steps, "lr": RATE}
    )
    made_from = identity(loop, mine.hash, base.hash, run.judged_by)
    if not finished(folder, made_from):
        rng, place = np.random.default_rng([options.seed, 26]), folder.with_name(f".{subject}")
        critic, result = learnt(train, reference, base, loop, rng, place, f"critic of {subject}")
        with replacing(folder) as new:
            critic.save(new)
            remember(new, made_from, loop, {"steps": result.steps})
        result.checkpoint.remove()
    logits = partial(Critic.load(folder, base).of_texts, base=base)
    held_out = mine.select("validation").texts
    return Taste(logits, float(np.quantile(logits(held_out), TAIL)))


def crossed(
    run: RunFolder, corpus: Corpus, settings: RunSettings, options: argparse.Namespace
) -> dict[str, Any]:
    """Counts of each arm, and texts of voids that both subjects enclose."""
    names, o = sorted(set(corpus.subjects)), options
    tastes = {name: taste_of(run, corpus, name, o) for name in names}
    model = run.load_model()
    places = Places.of(run, model)
    words, judge = Words.of(corpus), places.judge
    arms = {arm: Taken.of(written(arm, model, places, o), judge, tastes, words) for arm in ARMS}
    test = corpus.select("test")
    held_out = {
        name: [t for t, s in zip(test.texts, test.subjects, strict=True) if s == name]
        for name in names
    }
    real = Taken.of(Arm.each(test.texts), judge, tastes, words)
    told: dict[str, Any] = {
        "subjects": names, "texts": len(corpus), "seed": settings.seed, "dim": o.dim,
        "decodes": o.decodes, "arm_seconds": o.arm_seconds,
        "cut": model.tokens(corpus.texts).cut,
        "held out, passed by": {
            name: {by: float((taste.margin(texts) >= 0).mean()) for by, taste in tastes.items()}
            for name, texts in held_out.items()
        },
        "held out, words of both": {
            name: float(words.of_both(texts).mean()) for name, texts in held_out.items()
        },
        "standing voids": Counter(
            row["kind"] for row in discovery.found_voids(run) if row["stands"]
        ),
        "arms": {arm: taken.counts() for arm, taken in arms.items()},
        "held out": real.counts(),
    }  # fmt: skip
    mine = arms[MINE]
    for what in COUNTED:
        told[f"{what}, a decode, between less"] = {
            arm: less(mine, other, what) for arm, other in arms.items() if arm != MINE
        }
    chosen = np.flatnonzero(mine.are("accepted"))
    both, worst = mine.both_n[chosen], mine.margin_n[chosen]
    best = chosen[np.lexsort([-worst, ~both])][:PICKED]  # words of both first
    some = np.random.default_rng(0).permutation(len(mine.arm.texts))[:PICKED]
    told["best"] = [mine.arm.texts[row] for row in best]
    told["random"] = [mine.arm.texts[row] for row in some]
    return told


def written(arm: str, model: CLLM, places: Places, options: argparse.Namespace) -> Arm:
    """Texts of an arm; kept once they are there."""
    o = options
    made_of = [model.hash, o.seed, o.decodes, o.arm_seconds, METHOD]
    kept = o.out / "arms" / f"{'-'.join(arm.replace(',', '').split())}.json"
    if kept.exists() and (told := read_json(kept))["made_of"] == made_of:
        return Arm(**told["arm"])
    log.info("writing: %s", arm)
    begun = time.perf_counter()
    if arm in VOIDS:
        found = from_voids(*VOIDS[arm], model, places, o)
    elif arm == "great circle":
        found = from_circles(model, places, o)
    else:
        found = Arm.each(unaided(model, places.train.texts)(o.decodes, o.seed).texts)
    first = {text: row for row, text in reversed([*enumerate(found.texts)]) if text.strip()}
    rows = sorted(first.values())
    found = replace(
        found, texts=[found.texts[row] for row in rows],
        patches=[found.patches[row] for row in rows], seconds=time.perf_counter() - begun,
    )  # fmt: skip
    log.info("%s: %d texts of %d decodes in %.0f s", arm, len(found.texts), found.decodes,
             found.seconds)  # fmt: skip
    write_json(kept, {"made_of": made_of, "arm": asdict(found)})
    return found


def from_voids(
    groups: Kind, how: Correction, model: CLLM, places: Places, options: argparse.Namespace
) -> Arm:
    """From any void that has such groups around it."""
    o = options

    def within(points_nD: NDArray[np.float32]) -> NDArray[np.bool_]:
        spots = places.settled(Where(groups=groups), points_nD)
        return np.array([spot is not None for spot in spots], bool)

    rng = np.random.default_rng([o.seed, 28])
    found = write_from_voids(model, places.field, o.decodes, rng, None, how, within, o.arm_seconds)
    return Arm(list(found.texts), found.patches(places.field), found.decodes)


def from_circles(model: CLLM, places: Places, options: argparse.Namespace) -> Arm:
    """From the middle of great circles between random texts of the two subjects."""
    o, train = options, places.train
    subject_N = np.array(places.subjects)
    rng = np.random.default_rng([o.seed, 27])
    ends = [rng.choice(np.flatnonzero(subject_N == name), o.decodes)
            for name in sorted(set(subject_N))]  # fmt: skip
    first_nD, last_nD = (train.vectors_ND[rows] for rows in ends)
    share_n = rng.uniform(*MIDDLE, o.decodes)
    middle_nD = np.concatenate([
        slerp(a[None], b[None], share[None])
        for a, b, share in zip(first_nD, last_nD, share_n, strict=True)
    ])  # fmt: skip
    return Arm.each(model.decode(middle_nD))


if __name__ == "__main__":
    main()
