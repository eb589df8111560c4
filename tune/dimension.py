"""Train models to their plateau, for the curve of what a vector of each size carries.

One nested model gives the whole curve; models of one size each say whether it is true.

    told = dimension(run, budget, Sizes(d_max=64), Needs())
"""

# Shapes: L lengths.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from cllm import pipeline
from cllm.console import set_up_logging
from cllm.curve import Curve, curve_lengths, measure_curve
from cllm.errors import InputError, WorkError
from cllm.metrics import bootstrap
from cllm.run import RunFolder
from cllm.settings import LoopSettings, RunSettings
from cluster.joining import require
from cluster.tasks import Needs, told_error
from tune.choice import choose
from tune.curve_fit import fitted
from tune.space import Budget
from tune.window import At, found_at, window_of

Made = TypeVar("Made")

PLATEAU = 0.2  # nats a text that the last third of a training has to be worth
EVALUATIONS = 36
WHOLE = 0.3  # share of texts that keep all coordinates; the others are cut to each length alike


@dataclass(frozen=True)
class Sizes:
    """What is asked about the size of the vector."""

    d_max: int
    seeds: int = 1
    separate: tuple[int, ...] = ()  # sizes that get a model each
    window: tuple[int, ...] = ()  # sizes that voids are sought in
    cap: float = 8  # times the budget, where no plateau comes before
    decodes: int = 200
    weak: bool = False


