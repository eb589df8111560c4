"""What loops came to, over seeds: numbers by round and arm, in words, as a table and a picture.

told = summary({"guarded": loops, …}, rounds=5); draw_loops(path, told); table(told)
"""

# Shapes: S seeds, N held-out texts.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.files import replacing
from cllm.improve import Loop
from cllm.measured import TEXTS
from cllm.metrics import bootstrap, few

Floats = NDArray[np.float64]

PER_TEXT = ("content_f1", "forced_content_f1", "told_apart", "told_apart_unaided")
OF_TEXTS = {  # of what was written from voids, and from random places
    "written": ("valid", "repeated", "vendi", "distinct_2", "distance"),
    "unaided": ("valid", "vendi", "distinct_2", "distance"),
}
PANELS = {
    "gain_ratio": "gain on real held-out texts ÷ round 0",
    "content_f1": "content F1, free",
    "told_apart_unaided": "edits told apart, no vector",
    "written valid": "valid, from voids",
    "written distance": "distance to real texts, from voids",
    "unaided valid": "valid, from random places",
    "unaided vendi": "Vendi score of 100, from random places",
    "withheld_so_far": "withheld combinations found so far",
}


def summary(loops: Mapping[str, Sequence[Loop]], rounds: int) -> dict[str, Any]:
    """By arm and measure a list over rounds: the mean and its interval over seeds (and texts).

    A loop that had to end before stays where it was; `ended` counts those.
    """
    arms: dict[str, Any] = {}
    for arm, several in loops.items():
        arms[arm] = {
            name: [] for name in ("gain_ratio", *PER_TEXT)
        } | {"ended": sum("ended" in _last(loop) for loop in several)}  # fmt: skip
        for number in range(rounds + 1):
            values = [_values(loop, number) for loop in several]
            first = [_values(loop, 0) for loop in several]
            arms[arm]["gain_ratio"].append(_ratio(
                np.stack([one["gain_nats"] for one in values]),
                np.stack([one["gain_nats"] for one in first]),
            ))  # fmt: skip
            for name in PER_TEXT:
                arms[arm][name].append(_over_seeds([one[name] for one in values]))
            for name, of_loops in _counted([_told(loop, number) for loop in several]).items():
                arms[arm].setdefault(name, []).append(_over_seeds(of_loops))
    told: dict[str, Any] = {"rounds": rounds, "seeds": len(next(iter(loops.values()))),
                            "arms": arms}  # fmt: skip
    if {"guarded", "no training"} <= loops.keys():
        told["found_over_no_training"] = _times(
            *([_told(loop, rounds).get("withheld_so_far", 0) for loop in loops[arm]]
              for arm in ("guarded", "no training"))
        )  # fmt: skip
    return told


def _last(loop: Loop) -> dict[str, Any]:
    number = 0
    while loop.notes(number + 1):
        number += 1
    return loop.notes(number)


def _round(loop: Loop, number: int) -> int:
    """That round, or the last that was measured before it."""
    while "measured" not in loop.notes(number):
        number -= 1
    return number


def _told(loop: Loop, number: int) -> dict[str, Any]:
    return dict(loop.notes(_round(loop, number))["measured"])


def _values(loop: Loop, number: int) -> dict[str, Floats]:
    return dict(np.load(loop.round(_round(loop, number)).path / TEXTS))


def _counted(told: Sequence[Mapping[str, Any]]) -> dict[str, list[Floats]]:
    """Numbers that a loop has one of, by name; where all loops have it."""
    found: dict[str, list[Floats]] = {}
    for part, names in OF_TEXTS.items():
        for name in names:
            values = [one.get(part, {}).get(name) for one in told]
            if None not in values:
                found[f"{part} {name}"] = [np.array([value], float) for value in values]
    for name in ("withheld_so_far", "kept"):
        if all(name in one for one in told):
            found[name] = [np.array([one[name]], float) for one in told]
    return found


def _over_seeds(values: Sequence[Floats]) -> dict[str, Any]:
    """Over seeds and texts; of texts that differ from loop to loop over seeds alone."""
    same = len({len(value) for value in values}) == 1
    table_SN = np.stack(values) if same else np.array([[value.mean()] for value in values])
    if table_SN.shape == (1, 1):
        return {"mean": float(table_SN[0, 0])}
    found = bootstrap(table_SN, np.random.default_rng(0))
    return {"mean": found.mean, "ci": found.ci, "seeds": table_SN.mean(1).tolist()}


