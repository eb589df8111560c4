"""A sweep's trials as a live table on a terminal, as plain lines elsewhere; on stderr."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from ray.tune import Callback

log = logging.getLogger(__name__)

SHOWN = 30  # trials in the table
STYLES = {"finished": "green", "pruned": "yellow", "failed": "red", "runs": "cyan"}


class Table(Callback):
    """Follows the trials of one sweep; Tune keeps it with the sweep, so it holds plain facts."""

    def __init__(
        self, names: tuple[str, ...], objectives: tuple[str, ...], trials: int, evaluations: int
    ) -> None:
        self.names, self.objectives = names, objectives
        self.trials, self.evaluations = trials, evaluations
        self.rows: dict[str, dict[str, Any]] = {}
        self.began = time.time()
        self.live: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"live": None}

    def setup(self, **_: Any) -> None:  # noqa: ANN401
        """Begin, or begin again, to show it."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=2)
            self.live.start()

    def on_trial_start(self, **info: Any) -> None:  # noqa: ANN401 - as Tune hands them over
        """It runs."""
        self._tell(info["trial"], "runs", {}, quiet=True)

    def on_trial_result(self, **info: Any) -> None:  # noqa: ANN401
        """A held-out score, or at the end all that was measured."""
        self._tell(info["trial"], "runs", info["result"], quiet=True)

    def on_trial_complete(self, **info: Any) -> None:  # noqa: ANN401
        """To its end, or pruned."""
        result = info["trial"].last_result or {}
        self._tell(info["trial"], "finished" if "folder" in result else "pruned", result)

    def on_trial_error(self, **info: Any) -> None:  # noqa: ANN401
        """It failed, as often as it may."""
        self._tell(info["trial"], "failed", info["trial"].last_result or {})

    def on_experiment_end(self, **_: Any) -> None:  # noqa: ANN401
        """Leave the last picture on the terminal."""
        if self.live:
            self.live.stop()
            self.live = None

    def _tell(self, trial: Any, state: str, result: dict[str, Any], quiet: bool = False) -> None:  # noqa: ANN401
        row = self.rows.setdefault(trial.trial_id, {})
        point = trial.config.get("point", trial.config)
        row |= {"state": state, **{name: point.get(name) for name in self.names}}
        wanted = ("evaluation", "gain_nats", *self.objectives)
        row |= {name: result[name] for name in wanted if name in result}
        if self.live:
            self.live.update(self._table())
        elif not quiet:
            ended = sum(one["state"] != "runs" for one in self.rows.values())
            log.info("trial %d of %d %s: %s", ended, self.trials, state, _told(row))

    def _table(self) -> Any:  # noqa: ANN401 - of rich
        from rich.table import Table as RichTable

        columns = (*self.names, "evaluation", *dict.fromkeys(("gain_nats", *self.objectives)))
        counts = {s: sum(r["state"] == s for r in self.rows.values()) for s in STYLES}
        ended = sum(n for state, n in counts.items() if state != "runs")
        title = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        minutes = (time.time() - self.began) / 60
        table = RichTable(title=f"{ended} of {self.trials} trials, {minutes:.0f} min: {title}")
        table.add_column("state")
        for name in columns:
            table.add_column(name, justify="right")
        rows = sorted(self.rows.values(), key=lambda r: (r["state"] != "runs", -_gain(r)))
        for row in rows[:SHOWN]:
            cells = (_short(row.get(name)) for name in columns)
            table.add_row(row["state"], *cells, style=STYLES[row["state"]])
        return table


def _gain(row: dict[str, Any]) -> float:
    return float(row.get("gain_nats", float("-inf")))


def _told(row: dict[str, Any]) -> str:
    known = {name: value for name, value in row.items() if name != "state" and value is not None}
    return ", ".join(f"{name} {_short(value)}" for name, value in known.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)
