"""A sweep by Ray Tune: trials as its processes or as runs of Ray Train, pruned and resumed.

    rows = sweep(space, plan, How(trials=24)).rows

Killed, the same call goes on: Tune keeps the state of the search in the run folder, and a trial
that was finished is not run again (`tune.trial`).
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import optuna
import ray
from filelock import FileLock, Timeout
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from cllm.errors import InputError, WorkError
from cllm.files import digest, read_json, write_json
from cllm.run import RunFolder
from cluster.joining import last_line, places, require
from cluster.tasks import Needs
from tune import IMPORTED
from tune.objectives import EARLY, MEASURES, OF_WITHHELD, is_low
from tune.progress import Table
from tune.space import SEED, Point, Range, Space, Value
from tune.trial import METHOD, Plan, Shared, run_trial, share_by_task
from tune.workers import by_workers

log = logging.getLogger(__name__)

_FIRST = [IMPORTED]  # of this process: its first trial begins with its imports
SNAPSHOT_SECONDS = "5"  # between snapshots of the search
TOOK = "seconds.json"
RETRIES = 1  # of a trial that fails
TRIALS = 24
LEAST = 2  # evaluations before a trial may be pruned

Search = Literal["optuna", "random", "grid"]
Row = dict[str, Any]


@dataclass(frozen=True)
class How:
    """How the space is searched."""

    objectives: tuple[str, ...] = (EARLY,)
    search: Search = "optuna"
    trials: int | None = None  # 24, or all of a grid
    prune: bool = True
    keep: int = 4  # of so many trials one gets on, where they are pruned
    seed: int = 0
    cpus: float = 1  # of a trial, or of each of its workers
    gpu: bool = False
    wait: float = 30

    @property
    def identity(self) -> str:
        """Of the search; trials keep the resources that they were begun with."""
        parts = (self.objectives, self.search, self.trials, self.prune, self.keep, LEAST)
        return repr((*parts, self.seed, self.cpus, self.gpu, METHOD))


@dataclass(frozen=True)
class Found:
    """A sweep's trials, one row each, and how long it took: calls that were killed left out."""

    name: str
    rows: list[Row]
    seconds: float


def sweep(space: Space, plan: Plan, how: How) -> Found:
    """Run the trials, over a cluster that was joined; one row each, failed ones too.

    Raises:
        InputError: the space does not fit the corpus, or there is no room for one trial.
    """
    points = require_space(space, plan, how)
    room = _room(plan, how)
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", SNAPSHOT_SECONDS)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # most come at the end only
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends us, and is told
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    name = "sweep-" + digest(repr(space), repr(plan), how.identity)[:8]
    folder = plan.run / "tune" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            return _found(space, points, plan, how, room, folder)
    except Timeout as error:
        raise InputError(
            f"{folder} is being searched by another process; wait for it, or end it"
        ) from error


def _found(
    space: Space, points: list[Point], plan: Plan, how: How, room: int, folder: Path
) -> Found:
    begun = time.time()
    several = map(plan.budget.settings, space.corners())
    shared = share_by_task(RunFolder(plan.run.resolve()), several, Needs(how.cpus, how.gpu))
    trainable = tune.with_resources(
        tune.with_parameters(_trial, plan=plan, shared=shared, how=how), _resources(plan, how)
    )
    count = len(points) or how.trials or TRIALS
    log.info("%s: %d trials, %d at a time, in %s", folder.name, count, room, folder)
    log.info("each has %d held-out scores, the last one when all is measured: %s",
             plan.evaluations, ", ".join(plan.parts))  # fmt: skip
    if tune.Tuner.can_restore(str(folder)):
        log.info("going on with the sweep that lies there; it prunes by what comes from now on")
        tuner = tune.Tuner.restore(str(folder), trainable, resume_errored=True)
    else:
        table = Table(tuple(space.axes), how.objectives, count)
        tuner = _tuner(trainable, space, points, plan, how, room, folder.name, table)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # the table says it all
        rows = [_row(result, plan.workers) for result in tuner.fit()]
    _clear(plan, rows)
    took = folder / TOOK
    seconds = time.time() - begun + (read_json(took)["seconds"] if took.exists() else 0.0)
    write_json(took, {"seconds": seconds})
    return Found(folder.name, rows, seconds)


