"""What a sweep came to, in words, tables and drawings: report.html, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cllm.files import replacing
from cllm.report import page_template
from cllm.voids import CHANCE
from tune.charts import curve_chart, front_chart, trip_chart
from tune.choice import BENT, NEAR, SHARE
from tune.objectives import COLLAPSED, MEASURES, name_of, short
from tune.results import effects, finished
from tune.space import FLOOR, WEIGHT
from tune.window import LEAST_VALID, MOST_COORDINATES

STUDIED = (WEIGHT, FLOOR, "vector_noise", "prefix_weight", "dim", "void_dim")
EMERGES = ("auroc", "void_new")  # what says that voids arise; a yield is of those there are
SAID = ("gain_nats", *EMERGES, "yield", "valid", "uniformity")
LOSSES = (0.01, 0.05)  # of the gain: what a term may cost
ROUNDING = 1e-3  # between two equal trainings, where sums are not always taken in one order
NOT_COMPARED = "voids were sought in other coordinates, so nothing follows; give --space void_dim=N"
SHOWN = 60  # trials in the table


def three_way(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """The objectives of the front: reconstruction, void emergence, uniformity."""
    return "gain_nats", emergence_of(rows), "uniformity"


def emergence_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """What says whether voids arise: of the measures there are, the one that means most."""
    for name in ("auroc", "void_new", "radius_ratio"):
        if any(name in row for row in rows):
            return name
    return "uniformity"


def clustering_in_words(
    rows: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """What the clustering weight buys and costs, from trials that differ in nothing else.

    From the controls alone where there are any: all of as many steps, with seeds of their own.
    """
    compared = controls or rows
    told = _effects(compared, WEIGHT)
    if not told:
        return [
            "No two finished trials differ in the clustering weight alone, so nothing is known of "
            "what it buys: leave out --controls 0, or ask by --search grid --space "
            "cluster_weight=0,0.01 --space cluster_floor=0,0.5 --space seed=0,1,2,3,4 --steps 1200 "
            "--aim voids."
        ]
    lines = [_bought_and_paid(one) for one in told] + _controls(compared)
    collapsed = [r for r in (*rows, *controls) if r.get("variance", 1.0) < COLLAPSED]
    for row in collapsed:
        point = ", ".join(f"{name} {short(value)}" for name, value in row["point"].items())
        lines.append(f"Vectors collapsed (variance {row['variance']:.3f}) with {point}.")
    return lines


def _effects(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Of the clustering weight among models with a variance floor, where there are such."""
    floored = [row for row in rows if row["point"].get(FLOOR) != 0]
    of_weight = effects(floored, name, np.random.default_rng(0)) if name == WEIGHT else []
    return of_weight or effects(rows, name, np.random.default_rng(0))


def _bought_and_paid(one: Mapping[str, Any]) -> str:
    """The verdict, and the measures that it rests on; the table has the others."""
    changes = []
    for name in (name for name in SAID if name in one):
        found = one[name]
        text = f"{name_of(name)} {found['before']:.3g} to {found['after']:.3g}"
        said = []
        if "ci" in found:
            low, high = found["ci"]
            said = [f"change {found['change']:+.3g} [{low:+.3g}, {high:+.3g}]"]
        if found["pairs"] < one["pairs"]:
            said.append(_pairs(found))
        text += f" ({', '.join(said)})" if said else ""
        changes.append(text)
    words = "; ".join(changes)
    return (
        f"Clustering weight {one['value']:g} instead of {one['against']:g}, {_pairs(one)}: "
        f"{_verdict(one)} {words[:1].upper()}{words[1:]}."
    )


def _verdict(one: Mapping[str, Any]) -> str:
    gain = one.get("gain_nats", {})
    change = gain["change"] / gain["before"] if gain.get("before", 0.0) > 0 else 0.0
    paid = f"costs {-100 * change:.1f} %" if change < 0 else f"adds {100 * change:.1f} %"
    paid = "costs all" if change <= -1 else paid
    known = [name for name in EMERGES if name in one]
    if not known:
        return f"it {paid} of the gain; what it buys was not measured."
    if all("ci" not in one[name] for name in known):
        return f"it {paid} of the gain; whether it buys voids, one seed cannot tell."
    raised = [name_of(name) for name in known if one[name].get("ci", [0.0])[0] > 0]
    others = [name_of(name) for name in known if "ci" in one[name] and name_of(name) not in raised]
    if raised:
        but = f" ({' and '.join(others)} not surely)" if others else ""
        surely = -gain["ci"][0] / gain["before"] if "ci" in gain else float("inf")
        within = next((f", surely within {share:.0%}" for share in LOSSES if surely <= share), "")
        return f"it raises {' and '.join(raised)}{but} and {paid} of the gain{within}."
    wider = one.get("radius_ratio", {}).get("change", 0.0) > 0
    holes = " It makes larger holes, which is its own doing and proves nothing." if wider else ""
    bought = "it buys no void that can be told from chance"
    return f"{bought}, and {paid} of the gain.{holes}"


