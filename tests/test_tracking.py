"""What is drawn of a training on a cluster, and where."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
from cllm.errors import InputError
from cluster import tracking as module
from cluster.tracking import Board, numbers, tracking


def drawn(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in board.Scalars(name)]


@pytest.mark.parametrize("url", [False, True])
def test_the_first_workers_numbers_are_drawn(
    tmp_path: Path, url: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COPY_SECONDS", 0.0)
    board = Board(f"file://{tmp_path}/board" if url else str(tmp_path / "board"))
    for step in (1, 2):
        lines = [{"step": step, "loss": 1.0 / step}, {"step": step, "loss": 99.0}]
        board.after_report(None, lines, None)
    assert drawn(tmp_path / "board", "loss") == [(1, 1.0), (2, 0.5)]


def test_only_numbers_are_drawn() -> None:
    assert numbers({"step": 3, "loss": 1, "word": "x", "none": None}) == {"loss": 1.0}


def test_mlflow_is_asked_for_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(tracking("/s", "n", "")) == 1
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="pip install mlflow"):
        tracking("/s", "n", "http://127.0.0.1:5000")


class FakeMlflow:
    """What is used of MLflow's client."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.logged: list[tuple[str, str, float, int]] = []

    def get_experiment_by_name(self, _: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return f"{name}-id"

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment}/{run_name}"))

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.logged.append((run, name, value, step))


def test_mlflow_gets_the_first_workers_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=FakeMlflow))
    _, tracker = tracking("/s", "mine", "http://127.0.0.1:5000")
    for step in (1, 2):
        tracker.after_report(None, [{"step": step, "loss": 1.0 / step}, {"loss": 9.0}], None)
    assert tracker.client.uri == "http://127.0.0.1:5000"
    assert tracker.client.logged == [
        ("cllm-id/mine", "loss", 1.0, 1), ("cllm-id/mine", "loss", 0.5, 2),
    ]  # fmt: skip
