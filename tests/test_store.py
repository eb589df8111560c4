"""Latents on disk and the Milvus index over them, with a real Milvus Lite."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cllm.errors import InputError
from cllm.sphere import ExactIndex, unit
from cllm.store import Latents, VectorStore, load_latents, save_latents

DIM = 8


def latents(count: int = 30, seed: int = 0) -> Latents:
    return Latents(
        ids=tuple(f"t{row}" for row in range(count)),
        splits=tuple("train" if row % 3 else "test" for row in range(count)),
        vectors_ND=unit(np.random.default_rng(seed).standard_normal((count, DIM))),
        texts=tuple(f"text é {row}" for row in range(count)),
        model_hash="abc123",
    )


def save(folder: Path, some: Latents, **more: int) -> None:
    save_latents(
        folder, some.ids, some.splits, some.vectors_ND, some.texts, some.model_hash, **more
    )


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "milvus.db")


def test_latents_come_back_from_several_shards(tmp_path: Path) -> None:
    some = latents()
    save(tmp_path / "latents", some, shard_rows=12)
    assert len(list((tmp_path / "latents").iterdir())) == 3
    back = load_latents(tmp_path / "latents", DIM)
    assert (back.ids, back.splits, back.texts) == (some.ids, some.splits, some.texts)
    assert back.model_hash == "abc123"
    np.testing.assert_allclose(back.vectors_ND, some.vectors_ND, atol=1e-7)
    assert back.vectors_ND.dtype == np.float32
    assert back.select("test").ids == tuple(f"t{row}" for row in range(0, 30, 3))


def test_saving_again_leaves_no_shard_of_the_old_one(tmp_path: Path) -> None:
    save(tmp_path / "latents", latents(30), shard_rows=5)
    save(tmp_path / "latents", latents(7), shard_rows=5)
    assert len(load_latents(tmp_path / "latents")) == 7


def test_no_rows_are_an_empty_table(tmp_path: Path) -> None:
    save(tmp_path / "latents", latents(0))
    assert len(load_latents(tmp_path / "latents", DIM)) == 0


@pytest.mark.parametrize("bad", [np.nan, 3.0, 0.0])
def test_a_bad_vector_is_named_when_saved_and_when_loaded(tmp_path: Path, bad: float) -> None:
    some = latents()
    save(tmp_path / "latents", some)
    broken = some.vectors_ND.copy()
    broken[4] = bad
    with pytest.raises(InputError, match="text t4 is not a unit vector"):
        save_latents(tmp_path / "latents", some.ids, some.splits, broken, some.texts, "abc123")
    assert len(load_latents(tmp_path / "latents")) == 30  # the old result survives
    shard = tmp_path / "latents" / "part-00000.parquet"
    table = pq.read_table(shard, partitioning=None)
    rows = table["vector"].to_pylist()
    rows[4] = broken[4].tolist()
    column = pa.array(rows, table.schema.field("vector").type)
    pq.write_table(table.set_column(2, table.schema.field("vector"), column), shard)
    with pytest.raises(InputError, match="text t4 is not a unit vector"):
        load_latents(tmp_path / "latents")


def test_wrong_width_and_missing_latents_say_what_to_do(tmp_path: Path) -> None:
    save(tmp_path / "latents", latents())
    with pytest.raises(InputError, match=r"holds 8-d.*makes 16-d.*cllm embed --replace"):
        load_latents(tmp_path / "latents", 16)
    with pytest.raises(InputError, match="cllm embed"):
        load_latents(tmp_path / "none" / "latents")


def test_twin_and_overlong_ids_are_refused(tmp_path: Path) -> None:
    some = latents(3)
    with pytest.raises(InputError, match="'a' occurs twice"):
        save_latents(tmp_path / "l", ["a", "b", "a"], some.splits, some.vectors_ND, some.texts, "x")
    with pytest.raises(InputError, match="513 bytes"):
        save_latents(
            tmp_path / "l", ["a", "b" * 513, "c"], some.splits, some.vectors_ND, some.texts, "x"
        )
    with pytest.raises(InputError, match="2 ids"):
        save_latents(tmp_path / "l", ["a", "b"], some.splits, some.vectors_ND, some.texts, "x")


def test_the_store_fills_searches_and_opens_again(uri: str) -> None:
    some = latents(1200)
    queries = unit(np.random.default_rng(1).standard_normal((4, DIM)))
    with VectorStore.open(uri, "texts", "abc123", DIM) as store:
        assert store.upsert(some) == 1200
        assert store.upsert(some) == 1200
        assert store.count() == 1200
    with VectorStore.open(uri, "texts", "abc123", DIM, create=False) as store:
        assert store.count() == 1200
        found = store.search(queries, 5)
        tests = store.search(queries, 3, filter='split == "test"')
    angles, ids = ExactIndex(some.vectors_ND).search(queries, 5)
    for hits, row, turns in zip(found, ids, angles, strict=True):
        assert [name for name, _ in hits] == [some.ids[i] for i in row]
        np.testing.assert_allclose([turn for _, turn in hits], turns, atol=1e-3)
    split_of = dict(zip(some.ids, some.splits, strict=True))
    assert all(split_of[name] == "test" for hits in tests for name, _ in hits)


def test_a_collection_of_another_model_is_refused_or_replaced(uri: str) -> None:
    with VectorStore.open(uri, "texts", "abc123", DIM) as store:
        store.upsert(latents())
    with pytest.raises(InputError, match=r"another model.*abc123.*fff.*cllm embed --replace"):
        VectorStore.open(uri, "texts", "fff", DIM)
    with pytest.raises(InputError, match=r"another model.*cllm\.dim 8"):
        VectorStore.open(uri, "texts", "abc123", DIM + 1)
    with VectorStore.open(uri, "texts", "fff", DIM, replace=True) as store:
        assert store.count() == 0


def test_latents_of_another_width_are_refused(uri: str) -> None:
    with (
        VectorStore.open(uri, "texts", "abc123", DIM + 1) as store,
        pytest.raises(InputError, match="latents are 8-d, collection 'texts' holds 9-d"),
    ):
        store.upsert(latents())


def test_a_missing_collection_is_not_made_unless_asked(uri: str) -> None:
    with pytest.raises(InputError, match=r"no collection 'texts'.*cllm embed"):
        VectorStore.open(uri, "texts", "abc123", DIM, create=False)


OPEN = """
import sys
from cllm.errors import InputError
from cllm.store import VectorStore
try:
    VectorStore.open(sys.argv[1], "texts", "abc123", 8).close()
