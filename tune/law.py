"""A law of the dimension: what of a corpus foretells how large its vectors have to be.

    python -m tune.law --json                     # fits what was measured, and tries the law
    python -m tune.law --measure --corpora DIR    # trains and measures first, for hours

Of the curve G(d) = G_inf (1 - exp(-d / d0)), log d0 and log d (0.95 of the most) are foretold by at
most two logarithms of statistics, and tried by leaving out a family of corpora at a time, against
the best constant. Corpora whose curve does not bend below d_max are not fitted, but foretold as the
others are: less than their d is a miss.
"""

# Shapes: C corpora, F families, P predictors.
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.files import read_json, write_json
from tune.choice import BENT
from tune.curve_fit import fitted
from tune.statistics import QUICK

Floats = NDArray[np.float64]
Record = Mapping[str, Any]  # what was measured of a corpus
MEASURED = Path(__file__).parent / "assets" / "law.json"
OF_BASE = ("base_token_nats", "matrix_dim", "mean_dim")
MOST = 2  # predictors
SURE = 0.95
FITS = 0.95  # of the variance of a curve: below that it is no exponential, and has no d0
LEAST = 3  # families


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
        """The d of a corpus with these statistics."""
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
        d = self.predict(facts)
        return d * float(np.exp(-wide)), d * float(np.exp(wide))

    def beyond(self, facts: Mapping[str, float]) -> list[str]:
        """The statistics that are outside of what was measured, in words; predictors first."""
        told = []
        for name in sorted(self.ranges, key=lambda name: name not in self.predictors):
            low, high = self.ranges[name]
            if name in facts and not low <= facts[name] <= high:
                told.append(f"{name} {facts[name]:.3g} is outside of {low:.3g} to {high:.3g}")
        return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, or measure what a fit needs; print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        print(json.dumps(_measure(options) if options.measure else _fit(options)))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from tune.law_measure import measured

    for one in measured(options):
        before = records(options.save) if options.save.exists() else []
        others = [known for known in before if known["name"] != one["name"]]
        write_json(options.save, {"corpora": [*others, one]})
    return {"corpora": [_row(one) for one in records(options.save)]}


