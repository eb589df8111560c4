"""What a sweep came to: the trials as a table, the front of the best ones, the one to take.

save(folder / "trials.parquet", rows); at = best(rows, ["gain_nats", "auroc"])
"""

# Shapes: T trials, O objectives.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cllm.errors import WorkError
from cllm.files import write_parquet
from cllm.metrics import bootstrap
from tune.objectives import COLLAPSED, MEASURES, is_low
from tune.space import SEED

Row = Mapping[str, Any]


def flat(row: Row) -> dict[str, Any]:
    """A trial as one row of a table: its point's values beside what was measured."""
    point = {f"point_{name}": value for name, value in row["point"].items()}
    return point | {name: value for name, value in row.items() if name != "point"}


def save(path: Path, rows: Sequence[Row]) -> None:
    """trials.parquet: one row a trial, failed and pruned ones too."""
    names = sorted({name for row in rows for name in flat(row)})
    columns = {name: [flat(row).get(name) for row in rows] for name in names}
    write_parquet(path, pa.table({name: _column(values) for name, values in columns.items()}))


def _column(values: list[Any]) -> pa.Array:
    words = any(isinstance(value, str) for value in values)
    if not words and any(isinstance(value, float) for value in values):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # words beside numbers
        return pa.array([None if v is None else str(v) for v in values], pa.string())


def finished(rows: Sequence[Row]) -> list[Row]:
    """Those that were trained to the end and measured."""
    return [row for row in rows if row["state"] == "finished"]


def front(rows: Sequence[Row], objectives: Sequence[str]) -> list[int]:
    """Numbers of the finished rows that no other one beats in one objective and equals in the rest.

    Rows that lack an objective are on no front, nor are collapsed ones where uniformity is one.
    """
    whole = [
        i for i, row in enumerate(rows)
        if row["state"] == "finished" and all(row.get(name) is not None for name in objectives)
        and not ("uniformity" in objectives and row.get("variance", 1.0) < COLLAPSED)
    ]  # fmt: skip
    value_TO = _values([rows[i] for i in whole], objectives)
    beaten = [
        bool(((value_TO >= mine).all(1) & (value_TO > mine).any(1)).any()) for mine in value_TO
    ]
    return [i for i, lost in zip(whole, beaten, strict=True) if not lost]


def fronts(rows: Sequence[Row], objectives: Sequence[str]) -> dict[int, list[Row]]:
    """The front among trials of each `void_dim`: prefixes of other lengths lie on other spheres."""
    lengths = sorted({int(row["void_dim"]) for row in rows if "void_dim" in row})
    of = {k: [row for row in rows if row.get("void_dim") == k] for k in lengths}
    return {k: [some[i] for i in front(some, objectives)] for k, some in of.items()}


def best(rows: Sequence[Row], objectives: Sequence[str]) -> int:
    """The number of the row to take: of the front, the one nearest to the best of each objective.

    Objectives are scaled to their range over the front; a single one is simply the best.
    """
    candidates = front(rows, objectives)
    if not candidates:
        fell = sum(row.get("variance", 1.0) < COLLAPSED for row in finished(rows))
        why = f"; in {fell} vectors collapsed, which a smaller weight prevents" if fell else ""
        raise WorkError(
            f"no finished trial reports all of {', '.join(objectives)}{why}; look at trials.parquet"
        )
    value_TO = _values([rows[i] for i in candidates], objectives)
    span_O = np.maximum(np.ptp(value_TO, axis=0), 1e-12)
    far_T = np.linalg.norm((value_TO.max(0) - value_TO) / span_O, axis=1)
    return candidates[int(np.argmin(far_T))]


def saved(rows: Sequence[Row], evaluations: int) -> float | None:
    """The share of the full training of all trials that pruning has saved.

    Failed ones are left out, and those that an earlier sweep had trained.
    """
    spent = [
        row.get("evaluation", 0) for row in rows
        if row["state"] != "failed" and not row.get("cached")
    ]  # fmt: skip
    return 1 - sum(spent) / (evaluations * len(spent)) if spent else None


def start_share(rows: Sequence[Row]) -> float | None:
    """Seconds until the first step over those of whole trials, of all finished ones together."""
    known = [
        row for row in finished(rows)
        if "start_seconds" in row and not row.get("cached") and not row.get("went_on")
    ]  # fmt: skip
    whole = sum(row["train_seconds"] + row["measure_seconds"] for row in known)
    return float(sum(row["start_seconds"] for row in known) / whole) if known else None


def effects(rows: Sequence[Row], name: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """What each value of a setting changes against its first, in trials that are alike otherwise.

    Differences are paired; intervals are over seeds (bootstrap, few ones stretched), as pairs of
    one seed are not independent. With one seed there is none.
    """
    rows = [row for row in finished(rows) if name in row["point"]]
    values = list(dict.fromkeys(row["point"][name] for row in rows))
    if len(values) < 2:
        return []
    values.sort(key=lambda value: (isinstance(value, str), value))
    alike: dict[str, dict[Any, Row]] = {}
    for row in rows:
        others = {k: v for k, v in row["point"].items() if k != name}
        alike.setdefault(repr(sorted(others.items())), {})[row["point"][name]] = row
    told = []
    for value in values[1:]:
        both = [one for one in alike.values() if {values[0], value} <= one.keys()]
        pairs = [(one[values[0]], one[value]) for one in both]
        measures = (*(m.name for m in MEASURES.values() if m.compared), "steps")
        changes = {each: found for each in measures if (found := _change(pairs, each, rng, name))}
        told.append({"value": value, "against": values[0], "pairs": len(pairs)} | changes)
    return [one for one in told if one["pairs"]]


def _change(
    pairs: Sequence[tuple[Row, Row]], measure: str, rng: np.random.Generator, name: str
) -> dict[str, Any] | None:
    known = [
        (a[measure], b[measure], a["point"].get(SEED)) for a, b in pairs
        if a.get(measure) is not None and b.get(measure) is not None
        and (name in ("dim", "void_dim") or measure not in MEASURES
             or not MEASURES[measure].of_prefix or a.get("void_dim") == b.get("void_dim"))
    ]  # fmt: skip
    if not known:
        return None
    before_P, after_P = np.array([pair[:2] for pair in known], float).T
    change_P = after_P - before_P
    told = {"before": float(before_P.mean()), "after": float(after_P.mean()),
            "change": float(change_P.mean()), "largest": float(np.abs(change_P).max()),
            "pairs": len(known)}  # fmt: skip
    rows_of: dict[Any, list[int]] = {}
    for row, (*_, seed) in enumerate(known):
        rows_of.setdefault(seed, []).append(row)
    if len(rows_of) < 2:
        return told
    mean_S = np.array([change_P[rows].mean() for rows in rows_of.values()])
    return told | {"ci": bootstrap(mean_S, rng).ci}


def _values(rows: Sequence[Row], objectives: Sequence[str]) -> NDArray[np.float64]:
    """(T, O), higher is better."""
    signs = [-1.0 if is_low(name) else 1.0 for name in objectives]
    both = list(zip(objectives, signs, strict=True))
    values = [[sign * row[name] for name, sign in both] for row in rows]
    return np.array(values, float).reshape(len(rows), len(objectives))
