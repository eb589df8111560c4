"""Keep text vectors: Parquet shards are the truth, a Milvus collection is their index.

The index can be made again from the shards at any time, and refuses another model's vectors.

    save_latents(run / "latents", ids, splits, vectors_ND, texts, model_hash)
    with VectorStore.open("./milvus.db", "recipes", model_hash, dim) as store:
        store.upsert(load_latents(run / "latents"))
"""

# Shapes: N texts, Q queries, D coordinates.
from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cllm.errors import InputError, WorkError
from cllm.files import model_of, read_json, read_parquet, replacing
from cllm.reading import MAX_ID_BYTES
from cllm.sphere import require_unit

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_UPSERT_ROWS = 1000
MAX_SPLIT_BYTES = 16
_MAX_HITS = 16384  # a Milvus server's limit; Lite takes more
_NORMALISATION = "unit"
SECONDS = 10.0  # for an answer of Milvus to a question


@dataclass(frozen=True)
class Latents:
    """The vectors of a corpus, one row a text, and the model that made them."""

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    vectors_ND: npt.NDArray[np.float32]  # unit rows
    texts: tuple[str, ...]
    model_hash: str

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, split: str) -> Latents:
        """The rows of one split, in their order."""
        rows = [row for row, found in enumerate(self.splits) if found == split]
        return Latents(
            ids=tuple(self.ids[row] for row in rows),
            splits=(split,) * len(rows),
            vectors_ND=self.vectors_ND[rows],
            texts=tuple(self.texts[row] for row in rows),
            model_hash=self.model_hash,
        )


