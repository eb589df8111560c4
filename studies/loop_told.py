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
from scipy import stats

from cllm.diversity import TextSpace, even_spread
from cllm.errors import InputError
from cllm.files import replacing
from cllm.improve import Loop
from cllm.made import real_part
from cllm.measured import SPACE, TEXTS
from cllm.metrics import bootstrap

Floats = NDArray[np.float64]

PER_TEXT = ("content_f1", "forced_content_f1", "told_apart", "told_apart_unaided")
DISTINCT = tuple(f"distinct_{n}" for n in (1, 2, 4))
SHARES = (
    *PER_TEXT, "written valid", "written repeated", "taught valid", "unaided valid",
    *(f"{part} {name}" for part in ("written", "unaided") for name in DISTINCT),
)  # fmt: skip
AT_ONCE = "no training, at once"  # an arm of one round, with the decodes of all
COMPARED = 40  # texts of a round that diversity is told of: most rounds have more
SAME = 1e-3  # of content F1 that two machines restore otherwise of the same model
HOLDS = 0.97  # of round 0's gain that an arm surely keeps
OF_TEXTS = {  # of what was written from voids, and from random places
    "written": ("valid", "repeated", "distance", "vendi", *DISTINCT),
    "taught": ("valid", "distance"),
    "unaided": ("valid", "distance", "vendi", *DISTINCT),
}
PANELS = {
    "gain_ratio": "gain on real held-out texts ÷ round 0",
    "content_f1": "content F1, free",
    "forced_content_f1": "content F1, forced",
    "told_apart": "edits told apart, given the vector",
    "told_apart_unaided": "edits told apart, no vector",
    "written valid": "valid, from voids",
    "written distance": "distance to real texts, from voids",
    "written vendi": f"Vendi score of {COMPARED}, from voids",
    "written distinct_2": "distinct pairs of words, from voids",
    "written repeated": "repeats earlier rounds, from voids",
    "unaided valid": "valid, from random places",
    "unaided distance": "distance to real texts, from random places",
    "unaided vendi": "Vendi score of 100, from random places",
    "unaided distinct_2": "distinct pairs of words, from random places",
    "withheld_so_far": "withheld combinations found so far",
}


def summary(loops: Mapping[str, Sequence[Loop]], rounds: int) -> dict[str, Any]:
    """By arm and measure a list over rounds: the mean and its interval over seeds (and texts).

    A loop that had to end before stays where it was, and finds nothing more; `ended` counts those.
    None stands where not all loops have a number.
    """
    space = _space_of(next(iter(loops.values()))[0])
    in_rounds = {arm: several for arm, several in loops.items() if arm != AT_ONCE}
    arms = {arm: _of_arm(several, rounds, space) for arm, several in in_rounds.items()}
    told: dict[str, Any] = {"rounds": rounds, "seeds": len(next(iter(loops.values()))),
                            "judge": [one.notes(0)["judge"] for one in next(iter(loops.values()))],
                            "arms": arms}  # fmt: skip
    if "guarded" in loops:
        told["gain, less guarded"] = {
            arm: [_ratio(*(_gains(*pair) for pair in
                           ((several, k), (loops["guarded"], k), (several, 0))), less=True)
                  for k in range(1, rounds + 1)]
            for arm, several in in_rounds.items() if arm != "guarded"
        }  # fmt: skip
    if AT_ONCE in loops:
        told[AT_ONCE] = [
            {"decodes": one.get("decodes_so_far"), "texts": one.get("written", {}).get("texts"),
             "found": one.get("withheld_so_far")}
            for one in (_told(loop, 1) for loop in loops[AT_ONCE])
        ]  # fmt: skip
    for other in ("no training", "no training, kept in mind", AT_ONCE, "real only"):
        if {"guarded", other} <= loops.keys():
            told[f"found, guarded over {other}"] = _times(
                *zip(*(_found(*pair, rounds, 1 if other == AT_ONCE else rounds)
                       for pair in zip(loops["guarded"], loops[other], strict=True)), strict=True)
            )  # fmt: skip
    return told


