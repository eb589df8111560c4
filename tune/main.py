"""`cllm tune`: search settings, choose the dimension, or say at once what it will come to.

cllm tune --run runs/demo --trials 24 --json
cllm tune --run runs/demo --choose --d-max 64      # no sweep: the curve, the rule, the window
cllm tune --suggest --corpus texts.jsonl           # in seconds, by the law
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cllm.console import emit, one_line_errors, set_up_logging, stop_on_sigterm
from cllm.errors import InputError
from cllm.files import write_json
from cllm.run import RunFolder, trained_run
from cllm.settings import LEAST_FOR_VOIDS, VOID_DIM
from tune.apply import KEPT, apply, last
from tune.objectives import EARLY, MEASURES, PARTS, of_part, short
from tune.space import DEFAULT, SHORT, Budget, Range, Space

if TYPE_CHECKING:
    from tune.sweep import Found, How
    from tune.trial import Plan

log = logging.getLogger(__name__)

CARRIED = ("lr", "vector_noise", "cluster_weight", "cluster_floor")  # from a sweep to the curve
SEPARATE = "4,8,16,32,64"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the options ask for; print the outcome."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if options.suggest:
            from tune.suggest import show, suggest

            told = suggest(options.corpus)
            emit(told, options.json, lambda: show(told))
            return
        told_as = trained_run(options.run).path
        run, options.run = RunFolder(told_as.resolve()), told_as
        _require_sense(options)
        if options.apply:
            emit(apply(run, options), options.json)
            return
        _require_fit(run, options)
        with redirect_stdout(sys.stderr):  # what workers print comes out here, too
            told = _choose(run, options) if options.choose else _sweep(run, options)
        emit(told, options.json, lambda: _show(told))


def parser() -> argparse.ArgumentParser:
    """The options of `cllm tune`."""
    p = argparse.ArgumentParser(
        prog="cllm tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--run", type=Path, help="with a corpus and a base [default: runs/default, "
                   "which begins as a copy of the shipped run]")  # fmt: skip
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--seed", type=int, default=0)
    what = p.add_argument_group("what to do, if not to search")
    what.add_argument("--choose", action="store_true", help="only choose the dimension")
    what.add_argument("--suggest", action="store_true", help="foretell it, by the law")
    what.add_argument("--apply", action="store_true", help="train what the last sweep found best")
    what.add_argument("--corpus", type=Path, help="a file of texts, for --suggest")
    search = p.add_argument_group("the search")
    search.add_argument(
        "--space", action="append", default=[], metavar="NAME=VALUES",
        help=f"dim=8,16,32 or lr=1e-3..4e-3:log; any setting by its place, and seed; "
        f"[default: {' '.join(DEFAULT)}, as far as the corpus allows]",
    )  # fmt: skip
    search.add_argument("--trials", type=int, help="[default: 24; of a grid, all]")
    search.add_argument("--search", choices=("optuna", "random", "grid"), default="optuna")
    search.add_argument(
        "--objectives", default=EARLY, help=f"one or more of {', '.join(MEASURES)}; by commas"
    )
    search.add_argument("--scheduler", choices=("asha", "none"), help="[default: asha where the "
                        f"objective is {EARLY}, else none]")  # fmt: skip
    search.add_argument("--keep", type=int, default=4, help="ASHA: one of so many goes on")
    search.add_argument(
        "--measure", choices=PARTS, default="voids",
        help="how much is measured of a trial that was not pruned: "
        + "; ".join(f"{part}: {', '.join(of_part(part))}" for part in PARTS),
    )  # fmt: skip
    search.add_argument(
        "--controls", type=int, default=1, help="where clustering weights are searched: seeds with "
        "which the best point is trained again with each of them, in full, with the variance floor "
        "and without; 5 or more tell what a weight buys; 0 = none [default: %(default)s]",
    )  # fmt: skip
    search.add_argument("--decodes", type=int, default=200, help="an arm, where voids are measured")
    trial = p.add_argument_group("a trial")
    trial.add_argument("--preset", choices=("quick", "standard", "full"), help="[default: quick; "
                       "for --apply, the sweep's]")  # fmt: skip
    trial.add_argument("--aim", choices=("text", "voids"), default="text")
    trial.add_argument("--seconds", type=float, help="of training")
    trial.add_argument("--steps", type=int, help="of training, whatever time they take")
    trial.add_argument("--set", action="append", default=[], help="any setting, as in `cllm train`")
    trial.add_argument("--allow-weak-base", action="store_true")
    size = p.add_argument_group("the dimension")
    size.add_argument("--no-choice", action="store_true", help="do not choose one after a sweep")
    size.add_argument("--d-max", type=int, default=64, help="fixed before anything is measured")
    size.add_argument("--seeds", type=int, default=1, help="models that the curve is measured on")
    size.add_argument(
        "--separate", default=SEPARATE, help="sizes that get a model each, by commas: they check "
        "the curve, and voids are sought in them; '' = none [default: %(default)s, up to --d-max]",
    )  # fmt: skip
    size.add_argument("--cap", type=float, default=8, help="a model for the curve is trained to "
                      "its plateau, but no longer than so many trials")  # fmt: skip
    cluster = p.add_argument_group("the cluster")
    cluster.add_argument("--address", help="of a cluster; else the job's, else this machine")
    cluster.add_argument("--workers", type=int, default=0, help="of Ray Train for each trial; "
                         "0 = in the trial's own process")  # fmt: skip
    cluster.add_argument("--cpus", type=float, default=1, help="of a trial or a worker")
    cluster.add_argument("--gpu", action="store_true", help="one for each trial or worker")
    cluster.add_argument("--wait", type=float, default=30, help="seconds for room to come free")
    return p


def budget_of(options: argparse.Namespace) -> Budget:
    """What a trial is trained with, before its point changes it."""
    o = options
    return Budget(o.preset or "quick", o.aim, o.seed, o.seconds, o.steps, tuple(o.set))


def plan_of(run: RunFolder, options: argparse.Namespace) -> Plan:
    """What is the same for all trials."""
    from tune.trial import Plan

    o, parts = options, PARTS[: PARTS.index(options.measure) + 1]
    return Plan(
        run.path, budget_of(o), parts, o.decodes, o.workers, o.allow_weak_base, run.measured_by
    )  # fmt: skip


def how_of(options: argparse.Namespace) -> How:
    """How the space is searched."""
    from tune.sweep import How

    o = options
    objectives = tuple(name.strip() for name in o.objectives.split(",") if name.strip())
    if not objectives:
        raise InputError("--objectives names none; write it like gain_nats,auroc")
    prune = o.scheduler == "asha" or (o.scheduler is None and objectives == (EARLY,))
    return How(
        objectives, o.search, o.trials, prune, o.keep, seed=o.seed, cpus=o.cpus,
        gpu=o.gpu, wait=o.wait,
    )  # fmt: skip


def space_of(run: RunFolder, options: argparse.Namespace) -> Space:
    """What was asked for, else the default as far as the corpus allows."""
    if options.space:
        return Space.parse(options.space)
    space = Space.parse(DEFAULT)
    texts = len(run.load_corpus().select("train"))
    axes = dict(space.axes)
    if options.search == "grid":
        axes = {name: axes[name] for name in ("dim", "cluster_weight")}
    if any(MEASURES[name].of_prefix for name in how_of(options).objectives if name in MEASURES):
        axes["void_dim"] = (VOID_DIM,)  # which prefixes of several lengths cannot be compared by
    dims = axes["dim"]
    if not isinstance(dims, Range):
        fit = tuple(d for d in dims if isinstance(d, int) and d <= min(texts, options.d_max))
        axes["dim"] = fit or (min(texts, options.d_max),)
    return Space(axes)


def _sweep(run: RunFolder, options: argparse.Namespace) -> dict[str, Any]:
    from cluster.joining import joined
    from tune import results
    from tune.controls import controls
    from tune.sweep import require_finished, require_objectives, require_space, sweep

    space, plan, how = space_of(run, options), plan_of(run, options), how_of(options)
    require_objectives(how, plan)
    require_space(space, plan, how)
    with joined(options.address):
        found = sweep(space, plan, how)
        rows, folder = found.rows, run.path / "tune" / found.name
        results.save(folder / "trials.parquet", rows)  # first, whatever comes of them
        require_finished(rows)
        told = _found(run, options, found)
        _keep(folder, told, rows)  # can be read while the controls train
        pairs = controls(space, plan, how, told["best"], options.controls)
    results.save(folder / "trials.parquet", [*rows, *pairs.rows])
    told |= _compared(found, pairs)
    _keep(folder, told, rows)
    if not options.no_choice:
        told |= _choose(run, options, told["best"]["point"])
        _keep(folder, told, rows)
    return told


def _keep(folder: Path, told: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from tune import report

    told["report"] = str(report.write(folder, told, rows))
    write_json(folder.parent / KEPT, told)


def _found(run: RunFolder, options: argparse.Namespace, found: Found) -> dict[str, Any]:
    """What the search came to."""
    from tune import report, results

    plan, rows, objectives = plan_of(run, options), found.rows, how_of(options).objectives
    states, three = [row["state"] for row in rows], report.three_way(rows)
    return {
        "run": str(options.run), "sweep": found.name, "objectives": list(objectives),
        "trials": len(rows),
        "counts": {state: states.count(state) for state in ("finished", "pruned", "failed")},
        "saved": results.saved(rows, plan.evaluations), "seconds": found.seconds,
        "start_share": results.start_share(rows), "best": rows[results.best(rows, objectives)],
        "front": [rows[i] for i in results.front(rows, objectives)],
        "three_way_front": {"objectives": three, "by_void_dim": results.fronts(rows, three)},
        "settings": {"preset": plan.budget.preset, "aim": options.aim, "set": options.set,
                     "cap": options.cap},
        "corpus": run.load_corpus().hash,
    }  # fmt: skip


def _compared(found: Found, pairs: Found) -> dict[str, Any]:
    """What its controls add to it."""
    from tune import report

    return {
        "controls": pairs.rows, "control_seconds": pairs.seconds,
        "clustering": report.clustering_in_words(found.rows, pairs.rows),
    }  # fmt: skip


def _choose(
    run: RunFolder, options: argparse.Namespace, point: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The curve of nested models, the rule's choice, a check by separate models, the window.

    Trained as a sweep's best `point` was, where there is one.
    """
    from cluster.joining import joined
    from cluster.tasks import Needs
    from tune import report
    from tune.dimension import Sizes, dimension

    o, before = options, {} if point is not None else last(run)
    if before.get("sweep"):
        point = before["best"]["point"]
        log.info("trained as the best trial of %s was; see %s", before["sweep"], KEPT)
    taken = tuple(f"{SHORT[name]}={point[name]}" for name in CARRIED if name in (point or {}))
    budget = replace(budget_of(o), changes=(*o.set, *taken))
    needs = Needs(o.cpus, o.gpu, o.wait)
    how = Sizes(
        o.d_max, o.seeds, separate_sizes(o), o.cap, o.decodes, o.allow_weak_base
    )  # fmt: skip
    with joined(o.address):
        told = dimension(run, budget, how, needs)
    told["words"] = report.choice_in_words(told)
    if options.choose:
        told |= {"run": str(options.run)}
        told["report"] = str(report.write(run.path / "tune", told, []))
        settings = {"preset": budget.preset, "aim": budget.aim, "set": list(o.set), "cap": o.cap}
        known = before if before.get("sweep") else {"best": {"point": {}}}
        known |= {"settings": settings, "corpus": run.load_corpus().hash}
        known |= {name: v for name, v in told.items() if name != "report"}
        write_json(run.path / "tune" / KEPT, known)
    return told


