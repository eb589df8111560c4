"""The drawings of a sweep's report, as SVG in the page's own text colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cllm.charts import COLOURS, INK, Drawing, drawing
from tune.choice import SHARE
from tune.objectives import name_of
from tune.results import front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vP"


def front_chart(rows: Sequence[Mapping[str, Any]], emergence: str) -> Iterator[Drawing]:
    """Reconstruction against void emergence, uniformity as colour; trials on the front ringed.

    Rows of one `void_dim`.
    """
    axes_of = ("gain_nats", emergence, "uniformity")
    known = [r for r in rows if r["state"] == "finished" and all(n in r for n in axes_of)]
    if len(known) < 2:
        return
    best = {id(known[i]) for i in front(known, axes_of)}
    void_dim = int(known[0]["void_dim"])
    with drawing(f"front {emergence} {void_dim}") as (axes, svg):
        points = axes.scatter(
            [r["gain_nats"] for r in known], [r[emergence] for r in known],
            c=[r["uniformity"] for r in known], cmap="viridis", s=28,
            linewidths=[1.6 if id(r) in best else 0 for r in known], edgecolors=COLOURS[1],
        )  # fmt: skip
        bar = axes.figure.colorbar(points, ax=axes)
        bar.ax.tick_params(colors=INK)
        bar.set_label(name_of("uniformity"), color=INK)
        axes.set_xlabel(name_of("gain_nats"))
        axes.set_ylabel(name_of(emergence), color=INK)
    words = f"Three-way front, voids in {void_dim} coordinates: ringed trials are beaten by none"
    yield f"{words} in all three", svg.text


def curve_chart(
    choice: Mapping[str, Any], alone: Sequence[Mapping[str, Any]], fit: Mapping[str, Any] | None
) -> Iterator[Drawing]:
    """G(d) of the nested model, models of one size beside it, the law's curve, and the choice."""
    with drawing("G(d)") as (axes, svg):
        axes.plot(
            choice["lengths"], choice["gain_L"], "o-", color=COLOURS[0], markersize=3,
            label="prefixes of one nested model",
        )  # fmt: skip
        if alone:
            axes.plot(
                [row["d"] for row in alone], [row["gain"] for row in alone], "s",
                color=COLOURS[1], markersize=5,
                label="models of one size",
            )  # fmt: skip
        if fit:
            axes.plot(*fit["points"], color=COLOURS[2], linestyle="--", label="fitted law")
        axes.axhline(SHARE * choice["gain_L"][-1], color=INK, linewidth=1, linestyle=":")
        axes.axvline(choice["gain_d"], color=INK, linewidth=1, linestyle=":")
        _along_sizes(axes, choice["lengths"])
        axes.set_ylabel(name_of("gain_nats"), color=INK)
        axes.legend(frameon=False, labelcolor=INK)
    yield f"What d coordinates carry; dotted: {SHARE:.0%} of the most", svg.text


def trip_chart(choice: Mapping[str, Any], limit: float) -> Iterator[Drawing]:
    """The round trip by size, and its limit."""
    with drawing("round trip") as (axes, svg):
        axes.plot(choice["lengths"], choice["round_trip_L"], "o-", color=COLOURS[0], markersize=3)
        axes.axhline(limit, color=INK, linewidth=1, linestyle=":")
        axes.set_yscale("log")
        _along_sizes(axes, choice["lengths"])
        axes.set_ylabel("round trip", color=INK)
    yield "How far texts move when they are written and encoded again; dotted: the limit", svg.text


def law_chart(told: Mapping[str, Any]) -> Iterator[Drawing]:
    """Each corpus's d, and what was foretold of it by the families that are not its own."""
    rows = told["left_out"]["rows"]
    with drawing("law") as (axes, svg):
        for number, family in enumerate(told["families"]):
            mine = [row for row in rows if row["family"] == family]
            colour = COLOURS[number % len(COLOURS)]
            axes.scatter(
                [row["d"] for row in mine], [row["predicted"] for row in mine],
                s=28, marker=MARKERS[number % len(MARKERS)], label=family, edgecolors=colour,
                facecolors=[colour if row["bends"] else "none" for row in mine],
            )  # fmt: skip
        both = [row[name] for row in rows for name in ("d", "predicted")]
        ends, ticks = [min(both), max(both)], [2**n for n in range(1, 16)]
        ticks = [tick for tick in ticks if ends[0] / 2 <= tick <= ends[1] * 2]
        for times, style in ((1.0, "-"), (2.0, ":"), (0.5, ":")):
            axes.plot(ends, [times * end for end in ends], style, color=INK, linewidth=1)
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("d that the curve gives")
        axes.set_ylabel("d foretold by other families", color=INK)
        axes.legend(frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    words = "The law on families left out; dotted: twice and half; empty: no bend below d_max"
    yield words, svg.text


def _along_sizes(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths[::2], [str(d) for d in lengths[::2]])
    axes.minorticks_off()
    axes.set_xlabel("coordinates")
