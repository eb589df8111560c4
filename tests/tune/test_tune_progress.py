from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tune.progress import Table


@dataclass
class Trial:
    """As much of Tune's as the table looks at."""

    status: str
    config: dict[str, Any]
    last_result: dict[str, Any] = field(default_factory=dict)


TRIALS = [
    Trial("TERMINATED", {"dim": 8}, {"evaluation": 4, "gain_nats": 3.21, "folder": "x"}),
    Trial("TERMINATED", {"dim": 16}, {"evaluation": 1, "gain_nats": 1.5}),
    Trial("RUNNING", {"point": {"dim": 32}}, {"evaluation": 2, "gain_nats": 7.0}),
    Trial("ERROR", {"dim": 4}), Trial("PENDING", {"dim": 2}),
]  # fmt: skip


def test_the_table_tells_how_each_trial_stands() -> None:
    table = Table(("dim",), ("gain_nats",), 6)
    console = Console(width=120, record=True, file=StringIO())
    console.print(table._table([table._row(trial) for trial in TRIALS]))
    drawn = console.export_text()
    told = " ".join(drawn.split())
    assert "1 runs, 1 finished, 1 pruned, 1 failed, 1 waits" in told
    states = [line.split()[1] for line in drawn.splitlines() if "│" in line]
    assert states == ["runs", "finished", "pruned", "failed", "waits"]


def test_without_a_terminal_each_end_is_a_line_that_counts_earlier_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = pickle.loads(pickle.dumps(Table(("dim",), ("gain_nats",), 6)))
    caplog.set_level(logging.INFO)
    ending = Trial("RUNNING", {"dim": 64}, {"evaluation": 4, "gain_nats": 9.0, "folder": "y"})
    table.on_trial_complete(trials=[*TRIALS, ending], trial=ending)
    assert "trial 4 of 6 finished: dim 64, evaluation 4, gain_nats 9" in caplog.text
    table.on_trial_error(trials=TRIALS, trial=TRIALS[3])
    assert "trial 3 of 6 failed: dim 4" in caplog.text


def test_without_a_terminal_a_trial_tells_that_it_begins_and_how_it_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Table(("dim",), ("gain_nats",), 6)
    caplog.set_level(logging.INFO)
    table.on_trial_start(trials=TRIALS, trial=TRIALS[4])
    assert "trial of dim 2 begins" in caplog.text
    table.on_trial_result(trials=TRIALS, trial=TRIALS[2], result=TRIALS[2].last_result)
    assert "trial of dim 32: evaluation 2, gain_nats 7" in caplog.text
    table.on_trial_result(trials=TRIALS, trial=TRIALS[0], result=TRIALS[0].last_result)
    assert "dim 8" not in caplog.text, "what was measured is told once, when it has ended"
