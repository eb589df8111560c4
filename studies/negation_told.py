"""What the article claims, beside what was measured: decided by a rule stated beforehand.

**Same direction**: what the claim says to be larger surely is: its paired difference is above two
standard errors. **Reproduced**: so it is, and the mean lies within two standard errors of the
difference (and half the last digit) of the figure, if one is given. Else **not reproduced**.
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
from cllm.metrics import of_few

Values = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]
ERRORS = 2.0  # standard errors
CHANCE = 50.0
VERDICTS = {"reproduced": "#009E73", "same direction, other size": "#E69F00",
            "not reproduced": "#D55E00"}  # fmt: skip
LINES = {  # of the chains: colour, name; Okabe and Ito 2008
    "0": ("#D55E00", "no true examples"), "0.1": ("#E69F00", "10 %"), "0.2": ("#56B4E9", "20 %"),
    "0.3": ("#0072B2", "30 %"), "0.5": ("#009E73", "50 % true examples"),
    "soft": ("#CC79A7", "none, soft labels"),
    "0.3, labels of the last": ("#7A869A", "none, the mix of 30 %"),
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A value in points, by seed, and the difference that is said to be above nothing."""

    name: str
    task: str
    of: Callable[[Rows], Values]
    above: Callable[[Rows], Values]
    value: float | None = None
    sd: float | None = None  # none is given: taken as what was measured
    digit: float = 0.1  # the last one of the value
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


def _minus(left: Callable[[Rows], Values], right: Callable[[Rows], Values] | float
          ) -> Callable[[Rows], Values]:  # fmt: skip
    return lambda rows: left(rows) - (right if isinstance(right, float) else right(rows))


def _mean(*parts: Callable[[Rows], Values]) -> Callable[[Rows], Values]:
    return lambda rows: np.mean([part(rows) for part in parts], axis=0)


def _chain(share: str, generation: int, test: str = "hard") -> Callable[[Rows], Values]:
    return _at("chain", share, generation, test)


def _best(task: str, shape: str) -> Callable[[Rows], Values]:
    return _at(task, shape, "best")


def _least(*parts: Callable[[Rows], Values]) -> Callable[[Rows], Values]:
    return lambda rows: np.min([part(rows) for part in parts], axis=0)


_LAST = 5  # generation
_EASY = [_chain("0", generation, "easy") for generation in range(3)]
_HARD = [_chain("0", generation) for generation in range(3)]
_FALLS = [_minus(of[0], of[2]) for of in (_HARD, _EASY)]
_NEIGHBOUR = _minus(_best("zigzag", "neighbour"), _best("zigzag", "wide"))
_ANCHOR = _minus(_best("pivot", "anchor"), _best("pivot", "plain"))
_WORSE = _minus(_best("pivot", "plain"), _best("pivot", "neighbour"))
_KEPT = _minus(_mean(_chain("0.2", _LAST), _chain("0.3", _LAST)), _chain("0", _LAST))
CLAIMS = (
    Claim("random negatives, easy", "sorted", _at("baseline", "easy"),
          _minus(_at("baseline", "easy"), _at("baseline", "hard")), 100.0, 0.1),
    Claim("random negatives, hard", "sorted", _at("baseline", "hard"),
          _minus(_at("concept", "hard"), _at("baseline", "hard")), 50.0, 0.2),
    Claim("random negatives, length 40", "sorted", _at("baseline", "long"),
          _minus(_at("concept", "long"), _at("baseline", "long")), 50.3, 0.7),
    Claim("swaps, easy", "sorted", _at("concept", "easy"),
          _minus(_at("baseline", "easy"), _at("concept", "easy")), 97.7, 3.1),
    Claim("swaps, hard", "sorted", _at("concept", "hard"),
          _minus(_at("concept", "hard"), _at("baseline", "hard")), 85.3, 7.0),
    Claim("swaps, length 40", "sorted", _at("concept", "long"),
          _minus(_at("concept", "long"), CHANCE), 65.7, 7.6),
    Claim("collapse, generation 0, hard", "sorted", _HARD[0],
          _minus(_HARD[0], CHANCE), 85.6, 4.9),
    Claim("collapse, generation 1, hard", "sorted", _HARD[1],
          _minus(_HARD[0], _HARD[1]), 72.8, 5.4),
    Claim("collapse, generation 2, hard", "sorted", _HARD[2],
          _minus(_HARD[1], _HARD[2]), 68.0, 5.7),
    Claim("collapse, lowest of generations 0 to 2, easy", "sorted", _least(*_EASY),
          _minus(*_FALLS), 100.0, None, 1),
    Claim("soft labels, generation 2, hard", "sorted", _chain("soft", 2),
          _minus(_chain("soft", 2), _chain("0", 2)), 72.0),
    Claim("zigzag, neighbour delta − plain of equal width", "delta", _NEIGHBOUR, _NEIGHBOUR,
          40.0, None, 1, 10),
    Claim("pivot, anchor delta", "delta", _best("pivot", "anchor"), _ANCHOR, 98.0, None, 1, 10),
    Claim("pivot, anchor delta − plain", "delta", _ANCHOR, _ANCHOR, 11.0, None, 1, 10),
    Claim("pivot, plain − neighbour delta", "delta", _WORSE, _WORSE, seeds=10),
    Claim(f"20 to 30 % true examples − none, generation {_LAST}, hard", "sorted", _KEPT, _KEPT),
)  # fmt: skip


