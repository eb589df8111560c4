"""Filling a Milvus server through Ray Data's sink and by a bare loop: a part of `bench.cluster`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench._context import in_turns, say
from bench._load import free_port


def filled(rows: int, repeats: int, folder: Path) -> dict[str, list[float]]:
    """Rows a second of both, of random vectors; start-up is out, as many less few rows."""
    few, many = (vectors_of(folder / str(n), n) for n in (rows, 10 * rows))
    rates: dict[str, list[float]] = {"sink": [], "loop": []}
    for repeat in range(repeats):
        with milvus_server(folder / f"milvus{repeat}") as server:
            for name, fill in in_turns({"loop": BARE, "sink": SINK}, repeat):
                taken = [_seconds(fill, run, server.uri) for run in (few, many)]
                rates[name].append(9 * rows / (taken[1] - taken[0]))
        say(f"milvus {repeat}: {rates}")
    return rates


def _seconds(fill: str, run: Path, uri: str) -> float:
    words = [sys.executable, "-c", fill, str(run), uri]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1])


def vectors_of(folder: Path, rows: int, dim: int = 32) -> Path:
    """A run folder with nothing but so many vectors, in files of 2,048 as `cluster.embed` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cllm.sphere import unit

    version = folder / "latents" / "v-random"
    version.mkdir(parents=True)
    vectors_ND = unit(np.random.default_rng(0).normal(size=(rows, dim))).astype(np.float32)
    for first in range(0, rows, 2048):
        part_MD = vectors_ND[first : first + 2048]
        table = pa.table({
            "id": [f"t{first + i}" for i in range(len(part_MD))],
            "split": ["train"] * len(part_MD),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(part_MD.reshape(-1)), dim),
        })  # fmt: skip
        pq.write_table(table, version / f"part-{first:08d}.parquet")
    note = {
        "version": version.name, "model_hash": f"of{rows}", "corpus": "random", "rows": rows,
        "dim": dim,
    }  # fmt: skip
    (folder / "latents/manifest.json").write_text(json.dumps(note))
    return folder


class MilvusServer:
    """A server on this machine that keeps its data in a folder, and can be killed and come back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """It may take a while until it answers: `wait_for`."""
        self._server = subprocess.Popen(
            [str(Path(sys.executable).with_name("milvus-lite")), "server", "--data-dir",
             str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        """At once."""
        self._server.kill()
        self._server.wait()


@contextmanager
def milvus_server(folder: Path) -> Iterator[MilvusServer]:
    """One that answers, until the end."""
    server = MilvusServer(folder)
    try:
        wait_for(server.port)
        yield server
    finally:
        server.kill()


def wait_for(port: int) -> None:
    """Until something listens there."""
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("the Milvus server did not start")


SINK = """
import sys
from cluster import embed, joining
with joining.joined(None):
    means = embed.Means(actors=2, gpu=False, cpus=1, rows=2048, wait=30)
    print(embed.fill(sys.argv[1], sys.argv[2], means)["milvus_seconds"])
"""
# the same client and batches, reading the same files, without Ray
BARE = """
import json, sys, time
from pathlib import Path
import pyarrow.parquet as pq
from cllm.store import VectorStore, current
run = Path(sys.argv[1])
note = json.loads((run / "latents/manifest.json").read_text())
store = VectorStore.open(sys.argv[2], "bare_" + note["model_hash"], "model", note["dim"])
begun = time.perf_counter()
for file in sorted(current(run / "latents").glob("*.parquet")):
    table = pq.read_table(file, columns=["id", "split", "vector"])
    for first in range(0, len(table), 1000):
        store.upsert_rows(table.slice(first, 1000).to_pylist())
store.flush()
print(time.perf_counter() - begun)
"""
