"""Draw the cloud of texts, the voids between them and the ideas found there.

The picture is a flat shadow of a sphere: good for a first look, no proof of anything.

    draw_map(run / "map.png", vectors_NK, voids, ideas_MK=points, verdicts=labels)
"""

# Shapes: N texts, K dimensions of the prefix, V voids, M ideas, 2 the map's axes.

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cllm.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cllm.voids import Void

MARKS = {  # verdict: marker, colour (Okabe and Ito 2008), label
    "novel": ("*", "#009E73", "written from here: novel"),
    "duplicate": ("s", "#CC79A7", "written from here: duplicate"),
    "nonsense": ("X", "#000000", "written from here: nonsense"),
}
VOID_COLOUR = "#D55E00"
FEW_TEXTS = 500  # below this, single dots show more than hexagons


def draw_map(
    path: Path,
    vectors_NK: np.ndarray,
    voids: Sequence[Void],
    *,
    ideas_MK: np.ndarray | None = None,
    verdicts: Sequence[str] = (),
) -> Path:
    """Write a PNG, 1200 pixels wide, and return its path.

    Args:
        path: the file to write; an old one survives a failure.
        vectors_NK: unit vectors of the texts (the prefix in which voids were sought).
        voids: what `find_voids` gave; the larger the radius, the larger the ring.
        ideas_MK: unit vectors of the ideas on the same sphere, if any.
        verdicts: one label an idea: novel, duplicate or nonsense.

    Raises ValueError where an idea has no verdict, and WorkError where the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ideas_MK = np.empty((0, vectors_NK.shape[1])) if ideas_MK is None else ideas_MK
    if len(ideas_MK) != len(verdicts):
        raise ValueError(f"{len(ideas_MK)} ideas came with {len(verdicts)} verdicts")
    project, share = fit_plane(vectors_NK)
    figure = Figure(figsize=(12, 9), dpi=100, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    _draw_texts(axes, project(vectors_NK))
    _draw_voids(axes, voids, project)
    _draw_ideas(axes, project(ideas_MK), verdicts)
    _write_words(axes, vectors_NK, share)
    with replacing(path) as new:
        FigureCanvasAgg(figure).print_png(new)
    return path


def fit_plane(vectors_NK: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """The map from (…, K) to (…, 2) by principal components, and their share of the variance.

    Each axis points so that its largest weight is positive: the same data, the same picture.
    """
    mean_K = vectors_NK.mean(axis=0)
    spread_KK = np.cov(vectors_NK, rowvar=False, bias=True)
    variance_K, axes_KK = np.linalg.eigh(spread_KK)
    plane_K2 = axes_KK[:, ::-1][:, :2]
    largest_2 = np.abs(plane_K2).argmax(axis=0)
    plane_K2 = plane_K2 * np.sign(plane_K2[largest_2, [0, 1]])
    total = float(variance_K.sum())
    share = float(variance_K[-2:].sum()) / total if total > 0 else 0.0
    return lambda points: (points - mean_K) @ plane_K2, share


def _draw_texts(axes: Axes, points_N2: np.ndarray) -> None:
    if len(points_N2) < FEW_TEXTS:
        axes.scatter(
            points_N2[:, 0], points_N2[:, 1], s=14, color="#7A869A", linewidths=0, label="text"
        )
        return
    cells = axes.hexbin(
        points_N2[:, 0],
        points_N2[:, 1],
        gridsize=44,
        mincnt=1,
        bins="log",
        cmap="Blues",
        linewidths=0.2,
    )
    cells.set_clim(0.5, None)  # a single text is already visible on white
    bar = axes.figure.colorbar(cells, ax=axes, shrink=0.6, pad=0.01, format="%d")
    bar.set_label("texts in a cell (white: none)", fontsize=12)
    bar.ax.minorticks_off()


def _draw_voids(axes: Axes, voids: Sequence[Void], project: Callable[..., np.ndarray]) -> None:
    if not voids:
        return
    centres_V2 = project(np.stack([void.centre_K for void in voids]))
    radius_V = np.array([void.radius for void in voids])
    size_V = 600 * (radius_V / radius_V.max()) ** 2  # an area: rings are as wide as radii
    axes.scatter(
        centres_V2[:, 0],
        centres_V2[:, 1],
        s=size_V,
        facecolors="none",
        edgecolors="white",
        linewidths=4,
    )
    axes.scatter(
        centres_V2[:, 0],
        centres_V2[:, 1],
        s=size_V,
        facecolors="none",
        edgecolors=VOID_COLOUR,
        linewidths=1.8,
        label="void (larger: wider)",
    )


def _draw_ideas(axes: Axes, points_M2: np.ndarray, verdicts: Sequence[str]) -> None:
    for verdict, (marker, colour, label) in MARKS.items():
        chosen_M = [other == verdict for other in verdicts]
        if any(chosen_M):
            axes.scatter(
                points_M2[chosen_M, 0],
                points_M2[chosen_M, 1],
                marker=marker,
                s=130 if marker == "*" else 70,
                color=colour,
                edgecolors="white",
                linewidths=0.7,
                label=label,
            )


def _write_words(axes: Axes, vectors_NK: np.ndarray, share: float) -> None:
    count, dim = vectors_NK.shape
    axes.figure.suptitle(
        f"{count:,} texts on the sphere in {dim} coordinates, a projection: distances mislead.\n"
        f"Two principal components, {share:.0%} of the variance; "
        "a place that looks full may be empty in the rest.",
        x=0.02,
        ha="left",
        fontsize=15,
    )
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.figure.legend(
            loc="outside lower center", ncols=4, fontsize=12, frameon=False, markerscale=0.8
        )