def beside(told: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The same with arms of an earlier `summary`, of loops that were begun likewise elsewhere.

    Differences from a guarded arm that only that one has are over seeds alone, which are paired.
    InputError: the two do not compare.
    """
    for name in ("rounds", "seeds", "first_seed", "decodes", "steps"):
        if told[name] != known.get(name):
            raise InputError(f"--beside has {name} {known.get(name)}, these loops {told[name]}")
    begun = [next(iter(one["arms"].values()))["content_f1"][0]["mean"] for one in (told, known)]
    if abs(begun[0] - begun[1]) > SAME:
        raise InputError(
            f"loops of --beside restore {begun[1]:.4f} of content words in round 0, and these "
            f"{begun[0]:.4f}: they began with another model, or are measured on other texts"
        )
    joined = {**known, **told, "arms": {**known["arms"], **told["arms"]}}
    less = {**known.get("gain, less guarded", {}), **told.get("gain, less guarded", {})}
    if guarded := joined["arms"].get("guarded"):
        for arm in joined["arms"].keys() - {"guarded", *less}:
            pairs = zip(joined["arms"][arm]["gain_ratio"], guarded["gain_ratio"], strict=True)
            less[arm] = [_over_pairs(*pair) for pair in pairs][1:]
        joined["gain, less guarded"] = {arm: less[arm] for arm in joined["arms"] if arm in less}
    return joined


def _over_pairs(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How much less, seed by seed, with Student's interval."""
    each_S = np.array(mine["seeds"]) - np.array(other["seeds"])
    told: dict[str, Any] = {"mean": float(each_S.mean()), "seeds": each_S.tolist()}
    if len(each_S) < 2:
        return told
    wide = float(stats.t.ppf(0.975, len(each_S) - 1) * each_S.std(ddof=1) / len(each_S) ** 0.5)
    return told | {"ci": [told["mean"] - wide, told["mean"] + wide]}


def _space_of(loop: Loop) -> TextSpace:
    """As rounds are measured in: of the real texts, which all loops have."""
    real = real_part(loop.round(0).load_corpus())
    return TextSpace.of(real.select("train").sample(SPACE).texts)


def _of_arm(loops: Sequence[Loop], rounds: int, space: TextSpace) -> dict[str, Any]:
    before_SN = _gains(loops, 0)
    arm: dict[str, Any] = {"ended": sum(_reached(loop, rounds) < rounds for loop in loops)}
    for number in range(rounds + 1):
        values = [_values(loop, number) for loop in loops]
        told = [_told(loop, number) for loop in loops]
        now: dict[str, Any] = {"gain_ratio": _ratio(_gains(loops, number), before_SN, before_SN)}
        now |= {name: _over_seeds([one[name] for one in values]) for name in PER_TEXT}
        if number:
            for loop, one in zip(loops, told, strict=True):
                texts = [idea.text for idea in loop.written(_reached(loop, number))]
                even = even_spread(space, texts, COMPARED)
                one["written"] = one.get("written", {}) | dict.fromkeys(("vendi", *DISTINCT)) | even
        now |= {name: _over_loops(of_loops) for name, of_loops in _counted(told).items()}
        if number:
            now["made"] = {"each": [one["texts"]["made"] for one in told]}
            passed = [loop.notes(_reached(loop, number)).get("valid") for loop in loops]
            written = [one["written"].get("texts") for one in told]
            now["passed"] = {"each": [list(pair) for pair in zip(passed, written, strict=True)]}
            now["best_step"] = {"each": [_best_step(loop, number) for loop in loops]}
        for name, value in now.items():
            if value and "ci" in value and "distance" not in name and name != "gain_ratio":
                bounds = np.clip(value["ci"], 0, 1 if name in SHARES else None)
                value["ci"] = bounds.tolist()  # few seeds stretch it
            arm.setdefault(name, []).append(value)
    return arm


def _reached(loop: Loop, number: int) -> int:
    """That round, or the last that was measured before it."""
    while "measured" not in loop.notes(number):
        number -= 1
    return number


def _best_step(loop: Loop, number: int) -> int | None:
    """Step of the CLLM's training that real validation texts chose."""
    trained = loop.how.further and _reached(loop, number) == number
    return loop.round(number).notes()["model"].get("best_step") if trained else None


def _told(loop: Loop, number: int) -> dict[str, Any]:
    return dict(loop.notes(_reached(loop, number))["measured"])


def _values(loop: Loop, number: int) -> dict[str, Floats]:
    return dict(np.load(loop.round(_reached(loop, number)).path / TEXTS))


def _found(mine: Loop, other: Loop, rounds: int, others: int) -> tuple[int, int]:
    """Withheld combinations that two loops found in as many decodes: as far as both went.

    A loop of fewer rounds has all decodes in these, whatever became of mine.
    """
    last = rounds if others != rounds else min(_reached(mine, rounds), _reached(other, rounds))
    ends = ((mine, last), (other, min(last, others)))
    found, beside = (int(_told(loop, end).get("withheld_so_far", 0)) for loop, end in ends)
    return found, beside


def _counted(told: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Numbers that a loop has one of, by name; None where it has not."""
    found: dict[str, list[float | None]] = {
        f"{part} {name}": [one.get(part, {}).get(name) for one in told]
        for part, names in OF_TEXTS.items() for name in names
    }  # fmt: skip
    sums = ("withheld_so_far", "decodes_so_far")
    return found | {name: [one.get(name) for one in told] for name in sums}


def _over_loops(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    return (
        _over_seeds([np.array([value]) for value in known]) if len(known) == len(values) else None
    )


def _over_seeds(values: Sequence[Floats]) -> dict[str, Any]:
    """Over seeds and texts, which are the same ones for all loops."""
    table_SN = np.stack(values)
    if table_SN.shape == (1, 1):
        return {"mean": float(table_SN[0, 0])}
    found = bootstrap(table_SN, np.random.default_rng(0))
    return {"mean": found.mean, "ci": found.ci, "seeds": table_SN.mean(1).tolist()}


def _gains(loops: Sequence[Loop], number: int) -> Floats:
    """Nats that each test text gains after that round, (S, N)."""
    return np.stack([_values(loop, number)["gain_nats"] for loop in loops])


def _ratio(
    now_SN: Floats, than_SN: Floats, first_SN: Floats, *, less: bool = False
) -> dict[str, Any]:
    """Change of the mean gain, of the first round's, over seeds and texts, which are paired.

    One more than that, unless it is how much `less` than another arm's. What the first round's
    mean is unsure by is left out: it is the same for all arms.
    """
    found, unit = bootstrap(now_SN - than_SN, np.random.default_rng(0)), float(first_SN.mean())
    base, each = 0 if less else 1, (now_SN - than_SN).mean(1) / first_SN.mean(1)
    return {
        "mean": base + found.mean / unit, "ci": [base + bound / unit for bound in found.ci],
        "seeds": (base + each).tolist(),
    }  # fmt: skip


def _times(mine: Sequence[int], others: Sequence[int]) -> dict[str, Any]:
    """How many times as many, over seeds; half a one is added, for none.

    Seeds differ at least by chance: the larger of their own variance and of counts' (Poisson).
    """
    a_S, b_S = np.array(mine) + 0.5, np.array(others) + 0.5
    ratio, count = float(a_S.sum() / b_S.sum()), len(a_S)
    told: dict[str, Any] = {"mine": list(mine), "others": list(others), "ratio": ratio}
    if count < 2:
        return told
    variance = max(float(np.log(a_S / b_S).var(ddof=1)), float((1 / a_S + 1 / b_S).mean()))
    factor = float(np.exp(stats.t.ppf(0.975, count - 1) * (variance / count) ** 0.5))
    return told | {"ci": [ratio / factor, ratio * factor]}


# ---- in words, as a table, as a picture ----------------------------------------------------


def verdicts(told: Mapping[str, Any]) -> list[str]:
    """Whether each arm gains, holds or decays, by the gain on real held-out texts."""
    lines = []
    for arm, of in told["arms"].items():
        last, later = of["gain_ratio"][-1], of["gain_ratio"][1:]
        least = min(one for each in later for one in each["seeds"])
        low, high = last["ci"]
        word = "gains" if low > 1 else "decays" if high < 1 else "not sure"
        if word == "not sure" and low >= HOLDS:
            word = "holds"
        ended = f"; {of['ended']} of {told['seeds']} loops ended before" if of["ended"] else ""
        lines.append(
            f"{arm}: {word}: after {told['rounds']} rounds real held-out texts gain "
            f"{last['mean']:.3f} [{low:.3f}, {high:.3f}] of round 0 (least of any round "
            f"and seed: {least:.3f}){ended}"
        )
    for name, found in told.items():
        if name.startswith("found, "):
            ci = f" [{found['ci'][0]:.2f}, {found['ci'][1]:.2f}]" if "ci" in found else ""
            lines.append(
                f"withheld combinations {name}: {found['ratio']:.2f}{ci} "
                f"({sum(found['mine'])} against {sum(found['others'])})"
            )
    return lines


def table(told: Mapping[str, Any]) -> list[str]:
    """Markdown: the last round of every arm."""
    lines = ["| arm | " + " | ".join(PANELS.values()) + " |", "|---" * (1 + len(PANELS)) + "|"]
    for arm, of in told["arms"].items():
        cells = [_cell(of[name][-1]) if of.get(name) else "" for name in PANELS]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    mean, *ends = (_short(x) for x in (value["mean"], *value.get("ci", ())))
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def _short(x: float) -> str:
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}"


def draw_loops(path: Path, told: Mapping[str, Any]) -> None:
    """Write a PNG: rounds against each measure, a line an arm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(19, 11.5), dpi=100, facecolor="white", layout="constrained")
    colours = _colours(list(told["arms"]))
    for axes, (name, title) in zip(figure.subplots(3, 5).flat, PANELS.items(), strict=True):
        for arm, of in told["arms"].items():
            known = [(x, one) for x, one in enumerate(of.get(name, [])) if one]
            xs, colour, style = [x for x, _ in known], *colours[arm]
            axes.plot(xs, [one["mean"] for _, one in known], style, color=colour, label=arm)
            if arm == "guarded" and known and all("ci" in one for _, one in known):
                bounds = np.array([one["ci"] for _, one in known]).T
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