def save_latents(
    folder: Path,
    ids: Sequence[str],
    splits: Sequence[str],
    vectors_ND: npt.NDArray[Any],
    texts: Sequence[str],
    model_hash: str,
    shard_rows: int = 100_000,
) -> None:
    """Write Parquet shards `id, split, vector, text` as a new folder and swap it in.

    InputError names the first text whose vector is NaN or not of norm 1.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _require_same_length(ids, splits, vectors_ND, texts)
    _require_good_ids(ids)
    vectors_ND = require_unit(vectors_ND, "text", ids)
    flat = pa.array(vectors_ND.reshape(-1), pa.float32())
    columns = {
        "id": pa.array(ids, pa.string()),
        "split": pa.array(splits, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1]),
        "text": pa.array(texts, pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({"model_hash": model_hash})
    with replacing(folder) as new:
        new.mkdir()
        for number, start in enumerate(range(0, max(len(ids), 1), shard_rows)):
            shard = table.slice(start, shard_rows)
            pq.write_table(shard, new / f"part-{number:05d}.parquet", compression="zstd")


def load_latents(folder: Path, dim: int | None = None) -> Latents:
    """Read the shards back. InputError: missing, damaged, vectors not unit or not `dim` wide."""
    import pyarrow as pa

    table = read_parquet(current(folder), ["id", "split", "vector", "text"])
    kind = table.schema.field("vector").type
    if not pa.types.is_fixed_size_list(kind):
        raise InputError(f"{folder} holds no fixed-size vectors; make it with `cllm embed`")
    if dim is not None and kind.list_size != dim:
        raise InputError(
            f"{folder} holds {kind.list_size}-d vectors, the model makes {dim}-d; embed again "
            "with `cllm embed --replace`, or load the matching model"
        )
    ids = tuple(table["id"].to_pylist())
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(flat) != len(ids) * kind.list_size:
        raise InputError(f"{folder} lacks some vectors; make it with `cllm embed --replace`")
    return Latents(
        ids=ids,
        splits=tuple(table["split"].to_pylist()),
        vectors_ND=require_unit(flat.reshape(len(ids), kind.list_size), "text", ids),
        texts=tuple(table["text"].to_pylist()),
        model_hash=model_of(table) or _model_named(folder),
    )


def _model_named(folder: Path) -> str:
    """The model that a manifest names; Ray writes none into its files."""
    manifest = folder / "manifest.json"
    return str(read_json(manifest).get("model_hash", "")) if manifest.exists() else ""


def current(folder: Path) -> Path:
    """The shards that count: those that `manifest.json` names, where a cluster wrote them."""
    manifest = folder / "manifest.json"
    return folder / read_json(manifest)["version"] if manifest.exists() else folder


class VectorStore:
    """A Milvus collection of unit vectors, made by one model; close it to free the file."""

    def __init__(self, client: MilvusClient, uri: str, collection: str, dim: int) -> None:
        self._client, self._uri = client, uri
        self.collection, self.dim = collection, dim

    @classmethod
    def open(
        cls,
        uri: str,
        collection: str,
        model_hash: str,
        dim: int,
        create: bool = True,
        replace: bool = False,
    ) -> VectorStore:
        """Open or make the collection; `uri` is a Milvus Lite path (`….db`) or `http://…`.

        InputError: locked by another process, no such server, no such collection with
        `create` off, or made by another model (`replace` drops that one instead).
        """
        store = cls(_connect(uri), uri, collection, dim)
        try:
            with _milvus_errors(uri):
                store._prepare(model_hash, create, replace)
        except BaseException:
            store.close()
            raise
        return store

    def upsert(self, latents: Latents) -> int:
        """Write all rows, in batches; the same rows again change nothing. Returns the rows sent."""
        if latents.vectors_ND.shape[1] != self.dim:
            raise InputError(
                f"the latents are {latents.vectors_ND.shape[1]}-d, collection "
                f"{self.collection!r} holds {self.dim}-d; embed again with `cllm embed --replace`"
            )
        _require_good_ids(latents.ids)
        rows = [
            {"id": name, "split": split, "vector": vector}
            for name, split, vector in zip(
                latents.ids, latents.splits, latents.vectors_ND, strict=True
            )
        ]
        for start in range(0, len(rows), _UPSERT_ROWS):
            self.upsert_rows(rows[start : start + _UPSERT_ROWS])
        return len(rows)

    def upsert_rows(self, rows: list[dict[str, Any]]) -> None:
        """Write some rows of `id, split, vector` in one request."""
        with _milvus_errors(self._uri):
            self._client.upsert(self.collection, rows)

    def flush(self) -> None:
        """Have all rows on the disk."""
        with _milvus_errors(self._uri):
            self._client.flush(self.collection)

    def publish(self, alias: str) -> None:
        """Let an alias, which readers open like a collection, name this one from now on."""
        with _milvus_errors(self._uri):
            if alias in self._client.list_aliases()["aliases"]:
                self._client.alter_alias(self.collection, alias)
            else:
                self._client.create_alias(self.collection, alias)

    def shown_by(self, alias: str) -> bool:
        """Whether an alias names this collection."""
        with _milvus_errors(self._uri):
            if alias not in self._client.list_aliases()["aliases"]:
                return False
            named: str = self._client.describe_alias(alias)["collection_name"]
        return named == self.collection

    def search(
        self, vectors_QD: npt.NDArray[Any], k: int, filter: str = ""
    ) -> list[list[tuple[str, float]]]:
        """For each unit vector the k nearest (id, angle in radians), nearest first.

        `filter` is a Milvus expression over `id` and `split`. The angle is worked out from a
        float32 cosine: good to about 5e-4 near 0; take `sphere.ExactIndex` for geometry.
        """
        if not 1 <= k <= _MAX_HITS:
            raise InputError(f"{k} neighbours were asked for; ask for 1 to {_MAX_HITS}")
        vectors_QD = require_unit(vectors_QD, "query row")
        found = self._asked(self._client.search, data=vectors_QD.tolist(), limit=k, filter=filter)
        return [[(hit["id"], _angle(hit["distance"])) for hit in hits] for hits in found]

    def count(self) -> int:
        """Rows in the collection."""
        rows = self._asked(self._client.query, output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def _asked(self, ask: Callable[..., Any], **given: Any) -> Any:  # noqa: ANN401 - as asked
        """An answer; a server that was started again may first have to load the collection."""
        from pymilvus.exceptions import MilvusException

        with _milvus_errors(self._uri):
            try:
                return ask(self.collection, timeout=SECONDS, **given)
            except MilvusException as error:
                if "load" not in str(error).lower():
                    raise
                self._client.load_collection(self.collection, timeout=SECONDS)
                return ask(self.collection, timeout=SECONDS, **given)

    def close(self) -> None:
        """Disconnect; a Milvus Lite path is free for other processes afterwards."""
        self._client.close()
        if is_lite(self._uri):
            from milvus_lite.server_manager import server_manager_instance

            # close() alone keeps the lock until the process ends (milvus-lite 3.2).
            server_manager_instance.release_server(self._uri)

    def __enter__(self) -> VectorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, model_hash: str, create: bool, replace: bool) -> None:
        wanted = {
            "cllm.model": model_hash,
            "cllm.dim": str(self.dim),
            "cllm.normalisation": _NORMALISATION,
        }
        there = self._client.has_collection(self.collection, timeout=SECONDS)
        if there and replace:
            self._client.drop_collection(self.collection)
        if there and not replace:
            self._require_same_model(wanted)
            self._client.load_collection(self.collection, timeout=SECONDS)
        elif create or replace:
            self._create(wanted)
        else:
            raise InputError(
                f"{self._uri} has no collection {self.collection!r}; fill it with `cllm embed`"
            )

    def _require_same_model(self, wanted: dict[str, str]) -> None:
        found = self._client.describe_collection(self.collection, timeout=SECONDS)
        found = found.get("properties", {})
        other = {name: found.get(name) for name in wanted if found.get(name) != wanted[name]}
        if other:
            raise InputError(
                f"collection {self.collection!r} in {self._uri} was made by another model "
                f"({', '.join(f'{name} {value}' for name, value in other.items())}; wanted "
                f"{', '.join(wanted[name] for name in other)}); embed again with "
                "`cllm embed --replace`, or load the matching model"
            )

    def _create(self, properties: dict[str, str]) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, max_length=MAX_ID_BYTES, is_primary=True)
        schema.add_field("split", DataType.VARCHAR, max_length=MAX_SPLIT_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        index = self._client.prepare_index_params()
        # FLAT: graph indexes overestimate distances exactly where a cloud is empty.
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        self._client.create_collection(
            self.collection, schema=schema, index_params=index, properties=properties
        )


def collection_of(corpus_hash: str, model_hash: str) -> str:
    """The collection of a corpus's vectors on a server, where runs meet."""
    return f"texts_{corpus_hash}_{model_hash}"


