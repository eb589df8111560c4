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
DRAWS = 2000


def summary(trials: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """Every arm's funnel, and the void arm over the density arm; intervals over models, places."""
    counts = {
        arm: [_by_place(t["rows"], arm) for t in trials]
        for arm in ARMS if any(r["arm"] == arm for t in trials for r in t["rows"])
    }  # fmt: skip
    arms = {arm: _arm(arm, trials, some, rng) for arm, some in counts.items()}
    out: dict[str, Any] = {"models": len(trials), "arms": arms}
    if {"void", "density"} <= counts.keys():
        pairs = list(zip(counts["void"], counts["density"], strict=True))
        out["void_over_density"] = {
            name: told_ratio(pairs, above, below, rng)
            for name, above, below in (
                ("lift", "yields", "texts"),
                ("withheld_fill", "withheld", "yields"),
                ("withheld_of_all", "withheld", "texts"),
                ("later_fill", "later", "yields"),
            )
        }
    return out


def _arm(
    arm: str, trials: Sequence[dict[str, Any]], counts: list[Floats], rng: np.random.Generator
) -> dict[str, Any]:
    rows = [row for t in trials for row in t["rows"] if row["arm"] == arm]
    told: dict[str, Any] = {name: sum(bool(row.get(name)) for row in rows) for name in COUNTS[1:]}
    told |= {"texts": len(rows), "decodes": sum(t["decodes"].get(arm, 0) for t in trials)}
    told["new"] = sum(row["valid"] and not row["duplicate"] for row in rows)
    told["yield"] = told_share(counts, "yields", "texts", rng)
    if any("withheld" in row for row in rows):
        told["withheld_fill"] = told_share(counts, "withheld", "yields", rng)
        found = {tuple(r["combination"]) for r in rows if r.get("combination")}
        told["distinct_withheld"] = len(found)
    if any("later" in row for row in rows):
        told["later_fill"] = told_share(counts, "later", "yields", rng)
    known = [row["pmi"] for row in rows if "pmi" in row and row["valid"]]
    if known:
        told["plausibility"] = float(np.mean(known))
    return told


def _by_place(rows: Sequence[Row], arm: str) -> Floats:
    """Counts of an arm by place, (P, C)."""
    places: dict[str, list[int]] = {}
    for row in rows:
        if row["arm"] == arm:
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
    draws = np.array([d[a] / max(1.0, d[b]) for (d,) in _drawn([(c,) for c in counts], rng)])
    return {"share": float(sums[a] / sums[b]), "ci": np.quantile(draws, (0.025, 0.975)).tolist()}


def told_ratio(
    pairs: Sequence[tuple[Floats, ...]], above: str, below: str, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Share of the first arm over that of the second; half a text is added, for counts of 0."""
    a, b = COUNTS.index(above), COUNTS.index(below)

    def ratio(first_C: Floats, second_C: Floats) -> float:
        one, other = ((c[a] + 0.5) / (c[b] + 1.0) for c in (first_C, second_C))
        return float(one / other)

    first_C, second_C = (np.sum([pair[i].sum(0) for pair in pairs], axis=0) for i in (0, 1))
    if not (first_C[b] and second_C[b]):
        return None
    draws = np.array([ratio(*drawn) for drawn in _drawn(pairs, rng)])
    return {
        "ratio": ratio(first_C, second_C), "ci": np.quantile(draws, (0.025, 0.975)).tolist(),
    }  # fmt: skip


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
