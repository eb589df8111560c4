"""What the clustering weight buys and costs: trials that differ in it, or in its floor, alone.

A search tries no two such points, so a sweep's best one is trained again with each weight, with
the variance floor and without, and several seeds.

rows = controls(space, plan, how, best, seeds=2).rows
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tune.space import FLOOR, SEED, WEIGHT, Range, Space
from tune.sweep import Found, How, sweep
from tune.trial import Plan


def control_space(space: Space, best: Mapping[str, Any], seeds: int, floor: float) -> Space | None:
    """The best point with each weight (of a range: its upper end), floor and seed.

    None where no weights were searched.
    """
    axis = space.axes.get(WEIGHT, ())
    weights = (axis.high,) if isinstance(axis, Range) else axis
    if not seeds or not any(weights):
        return None
    fixed = {name: (value,) for name, value in best["point"].items()}
    varied = {WEIGHT: (0, *weights), FLOOR: (0, floor), SEED: range(seeds)}
    return Space(fixed | {name: tuple(dict.fromkeys(values)) for name, values in varied.items()})


def controls(space: Space, plan: Plan, how: How, best: Mapping[str, Any], seeds: int) -> Found:
    """Train and measure them, over a cluster that was joined; no rows where nothing is asked.

    All are trained for as many steps, in batches of mixed lengths, so that they differ in nothing
    else, and weight 0 with and without the floor has to come to one and the same model.
    """
    floor = plan.budget.settings(best["point"]).train.cluster_floor
    wanted = control_space(space, best, seeds, floor)
    if wanted is None:
        return Found("", [], 0.0)
    changes = (*plan.budget.changes, "train.mixed=true")
    budget = replace(plan.budget, seconds=None, steps=int(best["steps"]), changes=changes)
    alike = replace(plan, budget=budget)
    found = sweep(wanted, alike, replace(how, search="grid", trials=None, prune=False))
    return replace(found, rows=[row | {"control": True} for row in found.rows])