def told_of(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Claims, controls, and all of it in words; `rows` by task."""
    claims = [_decided(claim, rows[claim.task]) for claim in CLAIMS]
    counts = {name: sum(one["decision"] == name for one in claims) for name in VERDICTS}
    told: dict[str, Any] = {"claims": claims, "controls": _controls(rows), "decisions": counts}
    told["missed_by_chance"] = sum(one.get("missed_by_chance", 0.0) for one in claims)
    told["words"] = [
        f"{one['claim']}: claimed {_claimed(one)}, measured {one['mean']:.1f} ± {one['sd']:.1f} "
        f"(n = {one['n']}): {one['decision']}" for one in claims
    ] + [
        f"{', '.join(f'{count} {name}' for name, count in counts.items())}; "
        f"of figures that are all true, {told['missed_by_chance']:.1f} would be missed by chance."
    ]  # fmt: skip
    return told


def _decided(claim: Claim, rows: Rows) -> dict[str, Any]:
    """By the rule, and Welch's test of the difference."""
    from scipy.stats import t as student

    value_S, above_S = claim.of(rows), claim.above(rows)
    n, mean, sd = len(value_S), value_S.mean(), value_S.std(ddof=1)
    above, error = above_S.mean(), above_S.std(ddof=1) / n**0.5
    surely = above > ERRORS * error
    told = {"claim": claim.name, "value": claim.value, "claimed_sd": claim.sd,
            "claimed_n": claim.seeds, "n": n, "mean": mean, "sd": sd,
            "ci": of_few(value_S).ci, "above": above,
            "above_error": error}  # fmt: skip
    near = True
    if claim.value is not None:
        other_sd = sd if claim.sd is None else claim.sd
        parts = sd**2 / n, other_sd**2 / claim.seeds
        told["error"] = sum(parts) ** 0.5
        near = abs(mean - claim.value) <= ERRORS * told["error"] + claim.digit / 2
        if told["error"]:
            freedom = sum(parts) ** 2 / (
                parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (claim.seeds - 1)
            )
            told["p_value"] = 2 * student.sf(abs(mean - claim.value) / told["error"], freedom)
            told["missed_by_chance"] = 2 * student.sf(ERRORS, freedom)
    elif error:
        told["p_value"] = 2 * student.sf(abs(above / error), n - 1)
    same, other, no = VERDICTS
    told["decision"] = (same if near else other) if surely else no
    return {k: float(v) if isinstance(v, np.floating) else v for k, v in told.items()}


def _controls(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """What the article lacks: half of each, chains by true share, the last check, equal width."""
    some, told = rows["sorted"], {}
    for test in ("easy", "hard", "long"):
        told[f"half of each, {test}"] = _moments(_at("half", test)(some))
        told[f"half of each − swaps, {test}"] = _moments(
            _minus(_at("half", test), _at("concept", test))(some)
        )
    for share in some[0]["chain"]:
        for generation in range(_LAST + 1):
            name = f"chain, {share}, generation {generation}"
            for test in ("hard", "easy"):
                told[f"{name}, {test}"] = _moments(_chain(share, generation, test)(some))
            less_none = _minus(_chain(share, generation), _chain("0", generation))
            told[f"{name}, hard − none true"] = _moments(less_none(some))
    for task in ("zigzag", "pivot"):
        for check in ("best", "last"):
            for shape in ("plain", "wide", "neighbour", "anchor"):
                told[f"{task}, {shape}, {check}"] = _moments(_at(task, shape, check)(rows["delta"]))
            for shape in ("neighbour", "anchor"):
                for plain in ("plain", "wide"):
                    less = _minus(_at(task, shape, check), _at(task, plain, check))
                    told[f"{task}, {shape} − {plain}, {check}"] = _moments(less(rows["delta"]))
    return told


def _moments(value_S: Values) -> dict[str, Any]:
    """With a 95 % interval of the mean, Student's."""
    mean = of_few(value_S)
    return {"mean": mean.mean, "sd": float(value_S.std(ddof=1)), "n": mean.n, "ci": mean.ci}


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
    for share, (colour, label) in LINES.items():
        means = [
            controls[f"chain, {share}, generation {g}, hard"]["mean"] for g in range(_LAST + 1)
        ]
        chains.plot(means, "o-", color=colour, label=label)
    chains.axhline(CHANCE, color="#BBBBBB", linewidth=1, linestyle=":")
    chains.set_xlabel("generation")
    chains.set_ylabel("accuracy on one swap at length 20, %")
    chains.legend(fontsize=10)
    chains.set_title("Models that learn from each other's labels", fontsize=13)
    with replacing(path) as new:
        FigureCanvasAgg(figure).print_png(new)
