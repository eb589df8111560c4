"""Train models to their plateau, for the curve of what a vector of each size carries.

One nested model gives the whole curve; models of one size each say whether it is true.

    told = dimension(run, budget, Sizes(d_max=64), Needs())
"""

# Shapes: L lengths.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from cllm import pipeline
from cllm.arrays import TokenArrays
from cllm.curve import Curve, curve_lengths, measure_curve
from cllm.files import digest
from cllm.fitting import require_enough_texts
from cllm.run import RunFolder
from cllm.settings import LoopSettings, RunSettings
from cluster.joining import require
from cluster.tasks import Needs, side_by_side
from tune.check import checked, dimension_of, last_third
from tune.choice import choose
from tune.curve_fit import fitted
from tune.space import Budget
from tune.trial import share_by_task
from tune.window import MOST_COORDINATES, found_at, window_of

PLATEAU = 0.2  # nats a text that the last third of a training has to be worth
EVALUATIONS = 36
WHOLE = 0.3  # share of texts that keep all coordinates; the others are cut to each length alike


@dataclass(frozen=True)
class Sizes:
    """What is asked about the size of the vector."""

    d_max: int
    seeds: int = 1
    separate: tuple[int, ...] = ()  # sizes that get a model each
    cap: float = 8  # times the budget, where no plateau comes before
    decodes: int = 200
    weak: bool = False


@dataclass(frozen=True)
class Job:
    """One model to train and to measure: of several lengths, nested, or of one."""

    run: Path
    lengths: tuple[int, ...]
    settings: RunSettings
    weak: bool = False

    @property
    def nested(self) -> bool:
        """Whether its prefixes are trained for."""
        return len(self.lengths) > 1

    @property
    def folder(self) -> RunFolder:
        """Of the model: another for other settings."""
        kind, dim, seed = "nested" if self.nested else "plain", self.lengths[-1], self.settings.seed
        name = f"{kind}-{dim}-{seed}-{digest(self.settings.model_dump_json())[:8]}"
        return RunFolder(self.run / "tune" / "dimension" / name)

    @property
    def trained(self) -> dict[str, Any]:
        """How its training went; `last_third`: nats it still rose by before its rate fell."""
        return {
            "model": self.folder.path.name, "d": self.lengths[-1], "nested": self.nested,
            "seed": self.settings.seed, "plateau": self.at_plateau,
            "last_third": last_third(self.folder.metrics()),
            "steps": self.folder.notes()["model"]["steps"],
        }  # fmt: skip

    @property
    def at_plateau(self) -> bool:
        """Whether its training came to its plateau, before its budget ended."""
        return bool(self.folder.notes()["model"].get("plateau"))

    def curve(self, known: TokenArrays | None = None) -> Curve:
        """Train it, where that is not done, and measure it on validation texts."""
        folder = self.folder.path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # two commands may want one model
            return self._curve_in(RunFolder(self.run).branch(folder), known)

    def _curve_in(self, one: RunFolder, known: TokenArrays | None) -> Curve:
        pipeline.train_model(one, self.settings, allow_weak=self.weak, reuse=True, known=known)
        model, corpus, kept = one.load_model(), one.load_corpus(), one.path / "curve.json"
        made_from = f"{model.hash} {self.lengths} {one.measured_by}"
        curve = Curve.load(kept, made_from)
        if curve is None:
            model.base.known = known
            train_ND = model.encode(corpus.select("train").texts)
            reference = one.find_reference(model.base)
            curve = measure_curve(model, reference, corpus, train_ND, self.lengths)
            curve.save(kept, made_from)
        return curve


def job_of(
    run: RunFolder, budget: Budget, lengths: Sequence[int], seed: int, cap: float = 1,
    weak: bool = False,
) -> Job:  # fmt: skip
    """Trained to its plateau, within `cap` budgets; a nested one for all lengths alike."""
    dim = lengths[-1]
    settings = budget.settings({"dim": dim, "seed": seed})
    loop = to_plateau(settings.train.loop, cap)
    nested = len(lengths) > 1
    changes: dict[str, Any] = {"nested": nested, "prefixes": (), "front": 0.0, "loop": loop}
    if nested:
        changes |= {
            "prefixes": tuple(lengths[:-1]), "prefix_weight": 1.0, "full_length": WHOLE,
            "score_prefixes": True,
        }  # fmt: skip
    train = settings.train.model_copy(update=changes)
    settings = settings.model_copy(update={"train": train, "void_dim": dim})
    return Job(run.path, tuple(lengths), settings, weak)


def to_plateau(loop: LoopSettings, cap: float) -> LoopSettings:
    """The same until it gets no better, within `cap` of its budgets."""
    limits = {"seconds": loop.seconds * cap, "steps": max(1, int(loop.steps * cap))}
    return LoopSettings.model_validate(
        loop.model_dump() | limits | {"plateau": PLATEAU, "evaluations": EVALUATIONS}
    )


def dimension(run: RunFolder, budget: Budget, sizes: Sizes, needs: Needs) -> dict[str, Any]:
    """Curve, choice, check and window, over a cluster that was joined; models side by side."""
    require_enough_texts(run.load_corpus(), sizes.d_max)
    require(needs.resources, 1, "one model", needs.wait)
    seeds = range(budget.seed, budget.seed + sizes.seeds)
    lengths = sorted({*curve_lengths(sizes.d_max), *sizes.separate})
    nested = [job_of(run, budget, lengths, seed, sizes.cap, sizes.weak) for seed in seeds]
    plain = [
        job_of(run, budget, (dim,), seed, sizes.cap, sizes.weak)
        for dim in sizes.separate for seed in seeds
    ]  # fmt: skip
    jobs = [*nested, *plain]
    known, _ = share_by_task(run, (job.settings for job in jobs), needs)
    made = side_by_side(Job.curve, [(job, known) for job in jobs], needs)
    curves, alone = made[: len(nested)], made[len(nested) :]
    rng = np.random.default_rng(budget.seed)
    choice = choose(curves, rng)
    fit = fitted(choice.lengths, np.array(choice.gain_L))
    told: dict[str, Any] = {
        "choice": choice.json(), "fit": fit.json(), "trained": [job.trained for job in jobs],
    }  # fmt: skip
    if plain:
        told["check"] = checked(curves, alone, rng)
    told["dimension"] = dimension_of(told["choice"], told.get("check"))
    sought = [job for job in plain if job.lengths[-1] <= MOST_COORDINATES]
    if sought:
        asked = [(job.folder, sizes.decodes, job.settings.seed) for job in sought]
        told["window"] = window_of(side_by_side(found_at, asked, needs)).json()
    return told
