"""Pool what VoidBench counted over models, with intervals over models and places.

summary(trials, rng)["void_over_density"]["withheld_fill"]["ci"]
"""

# Shapes: P places of an arm, C counts.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.scoreboard import ARMS

Floats = NDArray[np.float64]
Row = dict[str, Any]
COUNTS = ("texts", "valid", "hit", "yields", "withheld", "later")
SHARES = {
    "yield": ("yields", "texts"), "withheld_fill": ("withheld", "yields"),
    "later_fill": ("later", "yields"),
}  # fmt: skip
DRAWS = 2000


def summary(trials: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """Every arm's funnel, and the void arm over the density arm; intervals over models, places."""
    arms = {arm: _arm(arm, trials, rng) for arm in ARMS if any(_rows(t, arm) for t in trials)}
    out: dict[str, Any] = {"models": len(trials), "arms": arms}
    both = [t for t in trials if _rows(t, "void") and _rows(t, "density")]
    if both:
        pairs = [(_by_place(_rows(t, "void")), _by_place(_rows(t, "density"))) for t in both]
        out["void_over_density"] = {"models": len(both)} | {
            name: told_ratio(pairs, *SHARES[name], rng) for name in SHARES
        }
    return out


def each(trial: dict[str, Any]) -> dict[str, dict[str, int]]:
    """One model's counts, by arm."""
    return {arm: _counted(rows) for arm in ARMS if (rows := _rows(trial, arm))}


def _rows(trial: dict[str, Any], arm: str) -> list[Row]:
    return [row for row in trial["rows"] if row["arm"] == arm]


def _counted(rows: Sequence[Row]) -> dict[str, int]:
    told = {"texts": len(rows)} | {n: sum(bool(row.get(n)) for row in rows) for n in COUNTS[1:]}
    return told | {"new": sum(row["valid"] and not row["duplicate"] for row in rows)}


def _arm(arm: str, trials: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    rows = [row for t in trials for row in _rows(t, arm)]
    counts = [_by_place(_rows(t, arm)) for t in trials]
    told: dict[str, Any] = {
        name: sum(t["spent"].get(arm, {}).get(name, 0) for t in trials)
        for name in ("decodes", "starts", "likely")
    }
    told |= _counted(rows)
    asked = {"yield", "later_fill"} | ({"withheld_fill"} if "withheld" in rows[0] else set())
    told |= {name: told_share(counts, *SHARES[name], rng) for name in SHARES if name in asked}
    if "withheld" in rows[0]:
        told["distinct_withheld"] = len({tuple(r["combination"]) for r in rows if r["withheld"]})
    inside = [row for row in rows if row.get("in_void")]
    if inside:
        told["in_voids"] = _counted(inside)
    for name, column in (("plausibility", "pmi"), ("unknown_items", "unknown_items")):
        known = [row[column] for row in rows if column in row and row["valid"]]
        if known:
            told[name] = float(np.mean(known))
    return told


def _by_place(rows: Sequence[Row]) -> Floats:
    """Counts by place, (P, C)."""
    places: dict[str, list[int]] = {}
    for row in rows:
        counted = places.setdefault(row["place"], [0] * len(COUNTS))
        for i, name in enumerate(COUNTS):
            counted[i] += 1 if name == "texts" else bool(row.get(name))
    return np.array(list(places.values()), dtype=float).reshape(-1, len(COUNTS))


def told_share(
    counts: list[Floats], above: str, below: str, rng: np.random.Generator
) -> dict[str, Any] | None:
    """A share of an arm, pooled over models, with its interval; None where nothing was counted."""
    a, b = COUNTS.index(above), COUNTS.index(below)
    sums = np.sum([c_PC.sum(0) for c_PC in counts], axis=0)
    if not sums[b]:
        return None
    (draws,) = _share_draws([(c_PC,) for c_PC in counts], a, b, rng)
    return {"share": float(sums[a] / sums[b]), "ci": _bounds(draws)}


def told_ratio(
    pairs: Sequence[tuple[Floats, ...]], above: str, below: str, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Share of the first arm over that of the second; half a text is added, for counts of 0."""
    a, b = COUNTS.index(above), COUNTS.index(below)
    first_C, second_C = (np.sum([pair[i].sum(0) for pair in pairs], axis=0) for i in (0, 1))
    if not (first_C[b] and second_C[b]):
        return None
    one, other = ((c[a] + 0.5) / (c[b] + 1.0) for c in (first_C, second_C))
    top, bottom = _share_draws(pairs, a, b, rng)
    return {"ratio": float(one / other), "ci": _bounds(top / bottom)}


def _bounds(draws: Floats) -> list[float]:
    return [float(x) for x in np.quantile(draws, (0.025, 0.975))]


def _share_draws(
    models: Sequence[tuple[Floats, ...]], a: int, b: int, rng: np.random.Generator
) -> list[Floats]:
    """Draws of each arm's share: models with replacement, then the places within each arm.

    Where all texts or none count, there is nothing to resample: draws are of Jeffreys' posterior
    of such a share (Brown, Cai & DasGupta 2001).
    """
    found: list[Floats] = []
    drawn = _drawn(models, rng)
    for arm in range(len(models[0])):
        total_C = np.sum([arms[arm].sum(0) for arms in models], axis=0)
        if total_C[a] in (0, total_C[b]):
            beta = rng.beta(total_C[a] + 0.5, total_C[b] - total_C[a] + 0.5, DRAWS)
            found.append(np.asarray(beta))
        else:
            sums_DC = np.array([sums[arm] for sums in drawn])
            half = 0.5 if len(models[0]) > 1 else 0.0  # only a ratio needs to stay finite
            found.append((sums_DC[:, a] + half) / np.maximum(sums_DC[:, b] + 2 * half, 1.0))
    return found


def _drawn(
    models: Sequence[tuple[Floats, ...]], rng: np.random.Generator
) -> list[tuple[Floats, ...]]:
    """Sums of counts with models drawn with replacement, then the places within each arm."""
    found = []
    for _ in range(DRAWS):
        chosen = [models[i] for i in rng.integers(len(models), size=len(models))]
        drawn = [tuple(_resampled(c_PC, rng) for c_PC in arms) for arms in chosen]
        found.append(tuple(np.sum(arm, axis=0) for arm in zip(*drawn, strict=True)))
    return found


def _resampled(counts_PC: Floats, rng: np.random.Generator) -> Floats:
    if not len(counts_PC):
        return np.zeros(len(COUNTS))
    times_P = rng.multinomial(len(counts_PC), np.full(len(counts_PC), 1 / len(counts_PC)))
    return np.asarray(times_P @ counts_PC)
