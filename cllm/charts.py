"""The drawings of a report: its numbers as SVG in the page's own text colour.

for title, svg in null_chart(report): ...
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cllm.files import read_json
from cllm.scoreboard import ARMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CALIBRATION = Path(__file__).parent / "assets" / "calibration.json"
CURVE_POINTS = 400  # more cannot be told apart at the width of a page
INK = "#010203"  # stands for the page's text colour until the drawing is in the page

CURVES = (
    ("Loss", ("loss",)),
    ("Cross-entropy, nats a text", ("cross_entropy",)),
    ("Array and clustering terms", ("array", "cluster")),
    ("Held-out cross-entropy given the vector, nats a text", ("validation_nats",)),
)
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito 2008
Drawing = tuple[str, str]  # title and SVG


def null_chart(report: Mapping[str, Any]) -> Iterator[Drawing]:
    """The emptiest place of each null cloud, by kind, beside the voids that were found."""
    found = report.get("voids", {})
    nulls, mine = found.get("null_scores", {}), found.get("scores", [])
    if not nulls:
        return
    title = "Void score: the emptiest place of each null cloud, and the voids"
    names = [*nulls, "voids"]
    with drawing(title) as (axes, svg):
        for row, name in enumerate(names):
            scores = [score for score in nulls.get(name, mine) if score > 0]
            colour = COLOURS[1] if name == "voids" else COLOURS[0]
            axes.scatter(scores, [row + lift for lift in _lifts(len(scores))], s=16, color=colour)
        if "chance_score" in found:
            axes.axvline(found["chance_score"], color=INK, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("void score; dotted: what chance explains")
    yield title, svg.text


def arm_chart(report: Mapping[str, Any]) -> Iterator[Drawing]:
    """The yield of every arm with its interval."""
    arms = report.get("ideas", {})
    known = [name for name in ARMS if "yield_ci" in arms.get(name, {})]
    if len(known) < 2:
        return
    title = "Yield by arm: valid, new, and nearer to its place than to any text"
    with drawing(title) as (axes, svg):
        for row, name in enumerate(reversed(known)):
            low, high = arms[name]["yield_ci"]
            colour = COLOURS[1] if name == "void" else COLOURS[0]
            axes.plot([low, high], [row, row], color=colour, linewidth=2)
            axes.plot([arms[name]["yield"]], [row], "o", color=colour)
        axes.set_yticks(range(len(known)), [ARMS[name] for name in reversed(known)])
        axes.set_xlim(0, 1)
        axes.set_xlabel("yield, 95 % interval")
    yield title, svg.text


def calibration_chart() -> Iterator[Drawing]:
    """How often p-values of clouds without structure fall below each value; even: as they should.

    Measured by `python -m bench.voids --part calibration`, on synthetic clouds, once a version.
    """
    if not CALIBRATION.exists():
        return
    measured = read_json(CALIBRATION)
    clouds = min(found["clouds"] for found in measured.values())
    title = f"P-values of {clouds} synthetic clouds of each null (of the method, not of this run)"
    with drawing(title) as (axes, svg):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
        for colour, (kind, found) in zip(COLOURS, measured.items(), strict=False):
            share = np.cumsum([0, *found["histogram"]]) / found["clouds"]
            axes.plot(np.linspace(0, 1, len(share)), share, color=colour, label=kind)
        axes.set_xlabel("p")
        axes.set_ylabel("share of clouds below", color=INK)
        axes.legend(frameon=False, labelcolor=INK)
    yield title, svg.text


def curves(metrics: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, str]]:
    """Title and inline SVG of each training curve that has at least two finite points."""
    for title, names in CURVES:
        lines = {name: _points(metrics, name) for name in names}
        lines = {name: points for name, points in lines.items() if len(points) > 1}
        if lines:
            yield title, _draw_curve(title, lines, "step")


def prefix_curve(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and inline SVG of the gain by the length of the prefix, where it was measured."""
    gains = report.get("reconstruction", {}).get("gain_by_prefix", {})
    points = [(int(k), float(gain)) for k, gain in gains.items()]
    if len(points) > 1:
        title = "Gain of the first coordinates alone, nats a text"
        yield title, _draw_curve(title, {"gain": points}, "coordinates kept")


def _points(metrics: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    found = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
    found = [point for point in found if math.isfinite(point[1])]
    stride = -(-len(found) // CURVE_POINTS) or 1
    return [*found[:-1:stride], *found[-1:]]


def _draw_curve(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], along: str) -> str:
    with drawing(title) as (axes, svg):
        for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, label=name)
        axes.set_xlabel(along)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=INK)
    return svg.text


class Svg:
    """Filled when the drawing is finished."""

    text = ""


@contextmanager
def drawing(title: str) -> Iterator[tuple[Axes, Svg]]:
    """Axes whose ink is the page's own text colour, so that it is readable on dark and light."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    svg = Svg()
    # Text stays text (the page's font and size), and the same numbers give the same ids.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure = Figure(figsize=(4.6, 2.6), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        yield axes, svg
        axes.tick_params(colors=INK)
        axes.xaxis.label.set_color(INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    whole = text.getvalue()
    svg.text = whole[whole.index("<svg") :].replace(INK, "currentColor")


def _lifts(count: int) -> list[float]:
    """Small steps off a row, so that equal scores can be told apart."""
    return [0.15 * math.sin(2.4 * place) for place in range(count)]