def require_reachable(uri: str) -> None:
    """Say before hours of work that a Milvus cannot be used; raises InputError."""
    client = _connect(uri)
    try:
        with _milvus_errors(uri):
            client.list_collections()
    finally:
        VectorStore(client, uri, "", 0).close()


def _connect(uri: str) -> MilvusClient:
    from pymilvus import MilvusClient

    # each logs a traceback for a refusal, or for a call that Milvus Lite lacks
    for name in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if is_lite(uri):
        _make_room(Path(uri))
    with _milvus_errors(uri):
        return MilvusClient(uri, timeout=SECONDS)


def _make_room(path: Path) -> None:
    """Milvus Lite keeps a folder under its path; one process holds it at a time."""
    if path.is_file():
        raise InputError(
            f"{path} is a file, Milvus Lite 3 keeps a folder; move it away and run `cllm embed`"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be made ({error.strerror}); choose another Milvus path"
        ) from error


@contextmanager
def _milvus_errors(uri: str) -> Iterator[None]:
    """Turn what pymilvus raises into one line with the next step; a full disk is no bad input."""
    from grpc import RpcError  # type: ignore[import-untyped]
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, RpcError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:200]
        if "no space left" in reason.lower():
            raise WorkError(f"Milvus at {uri}: {reason}; free some disk space") from error
        if is_lite(uri):
            hint = "another process may hold it: stop that one, or choose another Milvus path"
        else:
            hint = "check that the server runs and the address is right"
        raise NoAnswer(f"Milvus at {uri}: {reason}; {hint}") from error


class NoAnswer(InputError):
    """Milvus did not do what it was asked; it may be away for a while."""


def is_lite(uri: str) -> bool:
    """Whether it is the path of a Milvus Lite folder, which one process holds at a time."""
    return "://" not in uri


def _angle(cosine: float) -> float:
    """Milvus's COSINE score (bigger is nearer) as radians: the one place it is converted."""
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _require_same_length(
    ids: Sequence[str], splits: Sequence[str], vectors_ND: npt.NDArray[Any], texts: Sequence[str]
) -> None:
    lengths = {len(ids), len(splits), len(vectors_ND), len(texts)}
    if len(lengths) > 1:
        raise InputError(
            f"{len(ids)} ids, {len(splits)} splits, {len(vectors_ND)} vectors and {len(texts)} "
            "texts do not match; pass one of each a text"
        )


def _require_good_ids(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        again = Counter(ids).most_common(1)[0][0]
        raise InputError(f"id {again!r} occurs twice; give every text its own id")
    long = next((name for name in ids if not 0 < len(name.encode()) <= MAX_ID_BYTES), None)
    if long is not None:
        raise InputError(
            f"id {long[:80]!r} has {len(long.encode())} bytes; ids need 1 to {MAX_ID_BYTES}"
        )
