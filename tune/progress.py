"""A sweep's trials as a live table on a terminal, as plain lines elsewhere; on stderr."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from ray.tune import Callback

from tune.objectives import short

log = logging.getLogger(__name__)

SHOWN = 30  # trials in the table
STYLES = {"runs": "cyan", "finished": "green", "pruned": "yellow", "failed": "red", "waits": "dim"}


class Table(Callback):
    """Shows the trials of one sweep; Tune keeps it with the sweep, so it holds plain facts."""

    def __init__(self, names: tuple[str, ...], objectives: tuple[str, ...], trials: int) -> None:
        self.names, self.trials = names, trials
        self.measures = ("evaluation", *dict.fromkeys(("gain_nats", *objectives)))
        self.began = time.time()
        self.live: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"live": None}

    def setup(self, **_: Any) -> None:  # noqa: ANN401 - as Tune hands them over
        """Begin, or begin again, to show it."""
        self.began = time.time()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=2)
            self.live.start()
            atexit.register(self.live.stop)  # Ctrl-C is no end that Tune tells of

    def on_trial_start(self, **info: Any) -> None:  # noqa: ANN401
        """It runs."""
        self._draw(info["trials"])
        if not self.live:
            log.info("%s begins", self._named(info["trial"]))

    def on_trial_result(self, **info: Any) -> None:  # noqa: ANN401
        """A held-out score, or at the end all that was measured."""
        self._draw(info["trials"])
        result = info["result"]
        if not self.live and "folder" not in result:
            log.info("%s: evaluation %s, gain_nats %s", self._named(info["trial"]),
                     result.get("evaluation"), short(result.get("gain_nats")))  # fmt: skip

    def on_trial_complete(self, **info: Any) -> None:  # noqa: ANN401
        """To its end, or pruned."""
        self._ended(info["trials"], info["trial"])

    def on_trial_error(self, **info: Any) -> None:  # noqa: ANN401
        """It failed, as often as it may."""
        self._ended(info["trials"], info["trial"])

    def on_experiment_end(self, **_: Any) -> None:  # noqa: ANN401
        """Leave the last picture on the terminal."""
        if self.live:
            self.live.stop()
            self.live = None

    def _ended(self, trials: Sequence[Any], trial: Any) -> None:  # noqa: ANN401
        self._draw(trials)
        if self.live:
            return
        rows = [self._row(one) for one in trials if one is not trial]
        ended = 1 + sum(row["state"] not in ("runs", "waits") for row in rows)
        row = self._row(trial, ended=True)
        known = {k: v for k, v in row.items() if k != "state" and v is not None}
        told = ", ".join(f"{name} {short(value)}" for name, value in known.items())
        log.info("trial %d of %d %s: %s", ended, self.trials, row["state"], told)

    def _named(self, trial: Any) -> str:  # noqa: ANN401
        point = trial.config.get("point", trial.config)
        told = (f"{name} {short(point[name])}" for name in self.names if name in point)
        return f"trial of {', '.join(told)}"

    def _row(self, trial: Any, ended: bool = False) -> dict[str, Any]:  # noqa: ANN401
        result, point = trial.last_result or {}, trial.config.get("point", trial.config)
        state = {"ERROR": "failed", "RUNNING": "runs", "TERMINATED": ""}.get(trial.status, "waits")
        if not state or (ended and state != "failed"):
            state = "finished" if "folder" in result else "pruned"
        row = {"state": state} | {name: point.get(name) for name in self.names}
        return row | {name: result.get(name) for name in self.measures}

    def _draw(self, trials: Sequence[Any]) -> None:
        if self.live:
            self.live.update(self._table([self._row(trial) for trial in trials]))

    def _table(self, rows: Sequence[dict[str, Any]]) -> Any:  # noqa: ANN401 - of rich
        from rich.table import Table as RichTable

        counts = {state: sum(row["state"] == state for row in rows) for state in STYLES}
        told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        minutes = (time.time() - self.began) / 60
        table = RichTable(title=f"{self.trials} trials, {minutes:.0f} min: {told}")
        table.add_column("state")
        for name in (*self.names, *self.measures):
            table.add_column(name, justify="right")
        order = list(STYLES)
        ordered = sorted(rows, key=lambda r: (order.index(r["state"]), -(r["gain_nats"] or -1e9)))
        for row in ordered[:SHOWN]:
            cells = (short(row[name]) for name in (*self.names, *self.measures))
            table.add_row(row["state"], *cells, style=STYLES[row["state"]])
        return table