def require_objectives(how: How, plan: Plan) -> None:
    """InputError for an objective that does not exist, or would never appear, or cannot prune."""
    info = RunFolder(plan.run).load_corpus().info
    if how.prune and how.objectives != (EARLY,):
        raise InputError(
            f"ASHA prunes by {EARLY}, the one objective that is known while a trial trains, and "
            "would end those that are good at others; give --scheduler none"
        )
    for name in how.objectives:
        if name not in MEASURES:
            raise InputError(f"no objective {name!r}; there are {', '.join(sorted(MEASURES))}")
        if (part := MEASURES[name].part) not in plan.parts:
            raise InputError(f"{name} would never appear; it needs --measure {part}")
        if name in OF_WITHHELD and "withheld" not in info:
            raise InputError(
                f"{name} would never appear: this corpus withholds nothing; the built-in one does"
            )


def require_space(space: Space, plan: Plan, how: How) -> list[Point]:
    """The points of a grid, else none; InputError where a corner fits neither settings nor data."""
    from cllm.fitting import require_enough_texts

    corpus = RunFolder(plan.run).load_corpus()
    _require_one_prefix(space, plan, how)
    for corner in space.corners():
        settings = plan.budget.settings(corner)
        require_enough_texts(corpus, settings.model.dim)
        if settings.train.swaps and isinstance(space.axes.get(SEED), Range):
            raise InputError(
                "a range of seeds needs other copies of texts for each; list them: --space "
                "seed=0,1,2"
            )
    points = space.grid() if how.search == "grid" else []
    random.Random(how.seed).shuffle(points)  # ASHA compares with those before: no slope among them
    if points and how.trials and how.trials < len(points):
        raise InputError(
            f"the grid has {len(points)} points and --trials allows {how.trials}; leave --trials "
            "out, or search fewer values"
        )
    return points


def _require_one_prefix(space: Space, plan: Plan, how: How) -> None:
    """InputError for an objective that prefixes of several lengths cannot be compared by."""
    sizes = {name: axis for name, axis in space.ends().items() if name in ("dim", "void_dim")}
    points = (dict(zip(sizes, values, strict=True)) for values in product(*sizes.values()))
    several = {
        (one.void_dim, () if one.void_dim else one.train.prefixes)
        for one in map(plan.budget.settings, points)
    }  # 0 and no prefixes: each trial chooses its own
    for name in how.objectives:
        if MEASURES[name].of_prefix and (len(several) > 1 or (0, ()) in several):
            raise InputError(
                f"{name} is of the coordinates that voids are sought in, and compares at one "
                "number of them only; write --space void_dim=8"
            )


def _tuner(
    trainable: Any, space: Space, points: list[Point], plan: Plan, how: How, room: int, name: str,  # noqa: ANN401
    table: Table,
) -> tune.Tuner:  # fmt: skip
    search: Any
    if points:
        domain: dict[str, Any] = {"point": tune.grid_search(points)}
        trials = 1
    else:
        domain = {name: _domain(axis) for name, axis in space.axes.items()}
        trials = how.trials or TRIALS
    if how.search == "optuna":
        search, most = _search(how), room
    else:  # which bounds itself
        search, most = BasicVariantGenerator(max_concurrent=room, random_state=how.seed), None
    return tune.Tuner(
        trainable,
        param_space=domain,
        tune_config=tune.TuneConfig(
            search_alg=search, scheduler=_scheduler(plan, how), num_samples=trials,
            max_concurrent_trials=most,
            reuse_actors=not plan.workers,  # whose training only ends with its process
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name, storage_path=str(plan.run.resolve() / "tune"), verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[table, JsonLoggerCallback()],
        ),
    )  # fmt: skip


def _domain(axis: tuple[Value, ...] | Range) -> Any:  # noqa: ANN401 - one of Tune's
    if isinstance(axis, tuple):
        return tune.choice(list(axis))
    if axis.whole:
        draw = tune.lograndint if axis.log else tune.randint
        return draw(int(axis.low), int(axis.high) + 1)
    return (tune.loguniform if axis.log else tune.uniform)(axis.low, axis.high)


def _scheduler(plan: Plan, how: How) -> TrialScheduler | None:
    if not how.prune:
        return None
    return SparingASHA(
        time_attr="evaluation", metric=EARLY, mode="max", max_t=plan.evaluations,
        grace_period=min(LEAST, plan.evaluations), reduction_factor=how.keep,
    )  # fmt: skip


class SparingASHA(AsyncHyperBandScheduler):
    """ASHA that compares with what was trained before, as a resumed search tells it, but ends none.

    Such a trial costs no training, and its scores may stand against others than they did then.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        """CONTINUE for a trial whose model is there, up to its last report."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if "cached" in result and "folder" not in result else decision