def separate_sizes(options: argparse.Namespace) -> tuple[int, ...]:
    """Sizes that get a model each; those of the default as far as they are not above --d-max."""
    words, d_max = options.separate.split(","), options.d_max
    if options.separate == SEPARATE:
        least = LEAST_FOR_VOIDS if options.aim == "voids" else 2
        words = [word for word in words if least <= int(word) <= d_max] or [str(d_max)]
    for word in filter(None, words):
        if not word.strip().isdigit() or not 2 <= int(word) <= d_max:
            raise InputError(
                f"--separate has {word!r}; sizes are numbers from 2 to {d_max} (--d-max)"
            )
    return tuple(sorted({int(word) for word in filter(None, words)}))


def _require_sense(options: argparse.Namespace) -> None:
    """InputError for a number that means nothing, before anything is trained."""
    least = {"controls": 0, "trials": 1, "keep": 2, "seeds": 1, "d_max": 2, "workers": 0,
             "decodes": 1, "steps": 1}  # fmt: skip
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be {low} or more")
    for name in ("cap", "cpus", "seconds"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name} is {value:g}; it must be a number above 0")
    if options.corpus is not None and not options.suggest:
        raise InputError("--corpus is for --suggest; a search takes the texts of --run")
    separate_sizes(options)
    for line in options.set:
        if line.partition("=")[0].strip() == SHORT["dim"]:
            raise InputError(f"--set {line}: sizes are what is searched; write --space dim=8,16,32")


