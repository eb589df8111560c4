"""A trial whose training is a run of Ray Train over several workers, reported to Ray Tune."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import ray
from ray.train import Checkpoint
from ray.tune.integration.ray_train import TuneReportCallback

from cllm.arrays import TokenArrays
from cllm.console import set_up_logging
from cllm.run import RunFolder
from cllm.settings import RunSettings
from cluster.tasks import Needs
from cluster.train import Means, train
from tune.trial import Plan, Scores, Shared, measure

WAIT, TIMEOUT = 600, 600  # seconds for other trials' workers to end, and of a worker for others


class ToTune(TuneReportCallback):
    """Tells the trial each held-out score, from where Ray Train's controller runs."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.scores = scores

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None  # noqa: ANN401
    ) -> None:  # fmt: skip
        """The first worker's line; all workers' are the same."""
        del checkpoint  # the training looks after its own
        for line in self.scores.told(metrics[0]):
            super().after_report(run_context, [line], None)


def by_workers(
    plan: Plan, needs: Needs, arrays: Any  # noqa: ANN401 - a reference to the shared ones
) -> tuple[Callable[..., None], Callable[..., dict[str, float]]]:  # fmt: skip
    """How such a trial trains, and how it measures: as a task with a worker's resources."""

    def training(folder: RunFolder, settings: RunSettings, scores: Scores) -> None:
        means = Means(
            plan.workers, needs.gpu, needs.cpus, f"{plan.run}/tune/ray", folder.path.name,
            retries=1, wait=WAIT, timeout=TIMEOUT, track="",
        )  # fmt: skip
        train(str(folder.path), settings, means, also=[ToTune(scores)], known=arrays)

    def measuring(
        folder: RunFolder, settings: RunSettings, plan: Plan, shared: Shared
    ) -> dict[str, float]:
        # not among the resources of the trial's own process, which has none to speak of
        task = ray.remote(**needs.options, scheduling_strategy="DEFAULT")(_measure)
        told = task.remote(folder, settings, plan, arrays, shared.without_nats)
        found: dict[str, float] = ray.get(told)
        return found

    return training, measuring


def _measure(
    folder: RunFolder, settings: RunSettings, plan: Plan, arrays: TokenArrays, without_nats: float
) -> dict[str, float]:
    set_up_logging()
    logging.getLogger("cllm").setLevel(logging.WARNING)
    return measure(folder, settings, plan, Shared(arrays, without_nats))
