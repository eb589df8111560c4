"""The Milvus sink, block by block, as Ray Data calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cllm.errors import InputError, WorkError
from cllm.sphere import unit
from cllm.store import NoAnswer, VectorStore

pytest.importorskip("ray")
from cluster import sink as module
from cluster.sink import MilvusSink

DIM = 4


def block(first: int, count: int) -> pa.Table:
    vectors = unit(np.random.default_rng(first).normal(size=(count, DIM)))
    return pa.table({
        "id": [f"t{i}" for i in range(first, first + count)],
        "split": ["train"] * count,
        "text": ["not for Milvus"] * count,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM),
    })  # fmt: skip


def new_sink(folder: Path, rows: int, collection: str = "texts_a_v1") -> MilvusSink:
    return MilvusSink(str(folder / "milvus.db"), collection, "texts_a", "model", DIM, rows)


def seen(folder: Path) -> int:
    """Rows that a reader of the alias finds."""
    with VectorStore.open(str(folder / "milvus.db"), "texts_a", "model", DIM, create=False) as s:
        return s.count()


def test_blocks_written_twice_count_once(tmp_path: Path) -> None:
    sink = new_sink(tmp_path, 30)
    sink.on_write_start()
    assert sink.write([block(0, 20)], None) == 20
    assert sink.write([block(0, 20), block(20, 10)], None) == 30  # a task that ran again
    sink.publish()
    assert seen(tmp_path) == 30


def test_rows_that_a_server_lost_are_sent_once_more(tmp_path: Path) -> None:
    sink, sent = new_sink(tmp_path, 30), list[int]()
    sink.on_write_start()

    def send(*counts: int) -> None:  # of which a server keeps so many
        sink.write([block(0, counts[len(sent)])], None)
        sent.append(counts[len(sent)])

    with pytest.raises(WorkError, match="25 rows of 30"):
        sink.fill(lambda: send(20, 25))
    assert sent == [20, 25]
    sent.clear()
    sink.fill(lambda: send(20, 30))
    assert sent == [20, 30]
    assert seen(tmp_path) == 30
    sent.clear()
    sink.fill(lambda: send(30))
    assert sent == [30], "nothing was missing any more"


def test_readers_see_nothing_before_all_is_there(tmp_path: Path) -> None:
    sink = new_sink(tmp_path, 30)
    sink.on_write_start()
    sink.write([block(0, 20)], None)
    with pytest.raises(WorkError, match=r"20 rows of 30; run the same command again"):
        sink.publish()
    with pytest.raises(InputError, match="has no collection"):
        seen(tmp_path)


def test_a_new_version_replaces_the_old_one_for_readers(tmp_path: Path) -> None:
    for version, rows in (("texts_a_v1", 10), ("texts_a_v2", 25)):
        sink = new_sink(tmp_path, rows, version)
        sink.on_write_start()
        sink.write([block(0, rows)], None)
        sink.publish()
        assert seen(tmp_path) == rows


def test_a_server_that_went_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, failures = new_sink(tmp_path, 20), [0]
    sink.on_write_start()
    plain = VectorStore.upsert_rows

    def failing(self: VectorStore, rows: list[dict[str, Any]]) -> None:
        failures[0] += 1
        if failures[0] <= 2:
            raise NoAnswer("Milvus: no answer")
        plain(self, rows)

    monkeypatch.setattr(VectorStore, "upsert_rows", failing)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    assert sink.write([block(0, 20)], None) == 20
    sink.publish()
    assert seen(tmp_path) == 20


def test_a_server_that_stays_away_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = new_sink(tmp_path, 20)
    sink.on_write_start()

    def failing(*_: object) -> None:
        raise NoAnswer("Milvus: no answer")

    monkeypatch.setattr(VectorStore, "upsert_rows", failing)
    monkeypatch.setattr(module, "RETRIED_SECONDS", 0.05)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.02)
    with pytest.raises(InputError, match="no answer"):
        sink.write([block(0, 20)], None)


def test_the_sink_travels_without_a_client(tmp_path: Path) -> None:
    import pickle

    sink = pickle.loads(pickle.dumps(new_sink(tmp_path, 1)))
    assert sink.collection == "texts_a_v1"
