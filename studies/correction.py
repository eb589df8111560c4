"""What each part of correction buys and costs: `cllm study correction --json`.

The void arm at equal decode budget, for each run and seed: places decoded as they are (none),
settled (decoded, and taken where their texts lie), as usual (half of them steps off what settled),
both with each further part, with all, and with all but one. What counts is how many new texts,
sound and in place, come of it; and whether passes that disagree tell texts that are not valid.
Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.files import digest, file_digest, read_json, write_json
from cllm.ideas import Idea
from cllm.metrics import bootstrap_of, few, of_few
from cllm.run import SHIPPED_VOIDS, RunFolder
from cllm.settling import USUAL, Correction, Written, agreement, with_limit
from cllm.unseen import auroc
from studies.void_arm import VoidArm

log = logging.getLogger(__name__)

METHOD = 2  # raised when the same model would be measured otherwise
FURTHER: dict[str, dict[str, int]] = {
    "steps": {"steps": 5}, "retreat": {"retreat": 3}, "best of": {"best_of": 3},
    "passes": {"passes": 2},
}  # fmt: skip
ALL = Correction(steps=5, retreat=3, best_of=3, passes=2)
PARTS = {
    "none": Correction(settled=False, walked=0),
    "settled": Correction(walked=0),
    **{f"settled, {part}": Correction(walked=0, **how) for part, how in FURTHER.items()},
    "usual": USUAL,
    **{part: Correction(**how) for part, how in FURTHER.items()},
    "one step": Correction(steps=1),
    "all": ALL,
    **{f"all but {part}": replace(ALL, **{name: getattr(USUAL, name) for name in how})
       for part, how in FURTHER.items()},
}  # fmt: skip
ALARMED = 400  # texts of a draw that passes are tried on, at most
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, count, and print one JSON object."""
    p = argparse.ArgumentParser(
        prog="cllm study correction", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--runs", nargs="+", type=Path, default=[SHIPPED_VOIDS], help="with voids")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--seeds", type=int, default=3, help="of what is drawn, for each run")
    p.add_argument("--decodes", type=int, default=2000, help="of each arm")
    p.add_argument("--alarm", type=int, default=8, help="passes that warn of what is not valid")
    p.add_argument("--out", type=Path, default=Path("runs/correction"), help="a folder")
    options = p.parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if options.seeds < 1 or options.decodes < 2:
            raise InputError("--seeds must be 1 or more, and --decodes 2 or more")
        if options.alarm < 0:
            raise InputError("--alarm must be 0, for none, or more")
        arms = [(run := RunFolder(path), VoidArm.of(run)) for path in options.runs]
        rows = [row for run, arm in arms for row in rows_of(run, arm, options)]
        told = {
            "decodes": options.decodes, "seeds": options.seeds,
            "runs": [named(run) for run, _ in arms],
            "parts": {part: of_part(rows, part) for part in options.parts},
            "alarm": [alarm(run, arm, options, part) for run, arm in arms if options.alarm
                      for part in ("usual", "none")],
        }  # fmt: skip
        write_json(options.out / "correction.json", told)
        print(json.dumps(told))


def named(run: RunFolder) -> str:
    """As it was named, or which of those that ship."""
    return f"shipped: {run.path.name}" if run.shipped else str(run.path)


def made_of(run: RunFolder, arm: VoidArm) -> list[str]:
    """What all that a run writes depends on, beside what is asked of it."""
    weights = [file_digest(path) for path in sorted(run.base.rglob("*.safetensors"))]
    return [arm.model.hash, run.load_trained_corpus().hash, *weights]


def rows_of(run: RunFolder, arm: VoidArm, options: argparse.Namespace) -> list[Row]:
    """Counts of each part and seed, of one run: those kept in `--out`, and those that lack."""
    corpus, made = run.load_trained_corpus(), made_of(run, arm)
    held_out_MD = run.load_latents(arm.model).select("validation").vectors_ND
    rows = []
    for seed in range(options.seeds):
        for part in options.parts:
            how = PARTS[part]
            asked = how, seed, options.decodes, arm.field.rest, arm.field.least_score, METHOD
            kept = options.out / f"{digest(*made, str(asked))}.json"
            if not kept.exists():
                log.info("%s, seed %d: %s", run.path.name, seed, part)
                how = with_limit(how, arm.model, held_out_MD)
                written, ideas = arm.written(options.decodes, np.random.default_rng([seed, 6]), how)
                new = {idea.text for idea in ideas if idea.yields}
                withheld = "withheld" in corpus.info
                write_json(kept, counts_of(written, ideas) | {
                    "starts": written.starts, "distinct": len({idea.text for idea in ideas}),
                    "yields": sum(idea.yields for idea in ideas),
                    "patches": len(set(written.patches(arm.field))),
                    "withheld": sum(corpus.withheld_pair(text) is not None for text in new)
                    if withheld else None,
                })  # fmt: skip
            rows.append({"run": named(run), "part": part, "seed": seed} | read_json(kept))
    return rows