except InputError as error:
    print(error)
    sys.exit(2)
"""


def test_a_held_path_is_one_line_and_closing_frees_it(uri: str) -> None:
    command = [sys.executable, "-c", OPEN, uri]
    with VectorStore.open(uri, "texts", "abc123", DIM):
        held = subprocess.run(command, capture_output=True, text=True)
    assert held.returncode == 2, held.stderr
    assert len(held.stdout.strip().splitlines()) == 1
    assert "another process may hold it" in held.stdout
    assert "Traceback" not in held.stderr
    freed = subprocess.run(command, capture_output=True, text=True)
    assert freed.returncode == 0, freed.stdout + freed.stderr


def test_a_file_in_the_place_and_a_bad_filter_are_one_line_each(uri: str) -> None:
    with VectorStore.open(uri, "texts", "abc123", DIM) as store:
        store.upsert(latents())
        with pytest.raises(InputError, match="Milvus at"):
            store.search(latents().vectors_ND[:1], 3, filter="split ==== 3")
        with pytest.raises(InputError, match="ask for 1 to"):
            store.search(latents().vectors_ND[:1], 0)
    assert logging.getLogger("pymilvus").level == logging.CRITICAL
    Path(uri + ".old.db").write_text("not a store")
    with pytest.raises(InputError, match="is a file"):
        VectorStore.open(uri + ".old.db", "texts", "abc123", DIM)
