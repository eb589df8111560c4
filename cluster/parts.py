"""Rows with ids in Parquet files of a folder, each row once, however often the writer is killed.

A file is named after the ids in it, so that a task that runs again writes the same file. What
counts are the files that were whole when a writer began, and those of its tasks that ended;
what a killed writer's last tasks leave behind later is deleted at the end.
    parts = Parts.found(folder)
    parts.missing(dataset).write_datasink(parts)
"""

# Shapes: N rows that are there already, M of a block.
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pandas.util import hash_array
from pyarrow import fs
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource.datasink import WriteResult

from cllm.files import digest
from cluster.remote import listed, reached

Keys = npt.NDArray[np.uint64]
BESIDE = {"num_cpus": 0.25}  # what reads and writes counts as, to find room beside models


class Parts(Datasink[list[str]]):
    """The files of a folder that count, and a sink for those that are missing."""

    def __init__(self, folder: str, names: Sequence[str], keys_N: Keys) -> None:
        self.folder, self.names, self.keys_N = folder, list(names), keys_N

    def __getstate__(self) -> dict[str, Any]:
        """What goes to writers: where to write, not the 8 bytes a row that only a driver needs."""
        return {"folder": self.folder}

    @classmethod
    def found(cls, folder: str) -> Parts:
        """Files that are whole and repeat no id; others are deleted, to be written again."""
        system, path = reached(folder)
        keys: dict[str, Keys] = {}
        for file in listed(system, path):
            try:
                keys[file.base_name] = keys_of(
                    pq.read_table(file.path, columns=["id"], filesystem=system)["id"]
                )
            except pa.ArrowInvalid:  # its writer was killed
                system.delete_file(file.path)
        for name in _repeating(keys):
            system.delete_file(f"{path}/{name}")
            del keys[name]
        none = [np.empty(0, np.uint64)]
        return cls(folder, list(keys), np.sort(np.concatenate([*keys.values(), *none])))

    def missing(self, dataset: Any) -> Any:  # noqa: ANN401 - Ray datasets
        """The rows of a dataset that no file holds yet."""
        if not len(self.keys_N):
            return dataset
        kept = ray.put(self.keys_N)  # in shared memory, once a node

        def let_through(table: pa.Table) -> pa.Table:
            return table.filter(pa.array(~is_among(keys_of(table["id"]), ray.get(kept))))

        return dataset.map_batches(let_through, batch_format="pyarrow", **BESIDE)

    def write(self, blocks: Iterable[Block], ctx: Any) -> list[str]:  # noqa: ANN401 - Ray's
        """One file for each block; their names."""
        del ctx
        system, path = reached(self.folder)
        system.create_dir(path, recursive=True)
        names = []
        for block in blocks:
            table = BlockAccessor.for_block(block).to_arrow()
            if not len(table):
                continue
            name = f"part-{digest(*table['id'].to_pylist())}.parquet"
            if isinstance(system, fs.LocalFileSystem):  # an object store shows whole files only
                pq.write_table(table, f"{path}/.{name}", filesystem=system)
                system.move(f"{path}/.{name}", f"{path}/{name}")
            else:
                pq.write_table(table, f"{path}/{name}", filesystem=system)
            names.append(name)
        return names

    def on_write_complete(self, write_result: WriteResult[list[str]]) -> None:
        """Count in what was written, and delete everything else."""
        self.names += [name for names in write_result.write_returns for name in names]
        system, path = reached(self.folder)
        names = set(self.names)
        for file in system.get_file_info(fs.FileSelector(path)):
            if file.base_name not in names:
                system.delete_file(file.path)

    def rows(self) -> int:
        """Rows of the files that count and are there, from their footers."""
        system, path = reached(self.folder)
        names = set(self.names)
        return sum(
            pq.read_metadata(file.path, filesystem=system).num_rows
            for file in listed(system, path)
            if file.base_name in names
        )


def _repeating(keys: dict[str, Keys]) -> list[str]:
    """Files with a row that another file, before it, has too."""
    rows = pd.DataFrame({
        "key": np.concatenate([*keys.values(), np.empty(0, np.uint64)]),
        "file": np.repeat(np.arange(len(keys)), [len(one) for one in keys.values()]),
    })  # fmt: skip
    elsewhere_N = rows["file"] > rows.groupby("key")["file"].transform("min")
    return [list(keys)[row] for row in rows["file"][elsewhere_N].unique()]


def keys_of(ids: Any) -> Keys:  # noqa: ANN401 - an arrow array of strings
    """64 bits for each id: 8 bytes a row, where 10^9 ids themselves would need 20 or more."""
    return hash_array(ids.to_numpy(zero_copy_only=False) if len(ids) else np.empty(0, object))


def is_among(keys_M: Keys, sorted_N: Keys) -> npt.NDArray[np.bool_]:
    """Whether each key is among sorted ones."""
    if not len(sorted_N):
        return np.zeros(len(keys_M), bool)
    places = np.minimum(np.searchsorted(sorted_N, keys_M), len(sorted_N) - 1)
    return sorted_N[places] == keys_M
