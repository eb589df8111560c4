"""Parquet files of a folder in which each row is once, whatever happened to their writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray")
from ray.data.datasource.datasink import WriteResult

from cluster.parts import Parts, is_among, keys_of


def block(first: int, count: int) -> pa.Table:
    return pa.table({"id": [f"t{i}" for i in range(first, first + count)], "vector": [0.0] * count})


def completed(parts: Parts, *names: list[str]) -> None:
    parts.on_write_complete(WriteResult(num_rows=0, size_bytes=0, write_returns=list(names)))


@pytest.fixture(params=["path", "url"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    return f"file://{tmp_path}/v" if request.param == "url" else str(tmp_path / "v")


def test_a_task_that_runs_again_writes_the_same_file(folder: str, tmp_path: Path) -> None:
    parts = Parts.found(folder)
    assert parts.write([block(0, 5)], None) == parts.write([block(0, 5)], None)
    assert len(list((tmp_path / "v").glob("*.parquet"))) == 1


def test_empty_blocks_leave_no_file(folder: str) -> None:
    assert Parts.found(folder).write([block(0, 0)], None) == []


def test_what_is_there_is_found_and_counted_with_what_comes(folder: str) -> None:
    first = Parts.found(folder)
    first.write([block(0, 5)], None)
    again = Parts.found(folder)
    assert is_among(keys_of(block(0, 7)["id"]), again.keys_N).tolist() == [True] * 5 + [False] * 2
    completed(again, again.write([block(5, 2)], None))
    assert again.rows() == 7


def test_files_of_a_killed_writer_do_not_count(folder: str, tmp_path: Path) -> None:
    """Cut off half-way, or written after others had begun to do the same rows."""
    Parts.found(folder).write([block(0, 5), block(5, 5)], None)
    (broken,) = Parts.found(folder).write([block(10, 5)], None)
    file = tmp_path / "v" / broken
    file.write_bytes(file.read_bytes()[:-8])
    parts = Parts.found(folder)
    assert len(parts.keys_N) == 10
    late = Parts.found(folder).write([block(8, 4)], None)  # as it ends, parts have begun
    completed(parts, parts.write([block(10, 5)], None))
    assert parts.rows() == 15
    assert not (tmp_path / "v" / late[0]).exists()
    found = pq.read_table(tmp_path / "v")["id"].to_pylist()
    assert sorted(found) == sorted(f"t{i}" for i in range(15))


def test_a_file_that_repeats_a_row_is_written_again(folder: str, tmp_path: Path) -> None:
    Parts.found(folder).write([block(0, 5), block(4, 3), block(7, 2)], None)
    parts = Parts.found(folder)
    assert len(parts.names) == 2
    assert len(np.unique(parts.keys_N)) == len(parts.keys_N) == parts.rows()


def test_a_row_twice_within_one_file_is_the_inputs_own(folder: str) -> None:
    twice = pa.concat_tables([block(0, 2), block(0, 2)])
    Parts.found(folder).write([twice], None)
    assert Parts.found(folder).rows() == 4
