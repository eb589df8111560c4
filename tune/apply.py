"""`cllm tune --apply`: train what the last sweep or choice over these texts came to, in full."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from cllm.errors import InputError
from cllm.files import read_json
from cllm.run import RunFolder
from cllm.settings import LEAST_FOR_VOIDS
from tune.check import BY_SIZES
from tune.space import Budget

log = logging.getLogger(__name__)

KEPT = "tune.json"  # what the last sweep or choice came to


def last(run: RunFolder) -> dict[str, Any]:
    """What the last sweep or choice over these texts came to; nothing where there was none."""
    kept = run.path / "tune" / KEPT
    told: dict[str, Any] = read_json(kept) if kept.exists() else {}
    return told if told and told.get("corpus") == run.load_corpus().hash else {}


def apply(run: RunFolder, options: argparse.Namespace) -> dict[str, Any]:
    """Train the last sweep's best point, with the dimension that the rule chose if it chose one.

    With the whole budget of the preset asked for; a chosen dimension to its plateau within as many
    budgets as the models that it was chosen by, unless --seconds or --steps say otherwise.
    """
    from cllm import pipeline
    from tune.dimension import to_plateau

    kept, told = run.path / "tune" / KEPT, last(run)
    if not kept.exists():
        raise InputError(f"{kept} does not exist; find something to apply with `cllm tune`")
    if not told:
        raise InputError(f"{kept} is of other texts than {run.corpus}; run `cllm tune` again")
    changes = (*told["settings"]["set"], *options.set)
    o, aim = options, told["settings"]["aim"]
    budget = Budget(
        o.preset or told["settings"]["preset"], aim, o.seed, o.seconds, o.steps, changes
    )
    point: dict[str, Any] = dict(told["best"]["point"])
    if dim := told.get("dimension", {}).get("d"):
        point["dim"] = max(dim, LEAST_FOR_VOIDS) if aim == "voids" else dim
        if aim == "text" and told["dimension"].get("by") == BY_SIZES:
            point["train.nested"] = False  # as the models were that it was chosen by
    elif "dim" not in point:
        raise InputError(
            f"by {kept} no dimension was enough, so there is none to apply; choose again with a "
            "larger --d-max or --cap, or search with `cllm tune`"
        )
    elif "dimension" in told:
        log.info("no dimension was enough by the rule; the best trial's is taken")
    log.info("training in full: %s", ", ".join(f"{name} {v}" for name, v in point.items()))
    settings = budget.settings(point)
    if dim and "cap" in told["settings"] and not (o.seconds or o.steps):
        loop = to_plateau(settings.train.loop, told["settings"]["cap"])
        train = settings.train.model_copy(update={"loop": loop})
        settings = settings.model_copy(update={"train": train})
    pipeline.train_model(run, settings, allow_weak=options.allow_weak_base)
    log.info("next: cllm embed, voids, generate, evaluate, report with --run %s", options.run)
    return dict(run.notes()["model"])
