"""The pizza experiment in one picture: where the topic lies, and how much of it comes back."""

# Shapes: N texts of the cloud, n points of a kind, K of the prefix, V voids.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cllm.files import replacing
from cllm.map import fit_plane
from cllm.voids import Void
from studies.pizza_told import summary, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Vectors = NDArray[np.float32]
BLUE, RED, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A869A"
POINTS = {  # kind: colour, marker; Okabe and Ito 2008
    "topic, E1": (BLUE, "o"), "topic, E2 alone": (RED, "^"), "topic, E2 mixed": (GREEN, "s"),
    "other words shuffled, E1": (PURPLE, "x"),
}  # fmt: skip
ARMS = {
    "e1_d1": "E1→D1: never saw it", "random": "random vectors→D1",
    "permuted mixed": "permuted E2→D1", "e2_d1 alone": "E2→D1, topic alone",
    "e2_d1 mixed": "E2→D1, mixed", "affine mixed": "E2→affine→D1, mixed",
    "e2_d2 mixed": "E2→D2, mixed: ceiling",
}  # fmt: skip
SHOWN = 120  # points of a kind


def draw_pizza(
    path: Path, facts: Mapping[str, Any], cloud_NK: Vectors, points: Mapping[str, Vectors],
    voids: Sequence[Void],
) -> None:  # fmt: skip
    """Write a PNG: a flat map of the first model's space, the arms' scores, and the answers.

    `facts`: one topic's over one base, as `Measured.told` gives them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    topic, seen = facts["topic"], facts["base"] == "seen"
    figure = Figure(figsize=(15, 8), dpi=100, facecolor="white", layout="constrained")
    space, bars = figure.subplots(1, 2, width_ratios=(1.1, 1))
    _draw_space(space, cloud_NK, points, voids)
    space.set_title(f"Where {topic!r} lies in a space that was learnt without it", fontsize=13)
    _draw_arms(bars, facts["arms"]["unseen"])
    texts = len(facts["arms"]["unseen"]["e1_d1"]["hit"])
    bars.set_title(f"What comes back of {texts} {topic!r} texts that no model saw", fontsize=13)
    told = summary([facts])[facts["base"]]
    base = f"A base that {'saw' if seen else 'never saw'} the topic. "
    figure.suptitle(base + ". ".join(verdict(kind, told[kind]) for kind in told) + ".",
                    fontsize=12, wrap=True)  # fmt: skip
    with replacing(path) as new:
        FigureCanvasAgg(figure).print_png(new)


def _draw_space(
    axes: Axes, cloud_NK: Vectors, points: Mapping[str, Vectors], voids: Sequence[Void]
) -> None:
    project, share = fit_plane(cloud_NK)
    cloud_N2 = project(cloud_NK)
    cells = axes.hexbin(*cloud_N2.T, gridsize=44, mincnt=1, bins="log", cmap="Greys",
                        linewidths=0.2)  # fmt: skip
    cells.set_clim(0.5, None)
    for name, (colour, marker) in POINTS.items():
        if name in points:
            axes.scatter(*project(points[name][:SHOWN]).T, s=20, color=colour, marker=marker,
                         alpha=0.75, linewidths=1, label=name)  # fmt: skip
    if voids:
        centres_V2 = project(np.stack([void.centre_K for void in voids]))
        axes.scatter(*centres_V2.T, s=140, facecolors="none", edgecolors=GREY, linewidths=1.5,
                     label="centre of a void that was found")  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(
        f"grey: what it learnt from; {share:.0%} of how {cloud_NK.shape[1]} coordinates differ: "
        "distances mislead"
    )
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=3, fontsize=10, frameon=False
    )


def _draw_arms(axes: Axes, arms: Mapping[str, Mapping[str, Any]]) -> None:
    names = [name for name in ARMS if name in arms]
    rows = np.arange(len(names))[::-1]
    for lift, what, colour, told in (
        (0.2, "hit", BLUE, "hits the topic, by a classifier"),
        (-0.2, "content_f1", RED, "content F1 against the true text"),
    ):
        values = [float(np.mean(arms[name][what])) for name in names]
        axes.barh(rows + lift, values, height=0.38, color=colour, label=told)
        for row, value in zip(rows, values, strict=True):
            axes.text(value + 0.01, row + lift, f"{value:.2f}", va="center", fontsize=10)
    axes.set_yticks(rows, [ARMS[name] for name in names], fontsize=11)
    axes.set_xlim(0, 1.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=2, fontsize=11, frameon=False
    )
