"""What is drawn of a training on a cluster, and where."""

from __future__ import annotations

from pathlib import Path

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
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="pip install mlflow"):
        tracking("/s", "n", "http://127.0.0.1:5000")
