"""Vectors of every text of a corpus, on a Ray cluster: Parquet files first, then Milvus.

    python -m cluster.embed --run s3://bucket/runs/mine --actors 8 --gpu --milvus http://milvus:19530

Files of this corpus and model lie in a folder of their own under `latents/`; when all rows are
there, `latents/manifest.json` names it and readers see it. Killed at any point, the same
command does what is missing.
"""

# Shapes: N texts of a batch, D coordinates.
from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError, WorkError
from cllm.files import digest
from cllm.reading import clean_text
from cllm.store import MAX_ID_BYTES, MAX_SPLIT_BYTES, is_lite, require_reachable
from cluster.remote import absolute, fetched, lasting, listed, reached, read_text, write_text
from cluster.tasks import Needs

log = logging.getLogger(__name__)

COLUMNS = ("id", "split", "text")
MODEL = ("model", "base")
LINE_SECONDS = 10.0
TASK_ROWS = 20_000  # that a writer reads and sends to Milvus at a time; Ray's own choice is all
ACCOUNTED = 0.5  # of the models' CPUs in Ray's books: what reads and writes must find room too


@dataclass(frozen=True)
class Means:
    """What an embedding gets of the cluster."""

    actors: int
    gpu: bool
    cpus: float  # of an actor
    rows: int  # of a batch; texts are sorted by length within it
    wait: float

    def __post_init__(self) -> None:
        """InputError: none of something."""
        for name in ("actors", "cpus", "rows"):
            if getattr(self, name) <= 0:
                raise InputError(f"--{name} is {getattr(self, name)}; it must be more than 0")


