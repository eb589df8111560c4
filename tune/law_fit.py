"""Fit the law of the dimension, and try it on families of corpora that it has not seen.

law, tried = law_and_trial(corpora, proportional(QUICK)); law.predict(facts); tried["largest"]
"""

# Shapes: C corpora, F families, P predictors.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cllm.errors import InputError
from tune.choice import BENT
from tune.statistics import QUICK

Floats = NDArray[np.float64]
Record = Mapping[str, Any]  # what was measured of a corpus
MOST = 2  # predictors
LEAST = 3  # families
SURE = 0.95


@dataclass(frozen=True)
class Form:
    """What a law may rest on; the slopes of logarithms are fitted, or given, or all are 1."""

    predictors: tuple[str, ...] = ()
    free: bool = False
    given: tuple[float, ...] = ()


CONSTANT = Form()


def proportional(names: Sequence[str]) -> list[Form]:
    """A constant, and d in proportion to one statistic: one number to fit, for few families."""
    return [CONSTANT, *(Form((name,)) for name in names)]


def free(names: Sequence[str]) -> list[Form]:
    """A constant, and all of at most two statistics whose slopes are fitted."""
    sets = [some for size in range(1, MOST + 1) for some in combinations(names, size)]
    return [CONSTANT, *(Form(some, free=True) for some in sets)]


@dataclass(frozen=True)
class Law:
    """log d = offset + slopes * log predictors; `spread`: its error for families left out.

    Families count alike in `spread`, whatever number of corpora they have.
    """

    predictors: tuple[str, ...]
    offset: float
    slopes: tuple[float, ...]
    spread: float
    families: int
    d_max: int  # d is of the gain at so many coordinates
    ranges: Mapping[str, tuple[float, float]]  # of each statistic, where it was measured

    def predict(self, facts: Mapping[str, float]) -> float:
        """The d of a corpus with these statistics; d_max at most, as d by its definition."""
        return min(self._uncut(facts), float(self.d_max))

    def _uncut(self, facts: Mapping[str, float]) -> float:
        logs = [
            slope * np.log(facts[n]) for n, slope in zip(self.predictors, self.slopes, strict=True)
        ]
        return float(np.exp(self.offset + sum(logs)))

    def interval(self, facts: Mapping[str, float]) -> tuple[float, float]:
        """95 % prediction interval of d, for a corpus of a family that was not measured.

        Student's t, with families as what was drawn.
        """
        free = max(1, self.families - len(self.predictors) - 1)
        wide = float(stats.t.ppf((1 + SURE) / 2, free)) * self.spread
        d, most = self._uncut(facts), float(self.d_max)
        return min(d * float(np.exp(-wide)), most), min(d * float(np.exp(wide)), most)

    def beyond(self, facts: Mapping[str, float]) -> list[str]:
        """The statistics that are outside of what was measured, in words; predictors first."""
        told = []
        for name in sorted(self.ranges, key=lambda name: name not in self.predictors):
            low, high = self.ranges[name]
            if name in facts and not low <= facts[name] <= high:
                told.append(f"{name} {facts[name]:.3g} is outside of {low:.3g} to {high:.3g}")
        return told


def families_of(corpora: Sequence[Record]) -> list[str]:
    """Each once."""
    return sorted({str(one["family"]) for one in corpora})


def law_and_trial(corpora: Sequence[Record], forms: Sequence[Form]) -> tuple[Law, dict[str, Any]]:
    """The law over all corpora, and how laws of these forms do on families left out.

    Where they do no better than a constant, the law is one.
    """
    tried = left_out(corpora, forms)
    spread, flat = tried["spread"], tried["constant_spread"]
    form = best_form(corpora, forms) if spread < flat else CONSTANT
    return fit_law(corpora, form, min(spread, flat)), tried