@dataclass(frozen=True)
class Job:
    """One model of the curve: nested, or of one size."""

    dim: int
    seed: int
    nested: bool

    def folder(self, run: RunFolder) -> RunFolder:
        """Of the model."""
        kind = "nested" if self.nested else "plain"
        return RunFolder(run.path / "tune" / "dimension" / f"{kind}-{self.dim}-{self.seed}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """What is measured of it."""
        return curve_lengths(self.dim) if self.nested else (self.dim,)


def dimension(run: RunFolder, budget: Budget, sizes: Sizes, needs: Needs) -> dict[str, Any]:
    """Curve, choice, check and window, over a cluster that was joined; models side by side."""
    pipeline.require_enough_texts(run.load_corpus(), sizes.d_max)
    seeds = range(budget.seed, budget.seed + sizes.seeds)
    nested = [Job(sizes.d_max, seed, nested=True) for seed in seeds]
    plain = [Job(dim, seed, nested=False) for dim in sizes.separate for seed in seeds]
    require(needs.resources, 1, "one model", needs.wait)
    asked = [
        (run.path, job, trained_for_curve(budget, job, sizes.cap), sizes.weak)
        for job in (*nested, *plain)
    ]
    curves = dict(zip([*nested, *plain], _side_by_side(_curve, asked, needs), strict=True))
    rng = np.random.default_rng(budget.seed)
    choice = choose([curves[job] for job in nested], rng)
    fit = fitted(choice.lengths, np.array(choice.gain_L))
    told: dict[str, Any] = {
        "choice": choice.json(), "fit": fit.json(),
        "plateau": {job.folder(run).path.name: at_plateau(job.folder(run)) for job in curves},
    }  # fmt: skip
    if plain:
        told["separate"], told["check"] = _checked(curves, nested, plain, rng)
    if sizes.window:
        asked = [(run.path, job, k, sizes.decodes) for job in nested for k in sizes.window]
        told["window"] = window_of(_side_by_side(_found, asked, needs)).json()
    return told


def trained_for_curve(budget: Budget, job: Job, cap: float) -> RunSettings:
    """To the plateau, and a nested one for all lengths alike."""
    settings = budget.settings({"dim": job.dim, "seed": job.seed})
    loop = settings.train.loop
    limits: dict[str, Any] = {"seconds": loop.seconds * cap}
    if not loop.seconds:
        limits = {"steps": int(loop.steps * cap)}
    loop = LoopSettings.model_validate(
        loop.model_dump() | limits | {"plateau": PLATEAU, "evaluations": EVALUATIONS}
    )
    changes: dict[str, Any] = {"nested": job.nested, "prefixes": (), "front": 0.0, "loop": loop}
    if job.nested:
        changes |= {
            "prefixes": job.lengths[:-1], "prefix_weight": 1.0, "full_length": WHOLE,
            "score_prefixes": True,
        }  # fmt: skip
    train = settings.train.model_copy(update=changes)
    return settings.model_copy(update={"train": train, "void_dim": job.dim})


def curve_of(run: RunFolder, job: Job, settings: RunSettings, *, weak: bool = False) -> Curve:
    """Train the model, where that is not done, and measure it on validation texts."""
    folder = job.folder(run).path
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # two commands may want one model
        return _curve_in(run.branch(folder), job, settings, weak=weak)


def _curve_in(one: RunFolder, job: Job, settings: RunSettings, *, weak: bool) -> Curve:
    pipeline.train_model(one, settings, allow_weak=weak, reuse=True)
    model, corpus = one.load_model(), one.load_corpus()
    kept = one.path / "curve.json"
    made_from = f"{model.hash} {job.lengths} {one.measured_by}"
    curve = Curve.load(kept, made_from)
    if curve is None:
        train_ND = model.encode(corpus.select("train").texts)
        reference = one.find_reference(model.base)
        curve = measure_curve(model, reference, corpus, train_ND, job.lengths)
        curve.save(kept, made_from)
    return curve


def _side_by_side(
    work: Callable[..., Made], asked: Sequence[tuple[Any, ...]], needs: Needs
) -> list[Made]:
    """What `work` makes of each of them, as tasks of a cluster that was joined."""
    import ray

    task = ray.remote(num_cpus=needs.cpus, num_gpus=int(needs.gpu))(_told)
    made = []
    for told in ray.get([task.remote(work, *each) for each in asked]):
        if isinstance(told, tuple):
            raise told_error(*told)
        made.append(told)
    return made


def _told(work: Callable[..., Made], *asked: object) -> Made | tuple[int, str]:
    set_up_logging()
    try:
        return work(*asked)
    except (InputError, WorkError) as error:
        return error.exit_status, str(error)


def _curve(path: Path, job: Job, settings: RunSettings, weak: bool) -> Curve:
    return curve_of(RunFolder(path), job, settings, weak=weak)


def _found(path: Path, job: Job, k: int, decodes: int) -> At:
    run = RunFolder(path)
    return found_at(run, job.folder(run), k, decodes, job.seed)


def at_plateau(folder: RunFolder) -> bool:
    """Whether a model's training came to its plateau, before its budget ended."""
    return bool(folder.notes()["model"].get("plateau"))


def _checked(
    curves: dict[Job, Curve], nested: Sequence[Job], plain: Sequence[Job], rng: np.random.Generator
) -> tuple[dict[int, float], dict[int, Any]]:
    """Gains of models of one size, and those of the nested one's prefixes over them."""
    gains, check = {}, {}
    for dim in dict.fromkeys(job.dim for job in plain):
        alone_SN = np.stack([curves[job].gain_LN[0] for job in plain if job.dim == dim])
        rows = [curves[job] for job in nested]
        at = rows[0].lengths.index(dim) if dim in rows[0].lengths else None
        alone = bootstrap(alone_SN, rng)
        gains[dim] = alone.mean
        check[dim] = {"gain": alone.mean, "ci": alone.ci}
        if at is not None:
            prefix_SN = np.stack([curve.gain_LN[at] for curve in rows])
            difference = bootstrap(prefix_SN - alone_SN, rng)
            check[dim] |= {
                "nested_gain": float(prefix_SN.mean()),
                "nested_over_separate": float(prefix_SN.mean() / alone.mean),
                "difference": difference.mean, "difference_ci": difference.ci,
            }  # fmt: skip
    return gains, check