def alarm(run: RunFolder, arm: VoidArm, options: argparse.Namespace, part: str) -> Row:
    """How well agreement of passes tells valid texts from others of the void arm: AUROC.

    As usual, or of all that is decoded where nothing is settled and nothing left out (none). Of
    each seed; 0.5 is chance, None where all are valid or none is.
    """
    o, made, found = options, made_of(run, arm), []
    arm = arm if part == "usual" else replace(arm, plausible=None)
    for seed in range(o.seeds):
        asked = part, o.alarm, seed, o.decodes, arm.field.rest, arm.field.least_score, METHOD
        kept = o.out / f"alarm-{digest(*made, str(asked))}.json"
        if not kept.exists():
            log.info("%s, seed %d: %d passes over %s", run.path.name, seed, o.alarm, part)
            written, ideas = arm.written(o.decodes, np.random.default_rng([seed, 6]), PARTS[part])
            texts, rng = written.texts[:ALARMED], np.random.default_rng(seed)
            valid_n = np.array([idea.verdict.valid for idea in ideas[:ALARMED]], bool)
            agreed_n = (
                agreement(arm.model, written.points_nD[:ALARMED], texts, o.alarm, rng)
                if written.points_nD is not None and texts else np.zeros(0)
            )  # fmt: skip
            both = 0 < valid_n.sum() < len(valid_n)
            area = auroc(agreed_n[~valid_n], agreed_n[valid_n]) if both else None
            write_json(kept, {"texts": len(texts), "valid": int(valid_n.sum()), "auroc": area})
        found.append(read_json(kept))
    areas = [one["auroc"] for one in found if one["auroc"] is not None]
    told: Row = {"run": named(run), "part": part, "passes": o.alarm, "each": found}
    if areas:
        mean = of_few(np.array(areas))
        told |= {"auroc": mean.mean, "ci": mean.ci}
    return told


def counts_of(written: Written, ideas: Sequence[Idea]) -> Row:
    """What came of an arm's decodes; a new text counts once."""
    return {
        "decodes": written.decodes, "texts": len(ideas),
        "valid": sum(idea.verdict.valid for idea in ideas),
        "hit": sum(bool(idea.hit) for idea in ideas),
        "duplicate": sum(idea.verdict.duplicate for idea in ideas),
        "new": len({idea.text for idea in ideas if idea.yields}),
    }  # fmt: skip


def of_part(rows: Sequence[Row], part: str) -> Row:
    """Its counts over runs and seeds; its new texts and its yield over those of none and usual."""
    mine = [row for row in rows if row["part"] == part]
    summed = {
        name: sum(row[name] for row in mine)
        for name in ("decodes", "starts", "texts", "distinct", "new", "valid", "hit", "yields")
    }
    told = summed | {"yield": summed["yields"] / max(1, summed["texts"]), "each": mine}
    for other in ("none", "usual"):
        of = {(row["run"], row["seed"]): row for row in rows if row["part"] == other}
        pairs = {unit: (row, of[unit]) for row in mine if (unit := (row["run"], row["seed"])) in of}
        if part != other and pairs:
            told[f"new_over_{other}"] = ratio_of(pairs, "new")
            told[f"yield_over_{other}"] = ratio_of(pairs, "yields", "texts")
    return told


def ratio_of(
    pairs: Mapping[tuple[str, int], tuple[Row, Row]], what: str, share_of: str | None = None
) -> Row | None:
    """What was counted (of what: a share) with a part over without, and its interval.

    Over runs, or over seeds of a single one; few of either are stretched. None where without
    correction some have nothing; a single one has no interval.
    """
    runs = {run for run, _ in pairs}
    units: dict[Any, list[list[float]]] = {}
    for unit, both in pairs.items():
        counts = [count for row in both for count in (row[what], row[share_of] if share_of else 1)]
        units.setdefault(unit[0] if len(runs) > 1 else unit, []).append(counts)
    counts_U4 = np.array([np.sum(some, axis=0) for some in units.values()], float)
    if not counts_U4[:, 1:].all():
        return None

    def score(rows: np.ndarray[Any, Any]) -> float:
        with_part, its, without, others = counts_U4[rows].sum(0)
        return float(np.log(max(with_part, 0.5) / its) - np.log(without / others))

    found = bootstrap_of(score, len(counts_U4), np.random.default_rng(0))
    told: Row = {"ratio": float(np.exp(found.mean)), "units": len(counts_U4)}
    if len(counts_U4) > 1:
        ends = [found.mean + few(len(counts_U4)) * (end - found.mean) for end in found.ci]
        told["ci"] = np.exp(ends).tolist()
    return told


if __name__ == "__main__":
    main()
