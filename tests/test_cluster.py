"""The chain on a real cluster of three nodes, and what happens to it there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from nodes import RAY, ROOT, Cluster, cluster_of, possible
from safetensors.numpy import load_file
from services import eventually

from bench._load import free_port
from cllm import pipeline
from cllm.corpus import built_in_corpus
from cllm.files import digest, read_json, write_json
from cllm.run import SHIPPED, RunFolder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
]
STEPS = 40
PLACE = Path("training/ray/model")
WHAT = [
    "--preset", "quick", "--steps", str(STEPS), "--cpus", "2",
    "--set", "train.loop.checkpoint_seconds=2", "--set", "train.loop.report_every=5",
    "--set", "model.form=direct",
]  # fmt: skip
TRAINING = ["-m", "cluster.train", *WHAT, "--set", "parallel.zero=2"]


class Clusters:
    """One cluster at a time: Ray looks for others among all processes of a machine."""

    def __init__(self) -> None:
        self.open, self.shared = ExitStack(), None

    def start(self) -> Cluster:
        self.close()
        self.shared = self.open.enter_context(cluster_of())
        return self.shared

    def close(self) -> None:
        self.open.close()
        self.shared = None


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A small one, there before the nodes, which see no later one; None where we may not mount."""
    if not possible():
        yield None
        return
    folder = tmp_path_factory.mktemp("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def clusters(disk: Path | None) -> Iterator[Clusters]:
    del disk
    every = Clusters()
    yield every
    every.close()


@pytest.fixture
def cluster(clusters: Clusters) -> Cluster:
    """The same for all tests that leave it whole."""
    return clusters.shared or clusters.start()


@pytest.fixture
def own_cluster(clusters: Clusters) -> Iterator[Cluster]:
    """For a test that breaks it; such tests come last, as the shared one ends for them."""
    yield clusters.start()
    clusters.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a corpus and a base."""
    run = RunFolder(tmp_path_factory.mktemp("prepared"))
    pipeline.keep_corpus(run, built_in_corpus("plain", 1000, 0))
    pipeline.borrow_base(run, SHIPPED / "base")
    return run.path


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def undisturbed(
    clusters: Clusters, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The model of a training that nothing happened to, in a run at a URL."""
    cluster = clusters.shared or clusters.start()
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(prepared, run)
    ended = cluster.run([*TRAINING, "--run", f"file://{run}"])
    assert ended.returncode == 0, ended.stderr[-3000:]
    return run / "model"


def checkpoints(training: Path) -> list[Path]:
    """Those that Ray knows of, oldest first."""
    try:
        told = json.loads((training / "checkpoint_manager_snapshot.json").read_text())
    except (OSError, ValueError):
        return []
    return sorted(training / one["checkpoint_dir_name"] for one in told["checkpoint_results"])


def same_weights(a: Path, b: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        np.testing.assert_allclose(weight, theirs[name], atol=1e-4, err_msg=name)


def trained_steps(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


# ---- training --------------------------------------------------------------------------


def test_two_nodes_train_what_one_process_does(
    undisturbed: Path, prepared: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "run"
    shutil.copytree(prepared, alone)
    from cluster.train import main

    main([*WHAT, "--workers", "0", "--run", str(alone)])
    same_weights(undisturbed, alone / "model")
    assert trained_steps(undisturbed.parent) == list(range(5, STEPS + 1, 5))


def test_a_killed_worker_costs_nothing_but_time(
    cluster: Cluster, undisturbed: Path, run: Path
) -> None:
    driver = cluster.start([*TRAINING, "--run", str(run)])
    eventually(lambda: checkpoints(run / PLACE))
    victim = next(pid for node in cluster.nodes for pid in node.processes("RayTrainWorker"))
    os.kill(victim, signal.SIGKILL)
    _, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err[-3000:]
    assert "going on at step" in err
    same_weights(undisturbed, run / "model")
    assert trained_steps(run) == list(range(5, STEPS + 1, 5))


def step_of(checkpoint: Path) -> int:
    return json.loads((checkpoint / "progress.json").read_text())["step"]


def test_a_killed_driver_goes_on_before_its_damaged_checkpoint(
    cluster: Cluster, undisturbed: Path, run: Path
) -> None:
    command = [*TRAINING, "--run", os.path.relpath(run, ROOT)]  # the nodes' own would be elsewhere
    driver = cluster.start(command)
    eventually(lambda: len(checkpoints(run / PLACE)) >= 2)
    driver.kill()
    driver.communicate()
    before, newest = checkpoints(run / PLACE)[-2:]
    step = step_of(before)
    shards = next(newest.glob("shards/*optim_states.pt"))
    shards.write_bytes(shards.read_bytes()[:-100])
    again = cluster.run(command)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "damaged" in again.stderr
    assert f"going on at step {step}" in again.stderr
    same_weights(undisturbed, run / "model")
    assert trained_steps(run) == list(range(5, STEPS + 1, 5))


@pytest.fixture
def namespaces() -> None:
    if not possible():
        pytest.skip("needs root and network namespaces (iproute2)")


def fill(disk: Path) -> None:
    free = shutil.disk_usage(disk).free
    (disk / "full").write_bytes(b"x" * max(0, free - 100_000))


def make_room(disk: Path) -> None:
    (disk / "full").unlink()


def remounted(how: str) -> Callable[[Path], None]:
    def remount(disk: Path) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)

    return remount


@pytest.mark.parametrize(
    ("spoil", "mend", "words"),
    [
        (fill, make_room, "No space left"),
        (remounted("ro"), remounted("rw"), "Read-only file system"),
    ],
    ids=["full", "read-only"],
)
def test_a_spoilt_disk_is_said_and_the_checkpoint_before_stays(
    disk: Path | None, cluster: Cluster, undisturbed: Path, run: Path,
    spoil: Callable[[Path], None], mend: Callable[[Path], None], words: str,
) -> None:  # fmt: skip
    if disk is None:
        pytest.skip("needs root, to mount a small disk")
    storage = disk / words.split()[0]
    command = [*TRAINING, "--run", str(run), "--storage", str(storage), "--retries", "0"]
    driver = cluster.start(command)
    eventually(lambda: checkpoints(storage / "model"))
    spoil(disk)
    try:
        _, err = driver.communicate(timeout=400)
    finally:
        mend(disk)
    assert driver.returncode == 1, err[-3000:]
    last = err.strip().splitlines()[-1]
    assert last.startswith("cllm: ")
    assert words in last
    newest = step_of(checkpoints(storage / "model")[-1])
    again = cluster.run(command)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"going on at step {newest}" in again.stderr
    same_weights(undisturbed, run / "model")
    shutil.rmtree(storage)


def test_a_worker_that_fails_alone_is_not_waited_for(cluster: Cluster, run: Path) -> None:
    with cluster.nodes[2].covered(cluster.folder / "tmp", size="1m"):
        ended = cluster.run([*TRAINING, "--run", str(run), "--timeout", "600"], seconds=200)
    assert ended.returncode == 1, ended.stderr[-3000:]
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("cllm: ")
    assert "No space left" in last


# ---- embedding -------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """The shipped run without its vectors: 20,000 texts."""
    run = tmp_path / "shipped"
    shutil.copytree(SHIPPED, run, ignore=shutil.ignore_patterns("latents", "voids*", "ideas*"))
    return run


@pytest.fixture
def quarter(shipped: Path) -> Path:
    """The same with 5,000 texts: 25 files of 200."""
    return with_first(shipped, 5000)


def with_first(run: Path, count: int) -> Path:
    """The run, its corpus no more than so many texts."""
    corpus = RunFolder(run).load_corpus()
    corpus.only([i < count for i in range(len(corpus))]).save(run / "corpus.parquet")
    return run


def rows(run: Path) -> dict[str, np.ndarray]:
    note = json.loads((run / "latents/manifest.json").read_text())
    table = pq.read_table(run / "latents" / note["version"])
    ids = table["id"].to_pylist()
    assert len(ids) == len(set(ids)) == note["rows"]
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    return dict(zip(ids, vectors, strict=True))


def test_a_killed_embedding_goes_on(cluster: Cluster, quarter: Path) -> None:
    words = ["-m", "cluster.embed", "--run", str(quarter), "--rows", "200"]
    driver = cluster.start(words)
    eventually(lambda: len(list(quarter.glob("latents/v-*/*.parquet"))) > 2)
    driver.kill()
    driver.communicate()
    assert not (quarter / "latents/manifest.json").exists()
    again = cluster.run(words)
    assert again.returncode == 0, again.stderr[-3000:]
    assert 0 < json.loads(again.stdout.splitlines()[-1])["embedded"] < 5000
    assert len(rows(quarter)) == 5000


def test_files_of_unequal_size_are_embedded_and_repeated_texts_refused(
    cluster: Cluster, shipped: Path, tmp_path: Path
) -> None:
    texts = pq.read_table(shipped / "corpus.parquet")["text"].to_pylist()[:901]
    folder = tmp_path / "texts"
    folder.mkdir()
    bounds = (0, 1, 2, 700, 900)
    for first, last in pairwise(bounds):
        lines = [json.dumps({"text": text}) for text in texts[first:last]]
        (folder / f"{first}.jsonl").write_text("\n".join(lines))
    words = ["-m", "cluster.embed", "--run", str(shipped), "--texts", str(folder), "--rows", "300"]
    ended = cluster.run(words)
    assert ended.returncode == 0, ended.stderr[-3000:]
    model = RunFolder(shipped).load_model()
    found = rows(shipped)
    ours = np.stack([found[digest(text)] for text in texts[:900]])
    np.testing.assert_allclose(ours, model.encode(texts[:900]), atol=1e-5)
    (folder / "again.jsonl").write_text("\n".join([json.dumps({"text": texts[5]})] * 2))
    refused(cluster.run(words), "2 of 902 rows repeat", "corpus build")


class Milvus:
    """A server on the bridge's address, where every node reaches it."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.host = folder, cluster.nodes[0].address
        self.cluster = cluster
        self.port = free_port()
        self.start()

    @property
    def uri(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        server = str(Path(sys.executable).with_name("milvus-lite"))
        self.process = subprocess.Popen(
            [
                *self.cluster.nodes[0].inside, server, "server",
                "--data-dir", str(self.folder), "--host", self.host, "--port", str(self.port),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(self.listens)

    def listens(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


MANY = 10_000  # rows: more than are sent before it is killed


def test_a_milvus_that_dies_while_it_is_filled_has_every_row_once(
    cluster: Cluster, shipped: Path, tmp_path: Path
) -> None:
    with_first(shipped, MANY)
    embedded = cluster.run(["-m", "cluster.embed", "--run", str(shipped)])
    assert embedded.returncode == 0, embedded.stderr[-3000:]
    milvus = Milvus(tmp_path / "milvus", cluster)
    try:
        words = ["-m", "cluster.embed", "--run", str(shipped), "--milvus", milvus.uri]
        driver = cluster.start(words)
        count = (
            "import sys; from pymilvus import MilvusClient; c = MilvusClient(sys.argv[1]); "
            "n = c.list_collections(); "
            "print(c.query(n[0], output_fields=['count(*)'])[0]['count(*)'] if n else 0)"
        )

        def filled() -> int:
            found = cluster.run(["-c", count, milvus.uri], seconds=60)
            return int(found.stdout.split()[-1]) if found.returncode == 0 else 0

        assert eventually(filled) < MANY, "too late: send more rows"
        milvus.kill()
        time.sleep(3)
        milvus.start()
        out, err = driver.communicate(timeout=400)
        assert driver.returncode == 0, err[-3000:]
        assert filled() == MANY
        alias = json.loads(out.splitlines()[-1])["alias"]
        check = (
            "import sys; from cllm.store import VectorStore; "
            "model = sys.argv[2].rpartition('_')[2]; "
            "s = VectorStore.open(sys.argv[1], sys.argv[2], model, 32, create=False); "
            "print(s.count())"
        )
        seen = cluster.run(["-c", check, milvus.uri, alias])
        assert seen.stdout.split()[-1] == str(MANY), seen.stderr[-2000:]
    finally:
        milvus.kill()


# ---- voids, and all of it --------------------------------------------------------------


def test_voids_over_shards_are_those_of_one_machine(
    cluster: Cluster, quarter: Path, tmp_path: Path
) -> None:
    from cllm import discovery

    one, many = quarter, tmp_path / "many"
    run, file = RunFolder(one), one / "model/training.json"
    corpus, trained = run.load_corpus(), read_json(file)
    trained["facts"]["corpus_hash"] = corpus.hash
    write_json(file, trained)
    pipeline.write_latents(run, run.load_model(), corpus)
    shutil.copytree(one, many)
    discovery.search_voids(RunFolder(one), seed=3, quick=True)
    ended = cluster.run(
        ["-m", "cluster.voids", "--run", str(many), "--seed", "3", "--shards", "3", "--quick"],
        seconds=600,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    ours, theirs = (pq.read_table(run / "voids.parquet") for run in (many, one))
    assert len(ours)
    for name in ("id", "neighbours", "enclosed"):
        assert ours[name].to_pylist() == theirs[name].to_pylist()
    np.testing.assert_allclose(ours["radius"], theirs["radius"], atol=1e-5)
    np.testing.assert_allclose(ours["p_value"].to_pylist(), theirs["p_value"].to_pylist())


CONFIG = """
run: {run}
texts: 1000
aim: voids
set: [train.loop.steps=60, model.form=direct, train.loop.report_every=20, ideas=40, evaluated=50]
voids: {{shards: 3}}
"""


def test_the_whole_chain_is_one_job_and_the_next_keeps_all_of_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(run=f"file://{tmp_path}/run"))
    submit = [
        "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", ".",
        "--", sys.executable, "-m", "cluster.pipeline", "--config", str(config),
    ]  # fmt: skip
    address = f"http://{cluster.nodes[0].address}:8265"
    told = []
    for _ in range(2):
        ended = cluster.run(submit, seconds=600, RAY_ADDRESS=address)
        assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
        told += [json.loads(x) for x in ended.stdout.splitlines() if x.startswith('{"run"')]
    first, again = told
    stages = ["corpus", "base", "train", "embed", "voids", "generate", "report"]
    assert list(first["made"]) == stages
    assert again["kept"] == stages
    notes = [json.loads((tmp_path / f"run/stages/{name}.json").read_text())
             for name in ("voids", "generate")]  # fmt: skip
    assert notes[0]["made"]["voids.parquet"] == notes[1]["made"]["voids.parquet"]
    assert "<html" in (tmp_path / "run/report.html").read_text("utf-8").lower()


# ---- what is refused -------------------------------------------------------------------


def refused(ended: subprocess.CompletedProcess[str], *words: str, status: int = 2) -> None:
    assert ended.returncode == status, ended.stderr[-3000:]
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("cllm: ")
    for word in words:
        assert word in last
    ours = [line for line in ended.stderr.splitlines() if "PlacementGroupCleaner" not in line]
    assert "Traceback" not in "".join(ours), "of what Ray cleans up, it may tell more"


def test_an_address_where_nobody_is(cluster: Cluster, run: Path) -> None:
    ended = cluster.run([*TRAINING, "--run", str(run), "--address", "10.77.1.99:6379"], seconds=60)
    refused(ended, "no Ray cluster answers at 10.77.1.99:6379", "ray start --head")


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_wrong_token(cluster: Cluster, run: Path, token: str) -> None:
    ended = cluster.run([*TRAINING, "--run", str(run)], seconds=60, RAY_AUTH_TOKEN=token)
    refused(ended, "token")


def test_more_workers_than_there_is_room_for(cluster: Cluster, run: Path) -> None:
    ended = cluster.run([*TRAINING, "--run", str(run), "--workers", "9", "--wait", "2"], seconds=60)
    refused(
        ended,
        "9 workers need 18 CPU, 2 CPU each on one node; the cluster has 4 CPU, "
        "0 CPU in use, room for 2",
    )


def test_a_storage_that_only_the_head_sees(cluster: Cluster, run: Path) -> None:
    storage = run / "storage"
    storage.mkdir()
    words = [*TRAINING, "--run", str(run), "--storage", str(storage)]
    with cluster.nodes[2].covered(storage):
        ended = cluster.run(words, seconds=120)
    refused(ended, "not every node sees", str(storage))


def test_a_base_that_differs_between_nodes(
    cluster: Cluster, run: Path, tiny_base: object, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    tiny_base.save(other)
    with cluster.nodes[2].covered(run / "base", other):
        ended = cluster.run([*TRAINING, "--run", str(run)], seconds=120)
    refused(ended, "differs between nodes")


def test_zero_rows(cluster: Cluster, shipped: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(shipped / "corpus.parquet").slice(0, 0), empty)
    ended = cluster.run(["-m", "cluster.embed", "--run", str(shipped), "--texts", str(empty)])
    refused(ended, str(empty), "no rows")


# ---- what breaks a cluster -------------------------------------------------------------


def test_a_node_that_is_cut_off_ends_neither_in_silence_nor_in_halves(
    namespaces: None, own_cluster: Cluster, undisturbed: Path, run: Path
) -> None:
    own_cluster.wait(own_cluster.add(2))  # to take its place
    driver = own_cluster.start([*TRAINING, "--run", str(run)])
    eventually(lambda: checkpoints(run / PLACE))
    node = next(node for node in own_cluster.nodes[1:] if node.processes("RayTrainWorker"))
    node.cut()
    time.sleep(60)
    node.join()
    _, err = driver.communicate(timeout=600)
    if driver.returncode:
        assert driver.returncode == 1, err[-3000:]
        assert "cllm: the training failed" in err.splitlines()[-1]
        assert not (run / "model").exists()
    else:
        same_weights(undisturbed, run / "model")


DRAIN = """
import subprocess, sys, ray
ray.init(logging_level="ERROR")
(node,) = (n["NodeID"] for n in ray.nodes() if n["NodeManagerAddress"] == sys.argv[1])
subprocess.run([sys.argv[2], "drain-node", "--address", sys.argv[3], "--node-id", node, "--reason",
    "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
    "--deadline-remaining-seconds", "60"], check=True)
"""


def test_a_notice_that_a_node_goes_leads_to_a_checkpoint(
    namespaces: None, own_cluster: Cluster, run: Path
) -> None:
    never = ["--steps", "2000", "--set", "train.loop.checkpoint_seconds=100000"]
    driver = own_cluster.start([*TRAINING, "--run", str(run), *never])
    eventually(lambda: list((run / PLACE / "tensorboard").glob("*")))
    drained = own_cluster.run(["-c", DRAIN, own_cluster.nodes[2].address, RAY, own_cluster.address])
    assert drained.returncode == 0, drained.stderr[-2000:]
    (kept, *_) = eventually(lambda: checkpoints(run / PLACE))
    assert step_of(kept) < 2000
    assert driver.poll() is None
    driver.kill()
    driver.communicate()


def test_a_lost_node_loses_no_row(own_cluster: Cluster, quarter: Path) -> None:
    driver = own_cluster.start(
        ["-m", "cluster.embed", "--run", str(quarter), "--rows", "200", "--cpus", "1"]
    )
    eventually(lambda: list(quarter.glob("latents/v-*/*.parquet")))
    own_cluster.nodes[2].kill()
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, err[-3000:]
    assert json.loads(out.splitlines()[-1])["rows"] == 5000
    found = rows(quarter)
    latents = RunFolder(SHIPPED).load_latents(RunFolder(SHIPPED).load_model())
    at = {name: row for row, name in enumerate(latents.ids)}
    theirs = latents.vectors_ND[[at[name] for name in found]]
    np.testing.assert_allclose(np.stack(list(found.values())), theirs, atol=1e-5)
