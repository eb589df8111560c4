"""Choices of seeds that were measured apart, told together: intervals over seeds and texts.

python -m tune.pool docs/measured/choice.json docs/measured/choice-1.json

Of each file (`cllm tune --choose --json`) the models of one size are taken. Texts, the same of all
seeds, are drawn from the normal distribution that each gain's interval stands for, of each size
apart; seeds as in `metrics.bootstrap`.
"""

# Shapes: S seeds, L sizes.
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from cllm.console import one_line_errors
from cllm.errors import InputError
from cllm.files import read_json
from cllm.metrics import few, stretched
from tune.choice import DRAWS, NEAR, SHARE, bounds, enough_gain

SURE = (0.025, 0.975)
WIDE = 2 * NormalDist().inv_cdf(SURE[1])  # a 95 % interval, in standard errors


def pooled(several: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """Gains of each size and the smallest d, over seeds and texts; InputError: other sizes."""
    try:
        seeds_S = [{model["seed"] for model in told["trained"]} for told in several]
        rows = [told["check"]["sizes"] for told in several]
        sizes = [[row["d"] for row in some] for some in rows]
    except (KeyError, TypeError) as error:
        raise InputError(f"a file is no choice with models of one size: it lacks {error}") from None
    if any(len(some) != 1 for some in seeds_S) or len(set().union(*seeds_S)) != len(several):
        raise InputError(f"each file is to hold one seed, another one each; they hold {seeds_S}")
    if len(several) < 2 or any(some != sizes[0] for some in sizes):
        raise InputError(f"two files or more with models of the same sizes, not {sizes}")
    gain_SL = np.array([[row["gain"] for row in some] for some in rows])
    error_SL = np.array([[(row["ci"][1] - row["ci"][0]) / WIDE for row in some] for some in rows])
    trip_SL = np.array([[row["round_trip"] for row in some] for some in rows])
    wide_SL = np.stack([stretched(gain_S[:, None])[:, 0] for gain_S in gain_SL.T], axis=1)
    seeds, lengths = len(rows), sizes[0]
    row_BS = rng.integers(seeds, size=(DRAWS, seeds))
    noise_BL = rng.standard_normal((DRAWS, len(lengths))) * error_SL.mean(0)  # of all seeds alike
    drawn_BL = wide_SL[row_BS].mean(1) + noise_BL
    gain_L = gain_SL.mean(0)
    found = [enough_gain(lengths, one_L) for one_L in drawn_BL if one_L[-1] > 0]
    low_L, high_L = np.quantile(drawn_BL, SURE, axis=0)
    return {
        "d": enough_gain(lengths, gain_L), "ci": bounds(found), "share": SHARE,
        "seeds": seeds, "stretched_by": few(seeds),
        "sizes": [
            {"d": d, "gain": float(gain_L[i]), "ci": [float(low_L[i]), float(high_L[i])],
             "comes_back": bool((trip_SL[:, i] <= NEAR).all())}
            for i, d in enumerate(lengths)
        ],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    p = argparse.ArgumentParser(prog="tune.pool", description=(__doc__ or "").split("\n")[0])
    p.add_argument(
        "files", nargs="+", type=Path, help="of `cllm tune --choose --json`, a seed each"
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    options = p.parse_args(arguments)
    with one_line_errors():
        told = pooled([read_json(path) for path in options.files], np.random.default_rng(0))
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
