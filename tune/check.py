"""What models of one size say of the nested curve, and which dimension follows from both.

A nested model shares its coordinates among all its lengths, and may carry less than a model of one
size does; then those decide, between the sizes there are.

    told = checked(curves, alone, rng); dimension_of(choice.json(), told)
"""

# Shapes: S seeds, N texts, L lengths.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cllm.curve import Curve
from cllm.metrics import bootstrap
from cllm.schedule import COOLING
from tune.choice import SHARE, choose

GOOD_PART = 0.4  # of the largest gain: ratios of small ones mean nothing
BY_SIZES = "models of one size"


def checked(
    nested: Sequence[Curve], alone: Sequence[Curve], rng: np.random.Generator
) -> dict[str, Any]:
    """Models of one size, the nested ones' prefixes beside them, and the rule's choice by them.

    No choice where there are not two sizes, the largest of them d_max, with a gain.
    """
    dims = sorted({curve.lengths[0] for curve in alone})
    rows = []
    for dim in dims:
        alone_SN = np.stack([curve.gain_LN[0] for curve in alone if curve.lengths[0] == dim])
        moved_SN = np.stack([curve.moved_LN[0] for curve in alone if curve.lengths[0] == dim])
        prefix_SN = np.stack([curve.gain_LN[curve.lengths.index(dim)] for curve in nested])
        gain, difference = bootstrap(alone_SN, rng), bootstrap(prefix_SN - alone_SN, rng)
        rows.append({
            "d": dim, "gain": gain.mean, "ci": (gain.low, gain.high),
            "round_trip": float(np.median(moved_SN, axis=1).mean()),
            "nested_gain": float(prefix_SN.mean()),
            "nested_over_separate": float(prefix_SN.mean() / gain.mean),
            "difference": difference.mean, "difference_ci": (difference.low, difference.high),
        })  # fmt: skip
    whole = len(dims) > 1 and dims[-1] == nested[0].lengths[-1] and rows[-1]["gain"] > 0
    choice = choose(_by_seed(alone, dims), rng).json() if whole else None
    if choice and choice["d"] is not None:
        choice["between"] = _between(choice["d"], dims)
    return {"sizes": rows, "choice": choice}


def _between(d: int, dims: Sequence[int]) -> tuple[int, int]:
    """The sizes that were trained on both sides: what lies between them is interpolated."""
    return max((dim for dim in dims if dim <= d), default=d), min(dim for dim in dims if dim >= d)


def _by_seed(alone: Sequence[Curve], dims: Sequence[int]) -> list[Curve]:
    """The models of each seed as one curve; of every size there are as many, in one order."""
    of = {dim: [curve for curve in alone if curve.lengths[0] == dim] for dim in dims}
    return [
        Curve(
            tuple(dims),
            np.concatenate([curve.gain_LN for curve in some]),
            np.concatenate([curve.moved_LN for curve in some]),
        )
        for some in zip(*of.values(), strict=True)
    ]


def dimension_of(choice: Mapping[str, Any], check: Mapping[str, Any] | None) -> dict[str, Any]:
    """The dimension to take: the nested curve's, unless models of one size rule it out.

    They do where a prefix gains less than SHARE of what a model of its size does (of those with a
    good part of the gain there is): then its curve is not that of the sizes. `d` is None where none
    is enough. `ci` of models of one size reaches to the sizes that were trained on both sides.
    """
    other = (check or {}).get("choice")
    rows = (check or {}).get("sizes", ())
    least = GOOD_PART * max((row["gain"] for row in rows), default=0.0)
    told = [row["nested_over_separate"] for row in rows if row["gain"] >= least]
    agree = other is None or min(told) >= SHARE
    taken = choice if agree else other
    by = "the nested curve" if taken is choice else BY_SIZES
    ci = taken["d_ci"] and [*taken["d_ci"], *taken.get("between", ())]
    return {"d": taken["d"], "ci": ci and [min(ci), max(ci)], "by": by,
            "agree": None if other is None else agree}  # fmt: skip


def last_third(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Nats that the last third of a training's steps was worth before its rate fell.

    `lines` of metrics.jsonl; None where they are too few to say.
    """
    scored = [line for line in lines if "validation_nats" in line and line["budget"] < COOLING]
    if len(scored) < 3:
        return None
    until = scored[-1]["step"] * 2 / 3
    nats = [line["validation_nats"] for line in scored]
    earlier = [line["validation_nats"] for line in scored if line["step"] <= until]
    return float(min(earlier) - min(nats)) if earlier else None
