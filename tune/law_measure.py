"""Measure the curve G(d) of every corpus of the law; hours, resumed where it was interrupted."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from cllm.curve import curve_lengths
from cllm.errors import InputError
from cllm.run import RunFolder
from cllm.settings import overridden
from tune.choice import choose
from tune.dimension import job_of
from tune.families import CELLS, Cell, prepared, shared_base, ship_base
from tune.space import Budget
from tune.statistics import METHOD, dimensions, entropies, quick
from tune.trial import share

log = logging.getLogger(__name__)

BASE = (  # one for all; in steps, so that a busy machine makes the same one
    "base.loop.steps=2000", "base.loop.seconds=0",
    "base.low_rank_loop.steps=3000", "base.low_rank_loop.seconds=0",
)  # fmt: skip
SCORES = "base.loop.evaluations=40"  # the best by held-out texts is kept
REFERENCE_STEPS = 1500  # most: on few texts it soon learns them by heart, and ends
REFERENCE_ENDS = "base.loop.plateau=0.5"  # nats a text that the last third has to be worth


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One record for each cell that is wanted, as it is done; InputError for an unknown one."""
    names, out, corpora = [cell.name for cell in CELLS], options.out, options.corpora
    if unknown := sorted({*options.only} - {*names}):
        raise InputError(f"--only has {', '.join(unknown)}; there are {', '.join(names)}")
    shared = shared_base(out, corpora, overridden("quick", changes=(*BASE, SCORES)))
    settings = overridden("quick", steps=REFERENCE_STEPS, changes=(SCORES, REFERENCE_ENDS))
    if options.ship_base:
        ship_base(shared)
    for cell in CELLS:
        if not options.only or cell.name in options.only:
            yield record(cell, prepared(cell, shared, out, corpora, settings), options)


def record(cell: Cell, run: RunFolder, options: argparse.Namespace) -> dict[str, Any]:
    """Statistics, curve and choice of one corpus, whose run was prepared."""
    corpus, base = run.load_corpus(), run.load_base()
    facts = quick(corpus) | dimensions(base, corpus)
    facts |= entropies(base, run.find_reference(base), corpus)
    restored = run.notes()["base"]["restored_tokens"]
    budget = Budget(steps=options.steps)
    lengths, seeds = curve_lengths(options.d_max), range(options.seeds)
    jobs = [job_of(run, budget, lengths, seed, weak=True) for seed in seeds]
    known = share(run, [job.settings for job in jobs]).arrays
    curves = [job.curve(known) for job in jobs]
    told = {
        "name": cell.name, "family": cell.family,
        "method": METHOD, "statistics": facts, "restored": restored,
        "lengths": list(curves[0].lengths), "seeds": len(curves),
        "gain_L": np.mean([curve.gain_LN.mean(1) for curve in curves], 0).tolist(),
        "round_trip_L": np.mean([curve.round_trip_L for curve in curves], 0).tolist(),
        "plateau": [job.at_plateau for job in jobs],
    }  # fmt: skip
    if not told["gain_L"][-1] > 0:
        log.info("%s: nothing is gained, so there is no d", cell.name)
        return told | {"d": None, "d_ci": None, "rule_d": None}
    choice = choose(curves, np.random.default_rng(0))
    log.info("%s: d = %d [%d, %d]", cell.name, choice.gain_d, *choice.gain_ci)
    return told | {
        "d": choice.gain_d, "d_ci": list(choice.gain_ci), "rule_d": choice.d,
    }  # fmt: skip
