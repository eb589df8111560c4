"""Pool what VoidBench counted over models, with intervals over models and places.

summary(trials, rng)["void_over_density"]["withheld_fill"]["ci"]
"""

# Shapes: P places of an arm, C counts, W withheld combinations, S draws.
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.errors import InputError
from cllm.metrics import few, jeffreys_draws
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
    known = [name for name in SHARES if name != "withheld_fill" or True in labelled]
    pairs = _combinations(trials)
    arms = {
        arm: _arm(arm, trials, known, pairs, rng)
        for arm in ARMS
        if any(arm in t["spent"] for t in trials)
    }
    out: dict[str, Any] = {"models": len(trials), "arms": arms}
    if len(trials) < 3:
        out["note"] = "fewer than three models: intervals say little of how models differ"
    both = [t for t in trials if _rows(t, "void") and _rows(t, "density")]
    if both:
        out["void_over_density"] = {"models": len(both)} | {
            name: told_ratio(
                [tuple(_tally(t, arm, name, pairs) for arm in ("void", "density")) for t in both],
                rng,
            )
            for name in known
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
    known: Sequence[str],
    pairs: Sequence[tuple[str, ...]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    rows = [row for t in trials for row in _rows(t, arm)]
    told: dict[str, Any] = {
        name: sum(t["spent"].get(arm, {}).get(name, 0) for t in trials)
        for name in ("decodes", "starts", "likely", "repeated")
    }
    told |= _counted(rows)
    told |= {
        name: told_share([(_tally(t, arm, name, pairs),) for t in trials], rng) for name in known
    }
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
        values = [
            [(r["place"], r[column]) for r in _rows(t, arm) if column in r and r["valid"]]
            for t in trials
        ]
        if any(values):
            told[name] = told_mean(values, rng)
    return told


@dataclass(frozen=True)
class Tally:
    """One arm of one model, by place: what is counted, and of how many.

    Texts of withheld combinations have a column each, (P, W); all else has one column.
    """

    hits_PW: Floats
    texts_P: Floats

    @property
    def sums(self) -> Floats:
        """Hits and texts in all, (2,)."""
        return np.array([self.hits_PW.sum(), self.texts_P.sum()])

    def drawn(self, weight_W: Floats, rng: np.random.Generator) -> Floats:
        """The same with places drawn anew, and combinations weighted."""
        places = len(self.texts_P)
        if not places:
            return np.zeros(2)
        times_P = rng.multinomial(places, np.full(places, 1 / places))
        hits_W, texts = times_P @ self.hits_PW, float(times_P @ self.texts_P)
        hits = float(hits_W @ weight_W)
        return np.array([hits, texts - float(hits_W.sum()) + hits])


def _combinations(trials: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Withheld combinations: those that some text names, then the rest of them, nameless."""
    found = sorted(
        {tuple(r["combination"]) for t in trials for r in t["rows"] if r.get("withheld")}
    )
    missing = max(t.get("withheld", 0) for t in trials) - len(found)
    return found + [()] * missing


def _tally(
    trial: dict[str, Any], arm: str, share: str, combinations: Sequence[tuple[str, ...]]
) -> Tally:
    """Of one of SHARES."""
    above, below = SHARES[share]
    columns = combinations if above == "withheld" and combinations else [()]
    column_of = {combination: number for number, combination in enumerate(columns)}
    rows = _rows(trial, arm)
    places = {place: number for number, place in enumerate(dict.fromkeys(r["place"] for r in rows))}
    hits_PW, texts_P = np.zeros((len(places), len(columns))), np.zeros(len(places))
    for row in rows:
        place = places[row["place"]]
        texts_P[place] += below == "texts" or bool(row.get(below))
        if row.get(above):
            hits_PW[place, column_of[tuple(row["combination"])] if above == "withheld" else 0] += 1
    return Tally(hits_PW[texts_P > 0], texts_P[texts_P > 0])


def told_share(
    models: Sequence[tuple[Tally, ...]], rng: np.random.Generator
) -> dict[str, Any] | None:
    """A share of an arm, pooled over models, with its interval; None where nothing was counted."""
    hits, texts = np.sum([one.sums for (one,) in models], axis=0)
    if not texts:
        return None
    (draws_S,) = _share_draws(models, rng)
    (low, high), share = _bounds(draws_S), float(hits / texts)
    return {"share": share, "ci": [min(low, share), max(high, share)]}


def told_ratio(
    models: Sequence[tuple[Tally, ...]], rng: np.random.Generator
) -> dict[str, Any] | None:
    """Share of the first arm over that of the second, and less it; half a text more on both sides.

    Where the second counts none, the ratio has a lower bound only: the rest is None.
    """
    first, second = (np.sum([arms[i].sums for arms in models], axis=0) for i in (0, 1))
    if not (first[1] and second[1]):
        return None
    one, other = ((hits + 0.5) / (texts + 1.0) for hits, texts in (first, second))
    top_S, bottom_S = _share_draws(models, rng)
    least, lowest = (0.5 / (texts + 1.0) for _, texts in (first, second))
    low, high = _bounds(np.maximum(top_S, least) / np.maximum(bottom_S, lowest))
    known = second[0] > 0
    return {
        "ratio": float(one / other) if known else None,
        "ci": [low, high if known else None],
        "difference": float(first[0] / first[1] - second[0] / second[1]),
        "difference_ci": _bounds(top_S - bottom_S),
    }


def told_mean(models: Sequence[Sequence[tuple[Any, float]]], rng: np.random.Generator) -> Row:
    """Mean of some number over texts of all models, of (place, number); intervals as of a share."""
    places_M = [_by_place(texts) for texts in models if texts]
    sums_M2 = np.array([places_P2.sum(0) for places_P2 in places_M])
    mean = sums_M2[:, 0].sum() / sums_M2[:, 1].sum()
    draws = []
    for _ in range(DRAWS):
        chosen = rng.integers(len(places_M), size=len(places_M))
        drawn_2 = np.sum(
            [rng.choice(places_M[row], len(places_M[row])).sum(0) for row in chosen], 0
        )
        original_2 = sums_M2[chosen].sum(0)
        between = original_2[0] / original_2[1] - mean
        draws.append(drawn_2[0] / drawn_2[1] + (few(len(places_M)) - 1) * between)
    return {"mean": float(mean), "ci": _bounds(np.array(draws))}


def _by_place(texts: Sequence[tuple[Any, float]]) -> Floats:
    """Sum of the numbers and count of the texts of each place, (P, 2)."""
    sums: dict[Any, list[float]] = {}
    for place, number in texts:
        total = sums.setdefault(place, [0.0, 0.0])
        total[0] += number
        total[1] += 1
    return np.array([*sums.values()])


def _bounds(draws: Floats) -> list[float]:
    return [float(x) for x in np.quantile(draws, (0.025, 0.975))]


def _share_draws(models: Sequence[tuple[Tally, ...]], rng: np.random.Generator) -> list[Floats]:
    """Draws (S,) of each arm's share: models with replacement, then their places.

    Withheld combinations are drawn as well, the same ones for all models and arms: another corpus
    would withhold others. What models differ by is stretched, as few of them tell little
    (`metrics.few`). Where every place is alike there is nothing to resample: then places are the
    observations of `jeffreys_draws`.
    """
    chosen_SM = rng.integers(len(models), size=(DRAWS, len(models)))
    width = models[0][0].hits_PW.shape[1]
    weight_SW = rng.multinomial(width, np.full(width, 1 / width), DRAWS).astype(float)
    found = []
    for arm in range(len(models[0])):
        tallies = [arms[arm] for arms in models]
        hits_P = np.concatenate([one.hits_PW.sum(1) for one in tallies])
        texts_P = np.concatenate([one.texts_P for one in tallies])
        if np.ptp(hits_P / texts_P) == 0:
            share = float(hits_P[0] / texts_P[0])
            found.append(jeffreys_draws(share, len(texts_P), rng, DRAWS))
            continue
        sums_M2 = np.array([one.sums for one in tallies])
        total = sums_M2.sum(0)
        drawn_S2 = np.array([
            np.sum([tallies[row].drawn(weight_W, rng) for row in rows], axis=0)
            for rows, weight_W in zip(chosen_SM, weight_SW, strict=True)
        ])  # fmt: skip
        original_S2 = sums_M2[chosen_SM].sum(1)
        some_S = (drawn_S2[:, 1] > 0) & (original_S2[:, 1] > 0)
        drawn_S2, original_S2 = drawn_S2[some_S], original_S2[some_S]
        between_S = original_S2[:, 0] / original_S2[:, 1] - total[0] / total[1]
        stretch_S = (few(len(models)) - 1) * between_S
        share_S = np.clip(drawn_S2[:, 0] / drawn_S2[:, 1] + stretch_S, 0, 1)
        found.append(rng.choice(share_S, DRAWS) if len(share_S) < DRAWS else share_S)
    return found