class PruningOptuna(OptunaSearch):
    """Optuna's search, which counts as an outcome only what a trial reports at its end.

    A pruned trial's gain is that of a part of its training: Optuna hears that it was pruned.
    """

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Gains on the way say how a pruned trial stood, where the gain is the one objective."""
        if self.metric == EARLY:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pruned where it did not come to its end; failed where it lacks an objective."""
        wanted = [self.metric] if isinstance(self.metric, str) else self.metric
        ended = bool(result) and "folder" in (result or {})
        lacks = ended and any(name not in (result or {}) for name in wanted)
        pruned_of_several = not ended and len(wanted) > 1  # of which Optuna knows no pruning
        super().on_trial_complete(
            trial_id, result if ended and not lacks else None, error or lacks or pruned_of_several
        )


def _search(how: How) -> Searcher:
    modes = ["min" if is_low(name) else "max" for name in how.objectives]
    if len(modes) == 1:
        return PruningOptuna(metric=how.objectives[0], mode=modes[0], seed=how.seed)
    return PruningOptuna(metric=list(how.objectives), mode=modes, seed=how.seed)


def _room(plan: Plan, how: How) -> int:
    """How many trials fit at a time; InputError where not even one does."""
    each = Needs(how.cpus, how.gpu).resources
    workers = max(1, plan.workers)
    require(each, workers, "one trial" if workers == 1 else f"the {workers} workers of one trial",
            how.wait)  # fmt: skip
    return max(1, places(each) // workers)


def _resources(plan: Plan, how: How) -> dict[str, float]:
    """Of a trial's own process; where workers train it waits on the head, and takes no CPU."""
    if plan.workers:
        return {"CPU": 0, "node:__internal_head__": 1e-3}
    return Needs(how.cpus, how.gpu).resources


def _trial(config: dict[str, Any], plan: Plan, shared: list[Any], how: How) -> None:
    """What Tune runs, in a process of its own."""
    from cllm.console import set_up_logging

    set_up_logging()
    logging.getLogger("cllm").setLevel(logging.WARNING)
    point = config.get("point", config)
    needs = Needs(how.cpus, how.gpu)
    elsewhere = by_workers(plan, needs, shared[0]) if plan.workers else (None, None)
    begun = _FIRST.pop() if _FIRST else time.time()
    run_trial(point, plan, Shared(*ray.get(shared)), tune.report, *elsewhere, begun)


def _row(result: Any, workers: int) -> Row:  # noqa: ANN401 - Tune's
    """Of a trial: its point, how it ended, and what was reported last."""
    metrics = dict(result.metrics or {})
    point = metrics.get("config", {})
    point = point.get("point", point)
    state = "failed" if result.error else "finished" if "folder" in metrics else "pruned"
    kept = {*MEASURES, "dim", "void_dim", "steps", "evaluation", "train_seconds",
            "measure_seconds", "start_seconds", "void_texts", "folder",
            "gain_low", "gain_high", "cached",
            "went_on"}  # fmt: skip
    row: Row = {"state": state, "seconds": metrics.get("time_total_s")} | {
        name: value for name, value in metrics.items() if name in kept
    }
    told = result.metrics_dataframe  # of trials by several workers only the way tells the start
    if workers and told is not None and "start_seconds" in told:
        row.setdefault("start_seconds", float(told["start_seconds"].dropna().iloc[0]))
    if result.error:
        row["error"] = last_line(result.error)
    return row | {"point": point}


def _clear(plan: Plan, rows: Sequence[Row]) -> None:
    """Checkpoints of pruned trials go: nobody goes on with them."""
    for row in rows:
        if row["state"] == "pruned" and row["point"]:
            folder = plan.folder(row["point"])
            with suppress(Timeout), FileLock(folder.path / "lock", timeout=0):  # of other sweeps
                for rest in plan.checkpoints(folder):
                    shutil.rmtree(rest, ignore_errors=True)


def require_finished(rows: Sequence[Row]) -> None:
    """WorkError where no trial has come to its end."""
    if any(row["state"] == "finished" for row in rows):
        return
    reasons = sorted({row.get("error", "it was stopped") for row in rows})
    raise WorkError(
        f"none of {len(rows)} trials finished: {'; '.join(reasons[:3])}; the same command tries "
        "the failed ones again"
    )