def _controls(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What trials say that differ in the variance floor alone: at weight 0 nothing may."""
    lines = []
    for weight in sorted({row["point"].get(WEIGHT, 0) for row in finished(rows)}):
        some = [row for row in rows if row["point"].get(WEIGHT, 0) == weight]
        for one in effects(some, FLOOR, np.random.default_rng(0)):
            floors = (
                f"Control, weight {short(weight)}, a variance floor of {short(one['value'])} "
                f"instead of {short(one['against'])}, {_pairs(one)}"
            )
            told = (
                NOT_COMPARED if "uniformity" not in one else (_collapse if weight else _plain)(one)
            )
            lines.append(f"{floors}: {told}.")
    return lines


def _plain(one: Mapping[str, Any]) -> str:
    if one.get("steps", {}).get("largest"):
        return "the two were trained for different steps, so nothing follows; give --steps"
    largest = max(one["gain_nats"]["largest"], one["uniformity"]["largest"])
    if largest > ROUNDING:
        return f"it changes a measure by {largest:.3g}, so weight 0 is NOT the plain model"
    return f"it changes no measure by more than {largest:.1g}, so weight 0 is the plain model"


def _collapse(one: Mapping[str, Any]) -> str:
    if "variance" not in one:
        return "how far vectors differ was not measured"
    gain, spread = one["gain_nats"], one["variance"]
    fell, held = spread["before"] < COLLAPSED, spread["after"] >= COLLAPSED
    verdict = {
        (True, True): "vectors collapse without it, and not with it",
        (True, False): "vectors collapse either way",
        (False, True): "vectors collapse neither way",
        (False, False): "vectors collapse with it, and not without",
    }[fell, held]
    return (
        f"{verdict} (variance {spread['before']:.3g} to {spread['after']:.3g}, gain "
        f"{gain['before']:.3g} to {gain['after']:.3g} nats)"
    )


def _pairs(one: Mapping[str, Any]) -> str:
    return f"{one['pairs']} pair" + ("s" if one["pairs"] != 1 else "")


def choice_in_words(told: Mapping[str, Any]) -> list[str]:
    """The two lines of the choice: how large the vector should be, and where voids are."""
    choice, check, taken = told["choice"], told.get("check"), told["dimension"]
    if taken["d"] is None:
        line = f"Dimension: none, by {taken['by']}."
    else:
        line = f"Dimension: {_with(taken['d'], taken['ci'])}, by {taken['by']}."
    if taken["agree"] is False:
        line += " They rule the nested curve out: its prefixes are no models of their sizes."
    line += f" The nested curve: {_rule(choice)}"
    if check:
        line += _checked(check)
    if choice["gain_d"] > BENT * choice["d_max"]:
        line += " The gain still rises at the largest size: a larger --d-max may carry more."
    line += _unfinished(told.get("trained", ()))
    if choice["seeds"] == 1:
        line += " One seed: the intervals are over texts alone."
    if not check:
        return [line]
    if "window" not in told:
        return [line, f"Void window: not sought; it is up to {MOST_COORDINATES} coordinates, and "
                      "all sizes are larger."]  # fmt: skip
    return [line, _window(told["window"])]


def _rule(choice: Mapping[str, Any]) -> str:
    """What the rule makes of one curve."""
    enough = (
        f"{SHARE:.0%} of the gain at {choice['d_max']} coordinates ({choice['gain_L'][-1]:.1f} "
        f"nats) is there from {_with(choice['gain_d'], choice['gain_ci'])}"
    )
    if choice["d"] is None:
        nearest = min(choice["round_trip_L"])
        at = choice["lengths"][choice["round_trip_L"].index(nearest)]
        return (
            f"{enough}, but texts never come back within {NEAR:g} of the angle between "
            f"neighbours: at best {nearest:.2f}, at {at}."
        )
    unsure = (
        f" In {choice['undecided']:.1%} of resamples no size is enough."
        if choice["undecided"] > 0 else ""
    )  # fmt: skip
    both = _with(choice["d"], choice["d_ci"])
    return f"{enough}; with texts that come back, too, the size is {both}.{unsure}"


def _with(value: int, ci: Sequence[int] | None) -> str:
    return f"{value} [{ci[0]}, {ci[1]}]" if ci else str(value)


def _checked(check: Mapping[str, Any]) -> str:
    """What models of one size say of the nested curve."""
    rows = ", ".join(
        f"{row['d']}: {row['gain']:.1f} ({row['nested_over_separate']:.2f})"
        for row in check["sizes"]
    )
    told = f" Models of one size gain, and in brackets the nested prefix over them: {rows}."
    if not (choice := check["choice"]):
        return told
    low, high = choice.get("between", (0, 0))
    untried = f" Between {low} and {high} nothing was trained." if low < high else ""
    return f"{told} By them {_rule(choice)}{untried}"


def _unfinished(trained: Sequence[Mapping[str, Any]]) -> str:
    """Which models still got better when their time was up, and what that does to the choice."""
    rising = [one for one in trained if not one["plateau"]]
    if not rising:
        return ""
    kinds = [
        f"{'nested ' if one['nested'] else ''}{one['d']}, seed {one['seed']}"
        + ("" if one["last_third"] is None else f" ({one['last_third']:.2f} nats)")
        for one in rising
    ]
    return (
        f" {len(rising)} of {len(trained)} models were not at their plateau when their time was up "
        f"(in brackets what the last third of their steps still brought): {'; '.join(kinds)}. "
        "The time was the same for all, which favours small sizes; give a larger --cap, which "
        "trains them anew."
    )


def _window(window: Mapping[str, Any]) -> str:
    """In which sizes voids stand."""
    of: dict[int, list[Mapping[str, Any]]] = {}
    for at in window["sizes"]:
        of.setdefault(at["d"], []).append(at)
    models = "the model" if all(len(some) == 1 for some in of.values()) else "most models"
    asked = (
        f"voids that are significant, and {LEAST_VALID:.0%} or more of the texts from them surely "
        "valid"
    )
    counts = "; ".join(
        f"{d}: {sum(at['p_value'] is not None and at['p_value'] <= CHANCE for at in some)} of "
        f"{len(some)} with significant voids, {sum(at['texts'] for at in some)} texts from them, "
        f"{sum(at['stands'] for at in some)} with both"
        for d, some in sorted(of.items())
    )
    each = f" By size: {counts}; each a test of its own at p = {CHANCE:g}."
    each += f" Voids are sought in at most {MOST_COORDINATES} coordinates."
    if window["low"] is None:
        return f"Void window: none. At no size has {models} {asked}.{each}"
    others = ", ".join(map(str, window["elsewhere"]))
    elsewhere = f" So it is at {others} too, but not at all sizes between." if others else ""
    at_end = window["low"] == min(of) or window["high"] == max(of)
    beyond = " It may reach further." if at_end else ""
    return (
        f"Void window: {window['low']} to {window['high']} coordinates: there {models} "
        f"{'has' if models == 'the model' else 'have'} {asked}.{elsewhere}{each}{beyond}"
    )


def write(folder: Path, told: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """report.html and its drawings as SVG, beside the sweep's trials; returns the page's path.

    `told["controls"]`: trials that were no part of the search, for comparison.
    """
    every, paired = [*rows, *told.get("controls", ())], told.get("controls") or rows
    charts = {  # of one space each: prefixes of other lengths lie on other spheres
        f"front-{k:.0f}": front_chart(
            [r for r in rows if r.get("void_dim") == k], emergence_of(rows)
        )
        for k in sorted({r["void_dim"] for r in rows if "void_dim" in r})
    }
    if "choice" in told:
        charts["curve"] = curve_chart(
            told["choice"], told.get("check", {}).get("sizes", []), told.get("fit")
        )
        charts["round_trip"] = trip_chart(told["choice"], NEAR)
    drawings = [(name, *drawing) for name, chart in charts.items() for drawing in chart]
    for name, _, svg in drawings:
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    point_names = list(dict.fromkeys(name for row in every for name in row["point"]))
    measures = [name for name in MEASURES if any(name in row for row in every)]
    page = page_template("tune.html.j2", "tune", "cllm").render(
        told=told, rows=sorted(every, key=_order)[:SHOWN], count=len(rows),
        drawings=[drawing[1:] for drawing in drawings],
        points=point_names, measures=measures,
        compared=[name for name in measures if MEASURES[name].compared],
        name_of=name_of, short=short,
        clustering=told.get("clustering", ()),
        choice=choice_in_words(told) if "choice" in told else [],
        effects={name: found for name in STUDIED
                 if (found := _effects(paired if name in (WEIGHT, FLOOR) else rows, name))},
    )  # fmt: skip
    path = folder / "report.html"
    with replacing(path) as new:
        new.write_text(page, encoding="utf-8")
    return path


def _order(row: Mapping[str, Any]) -> tuple[bool, float]:
    return row["state"] != "finished", -row.get("gain_nats", float("-inf"))
