"""voids.parquet: what a search found, with the ids of the texts around each void.

save_voids(path, search.voids, ids, model.hash)
voids = load_voids(path, ids, model.hash)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cllm.errors import InputError
from cllm.files import model_of, read_parquet, write_parquet
from cllm.voids import Void

if TYPE_CHECKING:
    import pyarrow as pa

    from cllm.run import RunFolder
    from cllm.store import Latents

COLUMNS = ("id", "prefix", "radius", "score", "p_value", "enclosed", "neighbours")


def save_voids(path: Path, voids: Sequence[Void], ids: Sequence[str], model_hash: str = "") -> None:
    """Write `voids.parquet`; `ids` are the text ids of the cloud's rows."""
    import pyarrow as pa

    width = len(voids[0].centre_K) if voids else 0
    columns = {
        "id": pa.array([void.id for void in voids], pa.int64()),
        "prefix": _vectors([void.centre_K for void in voids], width),
        "radius": pa.array([void.radius for void in voids], pa.float64()),
        "score": pa.array([void.score for void in voids], pa.float64()),
        "p_value": pa.array([void.p_value for void in voids], pa.float64()),
        "enclosed": pa.array([void.enclosed for void in voids], pa.bool_()),
        "written": pa.array([void.written for void in voids], pa.bool_()),
        "neighbours": pa.array(
            [[ids[row] for row in void.rim] for void in voids], pa.list_(pa.string())
        ),
    }
    write_parquet(path, pa.table(columns).replace_schema_metadata({"model_hash": model_hash}))


def load_voids(path: Path, ids: Sequence[str], model_hash: str = "") -> tuple[Void, ...]:
    """Read `voids.parquet`, by score, descending; arguments as for `save_voids`.

    InputError: damaged, of another cloud, or of another model than `model_hash`.
    """
    table = read_parquet(path)
    if lacking := [name for name in COLUMNS if name not in table.column_names]:
        raise InputError(
            f"{path} has no column {', '.join(lacking)}; search again with `cllm voids`"
        )
    made_by = model_of(table)
    if made_by != model_hash:
        raise InputError(
            f"{path} was made with model {made_by or 'unknown'}, not {model_hash}; "
            "search again with `cllm voids`"
        )
    rows = table.to_pylist()
    row_of = {name: row for row, name in enumerate(ids)}
    missing = {name for row in rows for name in row["neighbours"]} - row_of.keys()
    if missing:
        raise InputError(
            f"{path} names text {min(missing)!r}, which is not among the latents; "
            "search again with `cllm voids`"
        )
    found = (
        Void(
            id=row["id"],
            centre_K=np.asarray(row["prefix"], dtype=np.float32),
            radius=row["radius"],
            score=row["score"],
            p_value=row["p_value"],
            enclosed=row["enclosed"],
            written=bool(row.get("written")),  # which earlier files lack
            rim=tuple(row_of[name] for name in row["neighbours"]),
        )
        for row in rows
    )
    return tuple(sorted(found, key=lambda void: -void.score))


def standing_voids(run: RunFolder, model_hash: str, train: Latents) -> list[Void]:
    """The run's voids, emptiest first: enclosed and more than chance; none before a search."""
    if not run.voids.exists():
        return []
    return [v for v in load_voids(run.voids, train.ids, model_hash) if v.stands]


def _vectors(rows: Sequence[NDArray[np.float32]], width: int) -> pa.Array:
    import pyarrow as pa

    flat = np.concatenate(rows).astype(np.float32) if rows else np.empty(0, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), max(width, 1))