def _require_fit(run: RunFolder, options: argparse.Namespace) -> None:
    """InputError where texts are too few to choose anything by, or the base cannot restore them."""
    from cllm.fitting import require_enough_texts
    from cllm.pipeline import FEW, require_restoring
    from cllm.settings import BaseSettings

    corpus = run.load_corpus()
    held_out = len(corpus.select("validation"))
    if held_out < FEW:
        raise InputError(
            f"{run.corpus} has {held_out} validation texts of {len(corpus)} in all; fewer than "
            f"{FEW} decide nothing: give 600 texts or more, or take what `cllm tune --suggest` says"
        )
    if not run.base.is_dir():
        run.load_base()  # says what to do
    require_restoring(run, BaseSettings().minimum_restored, allow_weak=options.allow_weak_base)
    chooses = options.choose or not options.no_choice
    evaluated = not options.choose and options.measure != PARTS[0]
    judged = chooses and separate_sizes(options) and not corpus.info.get("richness")
    if chooses:
        for dim in {options.d_max, *separate_sizes(options)}:
            require_enough_texts(corpus, budget_of(options).settings({"dim": dim}).model.dim)
    if (evaluated or judged) and not run.reference.is_dir():
        raise InputError(
            f"{run.reference} does not exist, and texts are judged by it; train one with "
            "`cllm pretrain`, or give --measure gain and --no-choice or --separate ''"
        )


def _show(told: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    if "sweep" in told:
        point = ", ".join(f"{name} {short(v)}" for name, v in told["best"]["point"].items())
        counts = ", ".join(f"{n} {state}" for state, n in told["counts"].items() if n)
        saved = "" if told["saved"] is None else f"; pruning saved {told['saved']:.0%}"
        console.print(f"{told['trials']} trials: {counts}{saved}")
        console.print(f"best by {', '.join(told['objectives'])}: {point}")
        for line in told["clustering"]:
            console.print(line)
    for line in told.get("words", ()):
        console.print(line)
    console.print(f"report: {told['report']}")


if __name__ == "__main__":
    stop_on_sigterm()
    main()
