"""Search voids with the cloud's rows spread over a Ray cluster; the answer is the library's.

    python -m cluster.voids --run s3://bucket/runs/mine --shards 16

Each shard keeps an exact index of its rows. The finder is a task on one worker; every question
of distance goes to all shards, and the nearest of their answers count. Null clouds are searched
at once, each by a task of its own.
"""

# Shapes: N texts, Q points, K neighbours, D coordinates, S shards.
from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.progress import counted
from cllm.run import RunFolder
from cllm.sphere import ExactIndex, Floats, Ints, require_unit
from cllm.voids import Job, VoidSearch, find_voids
from cluster.remote import is_there, lasting, read_text, remove
from cluster.tasks import Needs, on_worker

NEEDED = ("corpus.parquet", "base", "model", "latents", "report.json")
MADE = ("voids.parquet", "report.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, leave voids.parquet in the run folder, print the facts."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        from cluster.joining import joined

        with joined(options.address):
            found = search(
                lasting(options.run), options.seed, options.shards, options.cpus,
                quick=options.quick, wait=options.wait,
            )  # fmt: skip
        print(json.dumps(found))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(prog="cluster.voids", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--run", required=True, help="folder or URL with model/ and latents/")
    p.add_argument("--address", help="of the cluster; without it: the job's, else this machine")
    p.add_argument("--shards", type=int, default=2)
    p.add_argument("--cpus", type=float, default=1, help="of a shard")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quick", action="store_true", help="a quarter of the search")
    p.add_argument("--wait", type=float, default=30, help="seconds for missing nodes to come")
    return p


def search(
    run: str, seed: int, shards: int, cpus: float, *, quick: bool, wait: float
) -> dict[str, Any]:
    """The report's section on voids. InputError: resources or parts of the run are missing."""
    from cluster.joining import require, require_seen

    if shards < 1:
        raise InputError(f"--shards is {shards}; it must be 1 or more")
    require({"CPU": cpus}, shards, f"{shards} shards", wait)
    require_seen(run)
    missing = [part for part in NEEDED if not is_there(f"{run}/{part}")]
    if missing:
        raise InputError(f"{run} has no {', '.join(missing)}; make it first (README, Step by step)")
    work = partial(_search, seed=seed, shards=shards, cpus=cpus, quick=quick)
    on_worker(run, NEEDED, MADE, work, Needs(cpus, wait=wait), "the void search")
    remove(f"{run}/ideas.parquet")  # of other voids
    found: dict[str, Any] = json.loads(read_text(f"{run}/report.json") or "")["voids"]
    return found


def _search(folder: RunFolder, seed: int, shards: int, cpus: float, *, quick: bool) -> None:
    """The finder. While it waits for shards or null clouds, they have its CPUs."""
    from cllm import discovery

    # spread, so that no node's memory holds two where another holds none
    actor = ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD")(Shard)
    actors: list[Any] = []

    def index_of(cloud_ND: Floats) -> ShardedIndex:
        actors.extend(actor.remote(max(1, int(cpus))) for _ in range(shards - len(actors)))
        return ShardedIndex(cloud_ND, actors)  # waits for them, and so makes room

    find = partial(find_voids, index_of=index_of, each=partial(in_tasks, actors, cpus))
    discovery.search_voids(folder, seed, quick=quick, find=find)


def in_tasks(
    actors: Sequence[Any], cpus: float, search: Callable[[Job], VoidSearch], jobs: Sequence[Job]
) -> Iterator[VoidSearch]:
    """Null clouds, each searched whole by a task; the actors, which are done, make room for them.

    A node's task needs about 12·D bytes a text.
    """
    for actor in actors:
        ray.kill(actor)
    kept = ray.put(search)  # with the cloud, once a node
    task = ray.remote(num_cpus=cpus, max_retries=3)(_searched)
    waiting = [task.remote(kept, job, max(1, int(cpus))) for job in jobs]
    return map(ray.get, counted(waiting, "null clouds searched"))


def _searched(search: Callable[[Job], VoidSearch], job: Job, threads: int) -> VoidSearch:
    import faiss

    faiss.omp_set_num_threads(threads)
    return search(job)


class Shard:
    """Some rows of a cloud, and their exact neighbours."""

    def __init__(self, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.faiss: Any = None
        self.first = 0

    def hold(self, rows_MD: npt.NDArray[np.float32], first: int) -> None:
        """Take these rows, which begin with row `first` of the cloud."""
        import faiss

        self.faiss, self.first = faiss.IndexFlatIP(rows_MD.shape[1]), first
        self.faiss.add(rows_MD)

    def nearest(
        self, points_QD: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.float32], Ints]:
        """Cosines and rows of the cloud of the k nearest it holds, (Q, K) both."""
        cosine_QK, ids_QK = self.faiss.search(points_QD, min(k, self.faiss.ntotal))
        return cosine_QK, ids_QK + self.first


class ShardedIndex(ExactIndex):
    """`ExactIndex` whose distances are worked out where the rows lie.

    The finder keeps the coordinates too (4·D bytes a text), for the geometry around a point.
    """

    def __init__(self, cloud_ND: Floats, shards: Sequence[Any]) -> None:
        self.cloud_ND = np.ascontiguousarray(require_unit(cloud_ND))
        self._kth = {}
        self._shards = list(shards)[: len(self.cloud_ND)]
        parts = np.array_split(np.arange(len(self.cloud_ND)), len(self._shards))
        ray.get([
            shard.hold.remote(self.cloud_ND[rows], int(rows[0]))
            for shard, rows in zip(self._shards, parts, strict=True)
        ])  # fmt: skip

    def _nearest(self, points_QD: npt.NDArray[np.float32], k: int) -> Ints:
        """Rows of the k nearest, nearest first, by the float32 cosines of all shards."""
        sent = ray.put(points_QD)
        found = ray.get([shard.nearest.remote(sent, k) for shard in self._shards])
        cosine_QS = np.concatenate([cosine for cosine, _ in found], axis=1)
        ids_QS = np.concatenate([ids for _, ids in found], axis=1)
        best_QK = np.argsort(-cosine_QS, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(ids_QS, best_QK, 1)


if __name__ == "__main__":
    main()
