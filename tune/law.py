"""A law of the dimension: what of a corpus foretells how large its vectors have to be.

    python -m tune.law --json                     # fits what was measured, and tries the law
    python -m tune.law --measure --corpora DIR    # trains and measures what is missing, for hours

Of the curve G(d) = G_inf (1 - exp(-d / d0)), d0 and d (0.95 of the gain at d_max, which is 512 for
all) are foretold in proportion to one statistic of the corpus, d also by a form that was stated
before more corpora were measured; against the best constant.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.files import read_json, write_json
from tune.curve_fit import fitted
from tune.law_fit import (
    CONSTANT,
    LEAST,
    Form,
    Law,
    Record,
    bends,
    families_of,
    fit_law,
    free,
    law_and_trial,
    left_out,
    proportional,
)
from tune.statistics import DIMS, METHOD, QUICK

MEASURED = Path(__file__).parent / "assets" / "law.json"
IN_SECONDS = (*QUICK, *DIMS)
WITH_REFERENCE = (*IN_SECONDS, "base_text_nats", "base_token_nats")  # which takes a training
# Found by eye on the corpora of SEEN, and written down before any other one was measured.
STATED = Form(("mean_dim", "texts"), given=(1.5, -0.25))
SEEN = (
    "plain-1000", "plain-4000", "rich-1000", "rich-4000", "lists-titles-4000", "lists-titles-16000",
    "products-titles-1300", "recipes-titles-700", "abstracts-titles-1500", "abstracts-titles-5500",
)  # fmt: skip
NEW = 3  # corpora at least that say how sure the stated form is
FITS = 0.95  # of the variance of a curve: below that it is no exponential, and has no d0


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, or measure what a fit needs; print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        print(json.dumps(_measure(options) if options.measure else _fit(options)))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from tune.law_measure import measured

    for one in measured(options):
        before = read_json(options.save)["corpora"] if options.save.exists() else []
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
    if old := [one["name"] for one in found if _old(one)]:
        raise InputError(
            f"{path} has {', '.join(old)} by an older method; measure them again with "
            "`python -m tune.law --measure`, which trains no model twice"
        )
    return found


def _old(one: Record) -> bool:
    """Whether its statistics mean something else by now."""
    return one.get("method") != METHOD


def told(corpora: Sequence[Record]) -> dict[str, Any]:
    """The law over all corpora, how it does on families left out, and the same of a constant."""
    fit = gaining(corpora)
    law, tried = law_and_trial(fit, proportional(IN_SECONDS))
    return {
        "corpora": [_row(one) for one in corpora],
        "fitted": len(fit), "families": families_of(fit),
        "without_gain": [one["name"] for one in corpora if one not in fit],
        "law": asdict(law), "left_out": tried, "stated": _of_stated(fit),
        "left_out_with_reference": left_out(fit, proportional(WITH_REFERENCE)),
        "left_out_free": left_out(fit, free(WITH_REFERENCE)),
        "d0": _of_d0(fit),
    }  # fmt: skip


def _of_stated(corpora: Sequence[Record]) -> dict[str, Any]:
    """The stated form: families left out, and what it says of corpora that it had not seen."""
    told: dict[str, Any] = {"law": asdict(stated(corpora)), "left_out": left_out(corpora, [STATED])}
    seen = [one for one in corpora if one["name"] in SEEN]
    if len(families_of(seen)) < LEAST:
        return told
    law, flat = fit_law(seen, STATED), fit_law(seen, CONSTANT)
    return told | {"beforehand": [
        {"corpus": one["name"], "d": one["d"], "predicted": law.predict(one["statistics"]),
         "constant": flat.predict(one["statistics"])}
        for one in corpora if one["name"] not in SEEN
    ]}  # fmt: skip


def stated(corpora: Sequence[Record]) -> Law:
    """The stated form over all corpora, as sure as what it said of those it had not seen.

    Not as sure as of families left out: its exponents were found on them.
    """
    seen = [one for one in corpora if one["name"] in SEEN]
    new = [one for one in corpora if one["name"] not in SEEN]
    if not seen or len(new) < NEW:
        return fit_law(corpora, STATED, np.inf)
    before = fit_law(seen, STATED)
    off_C = [np.log(before.predict(one["statistics"]) / one["d"]) for one in new]
    return fit_law(corpora, STATED, float(np.sqrt(np.mean(np.square(off_C)))))


def _of_d0(corpora: Sequence[Record]) -> dict[str, Any]:
    """The same of the scale of the curves that are exponentials."""
    fits = [(one, fitted(one["lengths"], np.array(one["gain_L"]))) for one in corpora]
    d0s = [{**one, "d": fit.d0} for one, fit in fits if fit.r2 >= FITS]
    names = [one["name"] for one in d0s]
    if len(families_of(d0s)) < LEAST:
        return {"exponential": names}
    law, tried = law_and_trial(d0s, proportional(IN_SECONDS))
    return {"exponential": names, "law": asdict(law), "left_out": tried}


def the_law(path: Path = MEASURED) -> Law:
    """The law by what was measured, of what is known of a corpus in seconds."""
    fit = gaining(records(path))
    law, by_form = law_and_trial(fit, proportional(IN_SECONDS))[0], stated(fit)
    return min(law, by_form, key=lambda one: one.spread)


def without_d(path: Path = MEASURED) -> list[str]:
    """Corpora that were measured, and whose vectors gain nothing at any size."""
    return [one["name"] for one in records(path) if one["d"] is None]


def gaining(corpora: Sequence[Record]) -> list[Record]:
    """Those whose vectors gain anything: of others there is no d."""
    return [one for one in corpora if one["d"] is not None]


def _row(one: Record) -> dict[str, Any]:
    fit = fitted(one["lengths"], np.array(one["gain_L"]))
    return {
        "name": one["name"], "family": one["family"], "d": one["d"], "d_ci": one["d_ci"],
        "d_max": one["lengths"][-1], "bends": one["d"] is not None and bends(one),
        "rule_d": one.get("rule_d"), "restored": one.get("restored"),
        "d0": fit.d0 if fit.r2 >= FITS else None, "limit": fit.limit if fit.r2 >= FITS else None,
        "r2": fit.r2, "plateau": one["plateau"],
        "d_by_fit": fit.enough(one["lengths"][-1]),
        "nats_per_dim": fit.straight.slope, "straight_r2": fit.straight.r2,
        "statistics": one["statistics"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