def _ratio(now_SN: Floats, first_SN: Floats) -> dict[str, Any]:
    """Of the mean gains, over seeds and texts: one more the relative change, which is paired."""
    found = bootstrap(now_SN - first_SN, np.random.default_rng(0))
    unit = float(first_SN.mean())
    return {
        "mean": 1 + found.mean / unit, "ci": [1 + bound / unit for bound in found.ci],
        "seeds": (now_SN.mean(1) / first_SN.mean(1)).tolist(),
    }  # fmt: skip


def _times(mine: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """How many times as many, with an interval over seeds; half a one is added, for none."""
    logs_S = np.log((np.array(mine) + 0.5) / (np.array(others) + 0.5))
    ratio = (sum(mine) + 0.5) / (sum(others) + 0.5)
    told: dict[str, Any] = {"mine": list(mine), "others": list(others), "ratio": ratio}
    if len(logs_S) < 2:
        return told
    half = 1.96 * float(logs_S.std()) / len(logs_S) ** 0.5 * few(len(logs_S))
    return told | {"ci": [ratio * float(np.exp(-half)), ratio * float(np.exp(half))]}


# ---- in words, as a table, as a picture ----------------------------------------------------


def verdicts(told: Mapping[str, Any]) -> list[str]:
    """Whether each arm gains, holds or decays, by the gain on real held-out texts."""
    lines = []
    for arm, of in told["arms"].items():
        last, least = of["gain_ratio"][-1], min(one["mean"] for one in of["gain_ratio"])
        low, high = last["ci"]
        word = "gains" if low > 1 else "decays" if high < 1 else "holds"
        ended = f"; {of['ended']} of {told['seeds']} loops ended before" if of["ended"] else ""
        lines.append(
            f"{arm}: {word}: after {told['rounds']} rounds real held-out texts gain "
            f"{last['mean']:.3f} [{low:.3f}, {high:.3f}] of round 0 (least: {least:.3f}){ended}"
        )
    if "found_over_no_training" in told:
        found = told["found_over_no_training"]
        ci = f" [{found['ci'][0]:.2f}, {found['ci'][1]:.2f}]" if "ci" in found else ""
        lines.append(
            f"withheld combinations found, guarded over equal decodes without training: "
            f"{found['ratio']:.2f}{ci} ({sum(found['mine'])} against {sum(found['others'])})"
        )
    return lines


def table(told: Mapping[str, Any]) -> list[str]:
    """Markdown: the last round of every arm."""
    lines = ["| arm | " + " | ".join(PANELS.values()) + " |", "|---" * (1 + len(PANELS)) + "|"]
    for arm, of in told["arms"].items():
        cells = [_cell(of[name][-1]) if of.get(name) else "" for name in PANELS]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: Mapping[str, Any]) -> str:
    if "ci" not in value:
        return f"{value['mean']:.3g}"
    low, high = value["ci"]
    return f"{value['mean']:.3g} [{low:.3g}, {high:.3g}]"


def draw_loops(path: Path, told: Mapping[str, Any]) -> None:
    """Write a PNG: rounds against each measure, a line an arm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 8.5), dpi=100, facecolor="white", layout="constrained")
    colours = _colours(list(told["arms"]))
    for axes, (name, title) in zip(figure.subplots(2, 4).flat, PANELS.items(), strict=True):
        for arm, of in told["arms"].items():
            series = of.get(name, [])
            start = told["rounds"] + 1 - len(series)
            xs = range(start, told["rounds"] + 1)
            colour, style = colours[arm]
            axes.plot(xs, [one["mean"] for one in series], style, color=colour, label=arm)
            if arm == "guarded" and series and all("ci" in one for one in series):
                bounds = np.array([one["ci"] for one in series]).T
                axes.fill_between(xs, *bounds, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=11)
        axes.set_xticks(range(told["rounds"] + 1))
        axes.set_xlabel("round")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
    with replacing(path) as new:
        FigureCanvasAgg(figure).print_png(new)


def _colours(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Okabe and Ito's colours (2008), then the same again in dashes and dots."""
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
    styles = ("o-", "s--", "^:")
    return {arm: (colours[i % 7], styles[i // 7]) for i, arm in enumerate(arms)}
