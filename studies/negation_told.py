"""What the article claims, beside what was measured: decided by a rule stated beforehand.

**Reproduced**: the mean lies within two standard errors of the difference (and half the last digit)
of what is claimed, or, where no figure is, what the claim says to be larger surely is. **Same
direction, other size**: not so, but that surely is larger: by two standard errors of its
paired difference. **Not reproduced**: neither.
"""

# Shapes: S seeds, C claims.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.files import replacing

Values = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]
ERRORS = 2.0  # standard errors
DIGIT = 0.05  # half the last digit of what is claimed, points
CHANCE = 50.0
VERDICTS = {"reproduced": "#009E73", "same direction, other size": "#E69F00",
            "not reproduced": "#D55E00"}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A value in points, by seed, and what is said to be larger than nothing."""

    name: str
    task: str
    of: Callable[[Rows], Values]
    larger: Callable[[Rows], Values]
    value: float | None = None
    sd: float | None = None  # none: as what was measured
    seeds: int = 20


def _at(*path: str | int) -> Callable[[Rows], Values]:
    """Points of each seed, (S,)."""

    def values(rows: Rows) -> Values:
        found = []
        for row in rows:
            inner: Any = row
            for key in path:
                inner = inner[key]
            found.append(100 * float(inner))
        return np.array(found)

    return values


def _less(left: Callable[[Rows], Values], right: Callable[[Rows], Values] | float
          ) -> Callable[[Rows], Values]:  # fmt: skip
    return lambda rows: left(rows) - (right if isinstance(right, float) else right(rows))


def _mean(*parts: Callable[[Rows], Values]) -> Callable[[Rows], Values]:
    return lambda rows: np.mean([part(rows) for part in parts], axis=0)


def _chain(share: str, generation: int, test: str = "hard") -> Callable[[Rows], Values]:
    return _at("chain", share, generation, test)


def _best(task: str, shape: str) -> Callable[[Rows], Values]:
    return _at(task, shape, "best")


_LAST = 5  # generation
_EASY = [_chain("0", generation, "easy") for generation in range(3)]
_HARD = [_chain("0", generation) for generation in range(3)]
CLAIMS = (
    Claim("random negatives, easy", "sorted", _at("baseline", "easy"),
          _less(_at("baseline", "easy"), _at("baseline", "hard")), 100.0, 0.1),
    Claim("random negatives, hard", "sorted", _at("baseline", "hard"),
          _less(_at("concept", "hard"), _at("baseline", "hard")), 50.0, 0.2),
    Claim("random negatives, length 40", "sorted", _at("baseline", "long"),
          _less(_at("concept", "long"), _at("baseline", "long")), 50.3, 0.7),
    Claim("swaps, easy", "sorted", _at("concept", "easy"),
          _less(_at("baseline", "easy"), _at("concept", "easy")), 97.7, 3.1),
    Claim("swaps, hard", "sorted", _at("concept", "hard"),
          _less(_at("concept", "hard"), _at("baseline", "hard")), 85.3, 7.0),
    Claim("swaps, length 40", "sorted", _at("concept", "long"),
          _less(_at("concept", "long"), CHANCE), 65.7, 7.6),
    Claim("collapse, generation 0, hard", "sorted", _HARD[0], _less(_HARD[0], CHANCE), 85.6, 4.9),
    Claim("collapse, generation 1, hard", "sorted", _HARD[1], _less(_HARD[0], _HARD[1]), 72.8, 5.4),
    Claim("collapse, generation 2, hard", "sorted", _HARD[2], _less(_HARD[1], _HARD[2]), 68.0, 5.7),
    Claim("collapse, generations 0 to 2, easy", "sorted", _mean(*_EASY),
          _less(_mean(*_EASY), _mean(*_HARD)), 100.0),
    Claim("soft labels, generation 2, hard", "sorted", _chain("soft", 2),
          _less(_chain("soft", 2), _chain("0", 2)), 72.0),
    Claim("zigzag, neighbour delta − plain of equal width", "delta",
          _less(_best("zigzag", "neighbour"), _best("zigzag", "wide")),
          _less(_best("zigzag", "neighbour"), _best("zigzag", "wide")), 40.0, None, 10),
    Claim("pivot, anchor delta", "delta", _best("pivot", "anchor"),
          _less(_best("pivot", "anchor"), _best("pivot", "plain")), 98.0, None, 10),
    Claim("pivot, anchor delta − plain", "delta",
          _less(_best("pivot", "anchor"), _best("pivot", "plain")),
          _less(_best("pivot", "anchor"), _best("pivot", "plain")), 11.0, None, 10),
    Claim("pivot, plain − neighbour delta", "delta",
          _less(_best("pivot", "plain"), _best("pivot", "neighbour")),
          _less(_best("pivot", "plain"), _best("pivot", "neighbour"))),
    Claim(f"20 to 30 % true examples − none, generation {_LAST}, hard", "sorted",
          _less(_mean(_chain("0.2", _LAST), _chain("0.3", _LAST)), _chain("0", _LAST)),
          _less(_mean(_chain("0.2", _LAST), _chain("0.3", _LAST)), _chain("0", _LAST))),
)  # fmt: skip


def told_of(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Claims, controls, and all of it in words; `rows` by task."""
    claims = [_decided(claim, rows[claim.task]) for claim in CLAIMS]
    told: dict[str, Any] = {"claims": claims, "controls": _controls(rows)}
    told["words"] = [
        f"{one['claim']}: claimed {_claimed(one)}, measured {one['mean']:.1f} ± {one['sd']:.1f} "
        f"(n = {one['n']}): {one['decision']}" for one in claims
    ]  # fmt: skip
    return told