def _fit(options: argparse.Namespace) -> dict[str, Any]:
    found = told(records(options.save))
    if options.figure:
        from tune.charts import law_chart

        for _, svg in law_chart(found):
            options.figure.write_text(svg, encoding="utf-8")
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(prog="tune.law", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--measure", action="store_true", help="train what is missing, and measure it")
    p.add_argument("--corpora", type=Path, default=Path("corpora"), help="folder of real texts")
    p.add_argument("--out", type=Path, default=Path("runs/law"), help="of what is trained")
    p.add_argument("--save", type=Path, default=MEASURED, help="what was measured")
    p.add_argument("--figure", type=Path, help="draw how families left out were foretold, as SVG")
    p.add_argument("--ship-base", action="store_true", help="keep the shared base in the package")
    p.add_argument("--only", nargs="*", default=[], help="cells to measure, such as plain-1000")
    p.add_argument("--d-max", type=int, default=512, help="fixed for all corpora")
    p.add_argument("--steps", type=int, default=6000, help="most, where no plateau comes before")
    p.add_argument("--seeds", type=int, default=1)
    return p


def records(path: Path = MEASURED) -> list[dict[str, Any]]:
    """What was measured of each corpus; InputError where there is nothing."""
    if not path.exists():
        raise InputError(f"{path} does not exist; measure with `python -m tune.law --measure`")
    found: list[dict[str, Any]] = read_json(path)["corpora"]
    return found


def told(corpora: Sequence[Record]) -> dict[str, Any]:
    """The law over all corpora, how it does on families left out, and the same of a constant."""
    fit, unbent = bent(corpora), beyond(corpora)
    law, tried = _law(fit, QUICK, unbent)
    return {
        "corpora": [_row(one) for one in corpora],
        "fitted": len(fit), "families": families_of(fit),
        "unbent": [one["name"] for one in unbent],
        "without_gain": [one["name"] for one in corpora if one["d"] is None],
        "law": asdict(law), "left_out": tried,
        "left_out_with_base": left_out(fit, (*QUICK, *OF_BASE), unbent),
        "d0": _of_d0(fit),
    }  # fmt: skip


def _of_d0(corpora: Sequence[Record]) -> dict[str, Any]:
    """The same of the scale of the curves that are exponentials."""
    fits = [(one, fitted(one["lengths"], np.array(one["gain_L"]))) for one in corpora]
    d0s = [{**one, "d": fit.d0} for one, fit in fits if fit.r2 >= FITS]
    names = [one["name"] for one in d0s]
    if len(families_of(d0s)) < LEAST:
        return {"exponential": names}
    law, tried = _law(d0s, QUICK)
    return {"exponential": names, "law": asdict(law), "left_out": tried}


def the_law(path: Path = MEASURED) -> Law:
    """The law by what was measured, of predictors that need no base."""
    known = records(path)
    return _law(bent(known), QUICK, beyond(known))[0]


def bent(corpora: Sequence[Record]) -> list[Record]:
    """Those whose curve bends below d_max."""
    return [
        one for one in corpora if one["d"] is not None and one["d"] <= BENT * one["lengths"][-1]
    ]


def beyond(corpora: Sequence[Record]) -> list[Record]:
    """Those whose d is so near to d_max that it may be more."""
    known = {one["name"] for one in bent(corpora)}
    return [one for one in corpora if one["d"] is not None and one["name"] not in known]


def families_of(corpora: Sequence[Record]) -> list[str]:
    """Each once."""
    return sorted({str(one["family"]) for one in corpora})


def _law(
    corpora: Sequence[Record], names: Sequence[str], unbent: Sequence[Record] = ()
) -> tuple[Law, dict[str, Any]]:
    tried = left_out(corpora, names, unbent)
    return fit_law(corpora, best_predictors(corpora, names), tried["spread"]), tried


def fit_law(corpora: Sequence[Record], predictors: tuple[str, ...], spread: float) -> Law:
    """By least squares on logarithms, families alike."""
    x_CP, y_C = _logs(corpora, predictors)
    families = [one["family"] for one in corpora]
    weight_C1 = np.array([[families.count(family) ** -0.5] for family in families])
    offset, *slopes = np.linalg.lstsq(x_CP * weight_C1, y_C * weight_C1[:, 0], rcond=None)[
        0
    ].tolist()
    values = {n: [one["statistics"][n] for one in corpora] for n in {*QUICK, *predictors}}
    ranges = {name: (min(some), max(some)) for name, some in sorted(values.items())}
    d_max = max(one["lengths"][-1] for one in corpora)
    return Law(predictors, offset, tuple(slopes), spread, len(families_of(corpora)), d_max, ranges)


def best_predictors(corpora: Sequence[Record], names: Sequence[str]) -> tuple[str, ...]:
    """The set of at most two whose law does best on families left out; it may be none."""
    known = [n for n in names if all(n in one["statistics"] for one in corpora)]
    sets = [some for size in range(MOST + 1) for some in combinations(known, size)]
    return min(sets, key=lambda some: _error(corpora, some))


def left_out(
    corpora: Sequence[Record], names: Sequence[str], unbent: Sequence[Record] = ()
) -> dict[str, Any]:
    """Each family foretold from the others, its predictors chosen without it, and by a constant.

    `unbent` corpora are foretold and never fitted; they have their d or more.
    """
    if len(families_of(corpora)) < LEAST:
        raise InputError(
            f"{len(families_of(corpora))} families of corpora are too few to leave one out"
        )
    every, rows = [*corpora, *unbent], []
    for family in families_of(every):
        others = _without(family, corpora)
        law, constant = _of_best(others, names), _constant(others)
        rows += [
            {"corpus": one["name"], "family": family, "d": one["d"], "or_more": one in unbent,
             "predicted": law.predict(one["statistics"]), "constant": constant,
             "predictors": list(law.predictors)}
            for one in every if one["family"] == family
        ]  # fmt: skip
    off_C, flat_C = (
        np.array([_off(row, row[by]) for row in rows]) for by in ("predicted", "constant")
    )
    squares_F = [
        np.mean([off**2 for off, row in zip(off_C, rows, strict=True) if row["family"] == family])
        for family in families_of(every)
    ]
    return {
        "rows": rows, "spread": float(np.sqrt(np.mean(squares_F))),
        "largest": float(np.exp(np.abs(off_C).max())),
        "mean": float(np.exp(np.abs(off_C).mean())),
        "constant_largest": float(np.exp(np.abs(flat_C).max())),
        "constant_mean": float(np.exp(np.abs(flat_C).mean())),
    }  # fmt: skip


def _off(row: Record, foretold: float) -> float:
    """The logarithm of foretold over true; where d is known from below, more is no miss."""
    off = float(np.log(foretold / row["d"]))
    return min(0.0, off) if row["or_more"] else off


def _constant(corpora: Sequence[Record]) -> float:
    """The d that is least wrong for all families alike."""
    means = [
        np.mean([np.log(one["d"]) for one in corpora if one["family"] == family])
        for family in families_of(corpora)
    ]
    return float(np.exp(np.mean(means)))


def _without(family: str, corpora: Sequence[Record]) -> list[Record]:
    return [one for one in corpora if one["family"] != family]


def _of_best(corpora: Sequence[Record], names: Sequence[str]) -> Law:
    return fit_law(corpora, best_predictors(corpora, names), 0.0)


def _error(corpora: Sequence[Record], predictors: tuple[str, ...]) -> float:
    """Mean squared error of log d, each family foretold from the others."""
    families = families_of(corpora)
    squares = []
    for family in families:
        others = _without(family, corpora)
        if len(others) <= len(predictors) + 1:
            return float("inf")
        law = fit_law(others, predictors, 0.0)
        mine = [one for one in corpora if one["family"] == family]
        off = [np.log(law.predict(one["statistics"]) / one["d"]) for one in mine]
        squares.append(np.mean(np.square(off)))  # families count alike
    return float(np.mean(squares))


def _logs(corpora: Sequence[Record], predictors: Sequence[str]) -> tuple[Floats, Floats]:
    columns = [np.log([one["statistics"][name] for one in corpora]) for name in predictors]
    x_CP = np.stack([np.ones(len(corpora)), *columns], axis=1)
    return x_CP, np.log([one["d"] for one in corpora])


def _row(one: Record) -> dict[str, Any]:
    fit = fitted(one["lengths"], np.array(one["gain_L"]))
    return {
        "name": one["name"], "family": one["family"], "d": one["d"], "d_ci": one["d_ci"],
        "d_max": one["lengths"][-1],
        "rule_d": one.get("rule_d"), "restored": one.get("restored"),
        "d0": fit.d0, "limit": fit.limit, "r2": fit.r2, "plateau": one["plateau"],
        "d_by_fit": fit.enough(one["lengths"][-1]),
        "nats_per_dim": fit.straight.slope, "straight_r2": fit.straight.r2,
        "statistics": one["statistics"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
