"""Losses and speed of a training on a cluster, as it goes: TensorBoard, and MLflow where asked."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from ray.train import Checkpoint, UserCallback

from cllm.errors import InputError
from cluster.remote import is_url, put

COPY_SECONDS = 30.0


def tracking(storage: str, name: str, mlflow_uri: str) -> list[UserCallback]:
    """The callbacks of a run; InputError where MLflow is asked for and not there."""
    found: list[UserCallback] = [Board(f"{storage}/{name}/tensorboard")]
    if mlflow_uri:
        try:
            import mlflow  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise InputError("--mlflow needs mlflow; pip install mlflow") from error
        found.append(MLflow(mlflow_uri, name))
    return found


class Board(UserCallback):
    """TensorBoard files beside the checkpoints; copied there now and then where that is a URL."""

    def __init__(self, place: str) -> None:
        self.place, self.folder, self.writer, self.copied = place, "", None, 0.0

    def after_report(
        self, run_context: object, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Write the first worker's numbers; all workers' are the same."""
        del run_context, checkpoint
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.folder = tempfile.mkdtemp() if is_url(self.place) else self.place
            self.writer = SummaryWriter(self.folder)
        for name, value in numbers(metrics[0]).items():
            self.writer.add_scalar(name, value, metrics[0]["step"])
        self.writer.flush()
        due = time.monotonic() - self.copied > COPY_SECONDS or "loss" not in metrics[0]
        if is_url(self.place) and due:  # a training ends with a held-out score
            for file in Path(self.folder).iterdir():  # beside those of earlier sessions
                put(file, f"{self.place}/{file.name}")
            self.copied = time.monotonic()


class MLflow(UserCallback):
    """An MLflow run; its client lives where Ray's controller does."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name, self.client, self.run = uri, name, None, ""

    def after_report(
        self, run_context: object, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Log the first worker's numbers."""
        del run_context, checkpoint
        if self.client is None:
            from mlflow.tracking import MlflowClient

            self.client = MlflowClient(self.uri)
            experiment = self.client.get_experiment_by_name("cllm")
            found = (
                experiment.experiment_id if experiment else self.client.create_experiment("cllm")
            )
            self.run = self.client.create_run(found, run_name=self.name).info.run_id
        for name, value in numbers(metrics[0]).items():
            self.client.log_metric(self.run, name, value, step=int(metrics[0]["step"]))


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """What is to be drawn of a line of metrics."""
    return {
        name: float(x) for name, x in line.items() if isinstance(x, (int, float)) and name != "step"
    }