def _decided(claim: Claim, rows: Rows) -> dict[str, Any]:
    """By the rule, and Welch's test of the difference."""
    from scipy.stats import t as student
    from scipy.stats import ttest_ind_from_stats

    value_S, larger_S = claim.of(rows), claim.larger(rows)
    n, mean, sd = len(value_S), value_S.mean(), value_S.std(ddof=1)
    larger, error = larger_S.mean(), larger_S.std(ddof=1) / n**0.5
    surely = larger > ERRORS * error
    half = student.ppf(0.975, n - 1) * sd / n**0.5
    told = {"claim": claim.name, "value": claim.value, "claimed_sd": claim.sd,
            "claimed_n": claim.seeds, "n": n, "mean": mean, "sd": sd,
            "ci": [mean - half, mean + half], "larger": larger, "larger_error": error}  # fmt: skip
    same = surely
    if claim.value is not None:
        other_sd = sd if claim.sd is None else claim.sd
        apart = mean - claim.value
        told["error"] = (sd**2 / n + other_sd**2 / claim.seeds) ** 0.5
        same = abs(apart) <= ERRORS * told["error"] + DIGIT
        if sd or other_sd:
            test = ttest_ind_from_stats(
                mean, sd, n, claim.value, other_sd, claim.seeds, equal_var=False
            )
            told["p_value"] = float(test.pvalue)
    elif error:
        told["p_value"] = float(2 * student.sf(abs(larger / error), n - 1))
    verdicts = list(VERDICTS)
    told["decision"] = verdicts[0] if same else verdicts[1] if surely else verdicts[2]
    return {k: float(v) if isinstance(v, np.floating) else v for k, v in told.items()}


def _controls(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """What the article lacks: half of each, chains by true share, the last check, equal width."""
    told = {
        f"half of each, {test}": _summed(_at("half", test)(rows["sorted"]))
        for test in ("easy", "hard", "long")
    }
    half_less = _less(_at("half", "hard"), _at("concept", "hard"))
    told["half of each − swaps, hard"] = _summed(half_less(rows["sorted"]))
    for share in rows["sorted"][0]["chain"]:
        for generation in range(_LAST + 1):
            name = f"chain, {share}, generation {generation}"
            for test in ("hard", "easy"):
                told[f"{name}, {test}"] = _summed(_chain(share, generation, test)(rows["sorted"]))
    for task, pairs in {
        "zigzag": [("neighbour", "wide"), ("anchor", "wide")],
        "pivot": [("anchor", "plain"), ("anchor", "wide"), ("neighbour", "plain")],
    }.items():
        for shape in ("plain", "wide", "neighbour", "anchor"):
            for check in ("best", "last"):
                told[f"{task}, {shape}, {check}"] = _summed(_at(task, shape, check)(rows["delta"]))
        for left, right in pairs:
            for check in ("best", "last"):
                less = _less(_at(task, left, check), _at(task, right, check))
                told[f"{task}, {left} − {right}, {check}"] = _summed(less(rows["delta"]))
    return told


def _summed(value_S: Values) -> dict[str, float]:
    return {"mean": float(value_S.mean()), "sd": float(value_S.std(ddof=1)), "n": len(value_S)}


def _claimed(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return "above 0"
    spread = "" if one["claimed_sd"] is None else f" ± {one['claimed_sd']}"
    return f"{one['value']}{spread}"


def draw_claims(path: Path, told: Mapping[str, Any]) -> None:
    """Write a PNG: claims beside measurements, and chains by true share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), dpi=100, facecolor="white", layout="constrained")
    claims, chains = figure.subplots(1, 2, width_ratios=(1.3, 1))
    for row, one in enumerate(reversed(told["claims"])):
        colour = VERDICTS[one["decision"]]
        low, high = one["ci"]
        claims.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        claims.plot(one["mean"], row, "o", color=colour, markersize=7)
        if one["value"] is not None:
            claims.plot(one["value"], row, "d", color="black", markersize=6, fillstyle="none")
    claims.set_yticks(range(len(told["claims"])),
                      [one["claim"] for one in reversed(told["claims"])])  # fmt: skip
    claims.axvline(0, color="#BBBBBB", linewidth=1)
    claims.axvline(CHANCE, color="#BBBBBB", linewidth=1, linestyle=":")
    for name, colour in VERDICTS.items():
        claims.plot([], [], "o-", color=colour, label=name)
    claims.plot([], [], "d", color="black", fillstyle="none", label="claimed")
    claims.set_xlabel("points of accuracy; mean and 95 % interval over seeds")
    claims.legend(loc="upper left", fontsize=10)
    claims.set_title("Claims beside measurements", fontsize=13)
    controls = told["controls"]
    shares = list(dict.fromkeys(name.split(", ")[1] for name in controls if "chain" in name))
    for share, colour in zip(
        shares, ("#D55E00", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7"), strict=True
    ):
        means = [
            controls[f"chain, {share}, generation {g}, hard"]["mean"] for g in range(_LAST + 1)
        ]
        label = "soft labels" if share == "soft" else f"{float(share):.0%} true examples"
        chains.plot(means, "o-", color=colour, label=label)
    chains.axhline(CHANCE, color="#BBBBBB", linewidth=1, linestyle=":")
    chains.set_xlabel("generation")
    chains.set_ylabel("accuracy on one swap at length 20, %")
    chains.legend(fontsize=10)
    chains.set_title("Models that learn from each other's labels", fontsize=13)
    with replacing(path) as new:
        FigureCanvasAgg(figure).print_png(new)
