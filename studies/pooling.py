"""Pool what VoidBench counted over models, with intervals over models and places.

summary(trials, rng)["void_over_density"]["withheld_fill"]["ci"]
"""

# Shapes: P places of an arm, C counts.
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.errors import InputError
from cllm.metrics import few
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
    """Every arm's funnel, and the void arm over the density arm; intervals over models, places.

    `over_chance`: the later fill over the share of real unseen texts that would count.
    """
    labelled = {"withheld" in row for t in trials for row in t["rows"]}
    if len(labelled) > 1:
        raise InputError("models of built-in recipes and of other texts have no common summary")
    known = {n: counts for n, counts in SHARES.items() if n != "withheld_fill" or True in labelled}
    arms = {
        arm: _arm(arm, trials, known, rng) for arm in ARMS if any(arm in t["spent"] for t in trials)
    }
    out: dict[str, Any] = {"models": len(trials), "arms": arms}
    if len(trials) < 3:
        out["note"] = "fewer than three models: intervals say little of how models differ"
    both = [t for t in trials if _rows(t, "void") and _rows(t, "density")]
    if both:
        pairs = [(_by_place(_rows(t, "void")), _by_place(_rows(t, "density"))) for t in both]
        out["void_over_density"] = {"models": len(both)} | {
            name: told_ratio(pairs, *counts, rng) for name, counts in known.items()
        }
    return out


def each(trial: dict[str, Any]) -> dict[str, dict[str, int]]:
    """One model's counts, by arm."""
    return {arm: _counted(rows) for arm in ARMS if (rows := _rows(trial, arm))}


def _rows(trial: dict[str, Any], arm: str) -> list[Row]:
    return [row for row in trial["rows"] if row["arm"] == arm]


def _aimed(rows: Sequence[Row]) -> bool:
    """Whether the texts were written from points: otherwise there is nothing to hit."""
    return any(row.get("hit") is not None for row in rows)


def _counted(rows: Sequence[Row]) -> dict[str, int]:
    told = {"texts": len(rows)} | {n: sum(bool(row.get(n)) for row in rows) for n in COUNTS[1:]}
    if rows and not _aimed(rows):
        told = {name: count for name, count in told.items() if name not in ("hit", "yields")}
    return told | {"new": sum(row["valid"] and not row["duplicate"] for row in rows)}


def _arm(
    arm: str,
    trials: Sequence[dict[str, Any]],
    known: Mapping[str, tuple[str, str]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    rows = [row for t in trials for row in _rows(t, arm)]
    counts = [_by_place(_rows(t, arm)) for t in trials]
    told: dict[str, Any] = {
        name: sum(t["spent"].get(arm, {}).get(name, 0) for t in trials)
        for name in ("decodes", "starts", "likely", "repeated")
    }
    told |= _counted(rows)
    told |= {name: told_share(counts, *columns, rng) for name, columns in known.items()}
    if rows and not _aimed(rows):
        told["new_share"] = told.pop("yield")
    known_chance = [t["later_by_chance"] for t in trials if t["later_by_chance"] is not None]
    by_chance = float(np.mean(known_chance)) if known_chance else 0.0
    if told["later_fill"] and by_chance:
        fill = told["later_fill"]
        fill["over_chance"] = fill["share"] / by_chance
        fill["over_chance_ci"] = [bound / by_chance for bound in fill["ci"]]
    if "withheld_fill" in known:
        found = Counter(tuple(row["combination"]) for row in rows if row["withheld"])
        told["distinct_withheld"] = len(found)
        told["of_each_withheld"] = sorted(found.values(), reverse=True)
    inside = [row for row in rows if row.get("in_void")]
    if inside:
        told["in_voids"] = _counted(inside)
    for name, column in (("plausibility", "pmi"), ("unknown_items", "unknown_items")):
        values = [row[column] for row in rows if column in row and row["valid"]]
        if values:
            told[name] = float(np.mean(values))
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
    (draws,) = _share_draws([(c_PC[:, [a, b]],) for c_PC in counts], rng)
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
    top, bottom = _share_draws([tuple(c[:, [a, b]] for c in pair) for pair in pairs], rng)
    some = (0.5 / (first_C[b] + 1.0), 0.5 / (second_C[b] + 1.0))
    ratios = np.maximum(top, some[0]) / np.maximum(bottom, some[1])
    return {"ratio": float(one / other), "ci": _bounds(ratios)}


def _bounds(draws: Floats) -> list[float]:
    return [float(x) for x in np.quantile(draws, (0.025, 0.975))]


def _share_draws(
    models: Sequence[tuple[Floats, ...]], rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Draws of each arm's share from counts (P, 2): models with replacement, then their places.

    What models differ by is stretched, as few of them tell little (`metrics.few`). Where every
    place is alike there is nothing to resample: Jeffreys' posterior of a share (Brown, Cai &
    DasGupta 2001), with places as its observations.
    """
    sums_MA2 = np.array([[c_P2.sum(0) for c_P2 in arms] for arms in models])
    chosen_DM = rng.integers(len(models), size=(DRAWS, len(models)))
    found = []
    for arm in range(sums_MA2.shape[1]):
        places = np.concatenate([arms[arm] for arms in models])
        places = places[places[:, 1] > 0]
        total = sums_MA2[:, arm].sum(0)
        share_P = places[:, 0] / places[:, 1]
        if np.ptp(share_P) == 0:
            alike = share_P[0] * len(places)
            found.append(rng.beta(alike + 0.5, len(places) - alike + 0.5, DRAWS))
            continue
        drawn_D2 = np.array([
            np.sum([_resampled(models[row][arm], rng) for row in rows], axis=0)
            for rows in chosen_DM
        ])  # fmt: skip
        original_D2 = sums_MA2[chosen_DM, arm].sum(1)
        some_D = (drawn_D2[:, 1] > 0) & (original_D2[:, 1] > 0)
        drawn_D2, original_D2 = drawn_D2[some_D], original_D2[some_D]
        between_D = original_D2[:, 0] / original_D2[:, 1] - total[0] / total[1]
        stretch_D = (few(len(models)) - 1) * between_D
        share_D = np.clip(drawn_D2[:, 0] / drawn_D2[:, 1] + stretch_D, 0, 1)
        found.append(rng.choice(share_D, DRAWS) if len(share_D) < DRAWS else share_D)
    return found


def _resampled(counts_P2: Floats, rng: np.random.Generator) -> Floats:
    if not len(counts_P2):
        return np.zeros(2)
    times_P = rng.multinomial(len(counts_P2), np.full(len(counts_P2), 1 / len(counts_P2)))
    return np.asarray(times_P @ counts_P2)
