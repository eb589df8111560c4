"""Measure the curve G(d) of every corpus of the law; hours, resumed where it was interrupted."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cllm.curve import curve_lengths
from cllm.settings import overridden
from tune.choice import choose
from tune.dimension import job_of
from tune.families import CELLS, Cell, prepared
from tune.space import Budget
from tune.statistics import quick, with_base
from tune.trial import share

log = logging.getLogger(__name__)

BASE = (  # one for all; in steps, so that a busy machine makes the same one
    "base.loop.steps=4000", "base.loop.seconds=0",
    "base.low_rank_loop.steps=5000", "base.low_rank_loop.seconds=0",
)  # fmt: skip
REFERENCE_STEPS = 1500  # most; the best of them by held-out texts is kept


def measured(out: Path, corpora: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One record for each cell that is wanted, as it is done."""
    for cell in CELLS:
        if not options.only or cell.name in options.only:
            yield record(cell, out, corpora, options)


def record(cell: Cell, out: Path, corpora: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Statistics, curve and choice of one corpus."""
    settings = overridden("quick", steps=REFERENCE_STEPS, changes=BASE)
    run = prepared(cell, out, corpora, settings)
    corpus, base = run.load_corpus(), run.load_base()
    facts = quick(corpus) | with_base(base, run.find_reference(base), corpus)
    restored = run.notes()["base"]["restored_tokens"]
    budget = Budget(steps=options.steps, changes=("train.loop.seconds=0",))
    lengths, seeds = curve_lengths(options.d_max), range(options.seeds)
    jobs = [job_of(run, budget, lengths, seed, weak=True) for seed in seeds]
    known = share(run, [job.settings for job in jobs]).arrays
    curves = [job.curve(known) for job in jobs]
    told = {
        "name": cell.name, "family": cell.family, "statistics": facts, "restored": restored,
        "d": None, "d_ci": None, "rule_d": None,
        "lengths": list(curves[0].lengths), "seeds": len(curves),
        "gain_L": np.mean([curve.gain_LN.mean(1) for curve in curves], 0).tolist(),
        "round_trip_L": np.mean([curve.round_trip_L for curve in curves], 0).tolist(),
        "plateau": [job.at_plateau for job in jobs],
    }  # fmt: skip
    if not told["gain_L"][-1] > 0:
        log.info("%s: nothing is gained, so there is no d", cell.name)
        return told
    choice = choose(curves, np.random.default_rng(0))
    log.info("%s: d = %d [%d, %d]", cell.name, choice.gain_d, *choice.gain_ci)
    return told | {
        "d": choice.gain_d, "d_ci": list(choice.gain_ci), "rule_d": choice.d,
    }  # fmt: skip