def main(arguments: Sequence[str] | None = None) -> None:
    """Embed what is not embedded yet, fill Milvus, print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        from cluster.joining import joined

        run = lasting(options.run)
        texts = [absolute(text) for text in options.texts] or [f"{run}/corpus.parquet"]
        means = Means(options.actors, options.gpu, options.cpus, options.rows, options.wait)
        milvus = options.milvus and lasting(options.milvus)
        if milvus:
            require_reachable(milvus)
        with joined(options.address):
            told = embed(run, texts, means)
            if milvus:
                told |= fill(run, milvus, means)
        print(json.dumps(told))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(prog="cluster.embed", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--run", required=True, help="folder or URL with model/ and base/")
    p.add_argument("--texts", nargs="*", default=[], help="Parquet, JSONL or CSV files or folders "
                   "with a column `text` (`id`, `split`); [default: the run's corpus]")  # fmt: skip
    p.add_argument("--address", help="of the cluster; without it: the job's, else this machine")
    p.add_argument("--actors", type=int, default=2, help="models at work")
    p.add_argument("--gpu", action="store_true", help="one GPU an actor")
    p.add_argument("--cpus", type=float, default=1, help="of an actor")
    p.add_argument("--rows", type=int, default=2048, help="texts that an actor gets at a time")
    p.add_argument("--wait", type=float, default=30, help="seconds for missing nodes to come")
    p.add_argument("--milvus", help="URI of a server, or a local path that one writer fills")
    return p


def embed(run: str, texts: Sequence[str], means: Means) -> dict[str, Any]:
    """Rows, seconds and the version that readers now see.

    InputError: no texts, or resources are missing. WorkError: rows are missing at the end.
    """
    import ray

    from cluster.joining import require, require_seen
    from cluster.parts import BESIDE, Parts

    model = fetched(run, MODEL).load_model()
    version = version_of(texts, model.hash)
    folder = f"{run}/latents/{version}"
    each = Needs(means.cpus, means.gpu).resources
    require(each, means.actors, f"{means.actors} actors", means.wait)
    require_seen(run)
    rows = rows_of(read(texts), ", ".join(texts))
    begun, parts = time.monotonic(), Parts.found(folder)
    there = len(parts.keys_N)
    log.info("%d of %d texts are embedded already, in %s", there, rows, folder)
    if there < rows:
        blocks = parts.missing(read(texts, blocks=-(-rows // means.rows)))
        known: dict[str, int] = {}  # rows of files that were looked at
        with watched(lambda: count_rows(folder, known), "embedded", there, rows):
            blocks.map_batches(
                Embedder,
                fn_constructor_kwargs={"run": run, "threads": max(1, int(means.cpus))},
                batch_size=means.rows,
                compute=ray.data.ActorPoolStrategy(size=means.actors),
                num_cpus=means.cpus * ACCOUNTED,
                num_gpus=1 if means.gpu else 0,
                batch_format="pyarrow",
            ).write_datasink(parts, ray_remote_args=BESIDE)
    seconds, found = time.monotonic() - begun, parts.rows()
    if found != rows:
        raise WorkError(
            f"{folder} has {found} rows of {rows}; run the same command again, and if that does "
            "not help, delete that folder"
        )
    note = {
        "version": version, "model_hash": model.hash, "corpus": digest(*texts), "rows": rows,
        "dim": model.config.dim,
    }  # fmt: skip
    write_text(f"{run}/latents/manifest.json", json.dumps(note))
    log.info("%d texts in %.0f s (%.0f a second)", rows - there, seconds, (rows - there) / seconds)
    return note | {"embedded": rows - there, "seconds": round(seconds, 2)}


@contextmanager
def watched(count: Callable[[], int], what: str, before: int, rows: int) -> Iterator[None]:
    """Every few seconds a line: rows that are there, rows a second, time left."""
    ended, begun = threading.Event(), time.monotonic()

    def watch() -> None:
        while not ended.wait(LINE_SECONDS):
            try:
                there = count()
            except InputError:  # a server that is away; the work itself says so
                continue
            speed = (there - before) / (time.monotonic() - begun)
            left = f", {(rows - there) / speed:.0f} s left" if speed else ""
            log.info("%s %d of %d texts, %.0f a second%s", what, there, rows, speed, left)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def read(texts: Sequence[str], blocks: int | None = None) -> Any:  # noqa: ANN401 - a Ray dataset
    """Cleaned `id, split, text` of Parquet, JSONL or CSV files, or folders of them, in blocks.

    Texts without an id get a digest of themselves; without a split they count as `train`.
    InputError: no such file, another kind of file, or no column `text`.
    """
    import ray

    from cluster.parts import BESIDE

    readers = {
        "parquet": ray.data.read_parquet, "jsonl": ray.data.read_json,
        "json": ray.data.read_json, "csv": ray.data.read_csv,
    }  # fmt: skip
    for place in texts:
        if not listed(*reached(place)):
            raise InputError(f"{place} does not exist; name files that every node sees")
    first = listed(*reached(texts[0]))[0].base_name
    kind = first.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind not in readers:
        raise InputError(f"{first} is none of {', '.join(readers)}; name files of one such kind")
    dataset = readers[kind](list(texts), override_num_blocks=blocks, **BESIDE)
    schema = dataset.schema()
    if schema is None:
        raise InputError(f"{', '.join(texts)}: no rows; name files that hold texts")
    found = schema.names
    if "text" not in found:
        raise InputError(
            f"{texts[0]} has no column `text` (found: {', '.join(found)}); rename the column"
        )
    return dataset.map_batches(cleaned, batch_format="pyarrow", **BESIDE)


def rows_of(dataset: Any, place: str) -> int:  # noqa: ANN401 - a Ray dataset
    """How many rows there are, each with an id of its own; 8 bytes of a row come to the driver.

    InputError: there are none, or ids repeat.
    """
    from cluster.parts import BESIDE

    keys = dataset.map_batches(keyed, batch_format="pyarrow", **BESIDE)
    found, wide = [np.empty(0, np.uint64)], 0
    for batch in keys.iter_batches(batch_size=None, batch_format="numpy"):
        found.append(batch["key"])
        wide += int(batch["wide"].sum())
    keys_N = np.concatenate(found)
    del found
    keys_N.sort()  # in place: 16 bytes a row at most
    if wide:
        raise InputError(
            f"{place}: {wide} rows have no id of 1 to {MAX_ID_BYTES} bytes, or a split of more "
            f"than {MAX_SPLIT_BYTES}; give them shorter ones"
        )
    if not len(keys_N):
        raise InputError(f"{place}: no rows; name files that hold texts")
    again = int((keys_N[1:] == keys_N[:-1]).sum())
    if again:
        raise InputError(
            f"{place}: {again} of {len(keys_N)} rows repeat the id of another, or its text where "
            "there is no column `id`; drop repeated texts (`cllm corpus build` does), or give each "
            "row an id of its own"
        )
    return len(keys_N)


def keyed(table: Any) -> Any:  # noqa: ANN401 - a pyarrow table
    """64 bits for each id, and whether it or the split is longer than a store takes."""
    import pyarrow as pa

    from cluster.parts import keys_of

    wide = [
        not 0 < len(name.encode()) <= MAX_ID_BYTES or len(split.encode()) > MAX_SPLIT_BYTES
        for name, split in zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True)
    ]
    return pa.table({"key": pa.array(keys_of(table["id"])), "wide": pa.array(wide, pa.bool_())})


def version_of(texts: Sequence[str], model_hash: str) -> str:
    """Of the files as they are now and the model: the same again goes on, others start anew."""
    facts = [
        f"{file.path} {file.size} {file.mtime_ns}"
        for place in texts
        for file in listed(*reached(place))
    ]
    return f"v-{digest(model_hash, *facts)}"


def cleaned(table: Any) -> Any:  # noqa: ANN401 - a pyarrow table
    """Cleaned texts with their ids and splits, by default a digest and `train`; no empty ones."""
    import pyarrow as pa

    texts = [clean_text(str(text or "")) for text in table["text"].to_pylist()]
    names, splits = (
        table[name].to_pylist() if name in table.column_names else [None] * len(texts)
        for name in ("id", "split")
    )
    ids = [
        digest(text) if name is None else str(name) for name, text in zip(names, texts, strict=True)
    ]
    splits = [str(split or "train") for split in splits]
    rows = [row for row in zip(ids, splits, texts, strict=True) if row[2]]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {name: pa.array(column, pa.string()) for name, column in zip(COLUMNS, columns, strict=True)}
    )


class Embedder:
    """One model at work: texts in, unit vectors out."""

    def __init__(self, run: str, threads: int) -> None:
        import torch

        set_up_logging()
        torch.set_num_threads(threads)
        self.model = fetched(run, MODEL).load_model()

    def __call__(self, table: Any) -> Any:  # noqa: ANN401 - a pyarrow table
        """The table with a column `vector`; texts are padded to others of like length only."""
        import pyarrow as pa

        vectors_ND = self.model.encode(table["text"].to_pylist())
        flat = pa.array(np.ascontiguousarray(vectors_ND).reshape(-1), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
        return table.add_column(2, "vector", column)


def count_rows(folder: str, known: dict[str, int]) -> int:
    """Rows of the Parquet files in a folder, from the footers of those that are not known yet."""
    import pyarrow.parquet as pq

    system, path = reached(folder)
    for file in listed(system, path):
        if file.path not in known:
            known[file.path] = pq.read_metadata(file.path, filesystem=system).num_rows
    return sum(known.values())


# ---- Milvus --------------------------------------------------------------------------------


def fill(run: str, uri: str, means: Means) -> dict[str, Any]:
    """Vectors of the current version into a Milvus collection of its own, then its alias switched.

    A local path is written by one worker on this node; a server by several.
    """
    import ray

    from cluster.joining import this_node
    from cluster.sink import MilvusSink

    note = manifest(run)
    version = note["version"]
    alias = f"texts_{note['corpus']}_{note['model_hash']}"
    sink = MilvusSink(
        uri, f"{alias}_{version.replace('-', '')}", alias, note["model_hash"], note["dim"],
        note["rows"],
    )  # fmt: skip
    told = {"collection": sink.collection, "alias": alias}
    if sink.is_done():
        log.info("%s has all %d rows already", alias, note["rows"])
        return told | {"milvus_seconds": 0.0}
    begun = time.monotonic()
    columns = ["id", "split", "vector"]
    dataset = ray.data.read_parquet(
        f"{run}/latents/{version}", columns=columns,
        override_num_blocks=max(means.actors, -(-note["rows"] // TASK_ROWS)),
    )  # fmt: skip

    def send() -> None:
        if is_lite(uri):  # a file of this machine
            own = {"num_cpus": 0, "scheduling_strategy": this_node()}
            dataset.write_datasink(sink, ray_remote_args=own, concurrency=1)
        else:
            with watched(sink.count, "Milvus has", 0, note["rows"]):
                dataset.write_datasink(sink, concurrency=means.actors)

    sink.fill(send)
    return told | {"milvus_seconds": round(time.monotonic() - begun, 2)}


def manifest(run: str) -> dict[str, Any]:
    """What `latents/manifest.json` says; InputError where nothing was embedded."""
    try:
        note: dict[str, Any] = json.loads(read_text(f"{run}/latents/manifest.json") or "")
    except ValueError as error:
        raise InputError(f"{run} holds no vectors; run `python -m cluster.embed`") from error
    return note


if __name__ == "__main__":
    main()