def fit_law(corpora: Sequence[Record], form: Form, spread: float = 0.0) -> Law:
    """By least squares on logarithms, families alike."""
    x_CP, y_C = _logs(corpora, form.predictors)
    families = [one["family"] for one in corpora]
    weight_C = np.array([families.count(family) ** -0.5 for family in families])
    slopes_P = np.array(form.given or [1.0] * len(form.predictors))
    if form.free:
        with_one = np.column_stack([x_CP, np.ones(len(y_C))]) * weight_C[:, None]
        slopes_P = np.linalg.lstsq(with_one, y_C * weight_C, rcond=None)[0][:-1]
    offset = float(np.average(y_C - x_CP @ slopes_P, weights=weight_C**2))
    values = {n: [one["statistics"][n] for one in corpora] for n in {*QUICK, *form.predictors}}
    ranges = {name: (min(some), max(some)) for name, some in sorted(values.items())}
    d_max = max(one["lengths"][-1] for one in corpora)
    slopes = tuple(slopes_P.tolist())
    return Law(form.predictors, offset, slopes, spread, len({*families}), d_max, ranges)


def best_form(corpora: Sequence[Record], forms: Sequence[Form]) -> Form:
    """The one whose law does best on families left out; of equals the first."""
    return min(forms, key=lambda form: _error(corpora, form))


def left_out(corpora: Sequence[Record], forms: Sequence[Form]) -> dict[str, Any]:
    """Each family foretold from the others, its law's form chosen without it, and by a constant.

    `largest` and `mean` errors are factors, `spread` is of log d, families alike; `bent`: of
    corpora whose curve bends below d_max.
    """
    families = families_of(corpora)
    if len(families) < LEAST:
        raise InputError(f"{len(families)} families of corpora are too few to leave one out")
    rows: list[dict[str, Any]] = []
    for family in families:
        others = _without(family, corpora)
        law = fit_law(others, best_form(others, forms))
        constant = float(np.exp(fit_law(others, CONSTANT).offset))
        rows += [
            {"corpus": one["name"], "family": family, "d": one["d"], "bends": bends(one),
             "predicted": law.predict(one["statistics"]), "constant": constant,
             "predictors": list(law.predictors)}
            for one in corpora if one["family"] == family
        ]  # fmt: skip
    bent = [row for row in rows if row["bends"]]
    return {"rows": rows, **_errors(rows), "bent": _errors(bent) if bent else None}


def bends(one: Record) -> bool:
    """Whether its curve does so below d_max; else its d says where the curve was cut off."""
    return bool(one["d"] <= BENT * one["lengths"][-1])


def _errors(rows: Sequence[Record]) -> dict[str, float]:
    """Of the law and of the constant."""
    told = {}
    for by, name in (("predicted", ""), ("constant", "constant_")):
        off_C = np.abs(np.log([row[by] / row["d"] for row in rows]))
        squares_F = [
            np.mean([off**2 for off, row in zip(off_C, rows, strict=True) if row["family"] == each])
            for each in families_of(rows)
        ]
        told |= {f"{name}largest": float(np.exp(off_C.max())),
                 f"{name}mean": float(np.exp(off_C.mean())),
                 f"{name}spread": float(np.sqrt(np.mean(squares_F)))}  # fmt: skip
    return told


def _without(family: str, corpora: Sequence[Record]) -> list[Record]:
    return [one for one in corpora if one["family"] != family]


def _error(corpora: Sequence[Record], form: Form) -> float:
    """Mean squared error of log d, each family foretold from the others."""
    squares = []
    for family in families_of(corpora):
        others = _without(family, corpora)
        if form.free and len(others) <= len(form.predictors) + 1:
            return float("inf")
        law = fit_law(others, form)
        mine = [one for one in corpora if one["family"] == family]
        off = [np.log(law.predict(one["statistics"]) / one["d"]) for one in mine]
        squares.append(np.mean(np.square(off)))  # families count alike
    return float(np.mean(squares))


def _logs(corpora: Sequence[Record], predictors: Sequence[str]) -> tuple[Floats, Floats]:
    x_CP = np.array([[one["statistics"][name] for name in predictors] for one in corpora])
    return np.log(x_CP.reshape(len(corpora), len(predictors))), np.log([c["d"] for c in corpora])
