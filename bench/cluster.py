"""What the work on a cluster costs beside plain processes of this machine.

python -m bench.cluster --json                      # all parts but the GPU's, about 40 minutes
python -m bench.cluster --json --part embed milvus

One JSON object on stdout, progress on stderr. Both sides of a ratio run in one call, in turns.
Start-up is taken out as the difference of a long and a short run.
"""

# Shapes: N texts.
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench._context import in_turns, say

PARTS = ("embed", "peer", "train", "memory", "resume", "milvus", "planned")
BATCH = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts and print what they found."""
    p = argparse.ArgumentParser(prog="bench.cluster", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--part", nargs="+", choices=(*PARTS, "gpu"), default=list(PARTS))
    p.add_argument("--texts", type=int, default=20_000)
    p.add_argument("--many", type=int, default=1_000_000, help="of the part `memory`")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--repeats", type=int, default=3)
    options = p.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
            "embed": embed, "peer": peer, "train": train, "memory": memory, "resume": resume,
            "milvus": milvus, "planned": planned, "gpu": gpu,
        }  # fmt: skip
        print(
            json.dumps({name: parts[name](options, Path(folder) / name) for name in options.part})
        )


# ---- what the parts share ----------------------------------------------------------------


def run_of(folder: Path, texts: int, dim: int = 32) -> Path:
    """A run folder with the shipped base, an untrained CLLM and so many texts."""
    from cllm import pipeline
    from cllm.corpus import built_in_corpus
    from cllm.model import CLLM
    from cllm.run import SHIPPED, RunFolder

    run = RunFolder(folder)
    if run.model.exists():
        return folder
    pipeline.keep_corpus(run, built_in_corpus("plain", texts, 0))
    pipeline.borrow_base(run, SHIPPED / "base")
    model = CLLM.from_base(run.load_base(), context=80, dim=dim)
    model.save_pretrained(run.model)
    return folder


def command(*words: str, threads: int = 1) -> subprocess.CompletedProcess[str]:
    """A Python command in a process of its own; its stderr is shown where it fails."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *words], env=env, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{words} failed:\n{done.stderr[-3000:]}")
    return done


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Median of the paired ratios, and their range."""
    found = np.asarray(ours) / np.asarray(theirs)
    return {
        "ratio": float(np.median(found)),
        "ratio_range": [float(found.min()), float(found.max())],
    }


# ---- embedding -----------------------------------------------------------------------------


def embed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Texts a second: Ray Data with two actors of one core, over one process with two threads."""
    small, large = (run_of(folder / str(n), n) for n in (options.texts // 4, options.texts))
    rates: dict[str, list[float]] = {"ray": [], "plain": []}
    for repeat in range(options.repeats):
        for name, seconds in in_turns({"ray": _by_ray, "plain": _by_torch}, repeat):
            taken = seconds(large) - seconds(small)
            rates[name].append((options.texts - options.texts // 4) / taken)
        say(f"embed {repeat}: {rates}")
    return ratio(rates["ray"], rates["plain"]) | {"texts_a_second": rates, "texts": options.texts}


def _by_ray(run: Path) -> float:
    shutil.rmtree(run / "latents", ignore_errors=True)
    done = command("-m", "cluster.embed", "--run", str(run), "--actors", "2", "--rows", "1024")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


PLAIN = """
import sys, time
from pathlib import Path
import torch
from cllm.run import RunFolder
torch.set_num_threads(2)
run = RunFolder(Path(sys.argv[1])); model = run.load_model(); texts = run.load_corpus().texts
model.encode(texts[:64])
begun = time.perf_counter(); model.encode(texts); print(time.perf_counter() - begun)
"""


def _by_torch(run: Path) -> float:
    return float(command("-c", PLAIN, str(run), threads=2).stdout.split()[-1])


def peer(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Texts a second of `CLLM.encode`, over sentence-transformers' on the same encoder.

    A T5 encoder of the shipped base's size with random weights; theirs ends with a mean, ours
    goes on through the CLLM. Same texts, batch size and threads.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    from cllm.base import BaseLM
    from cllm.corpus import built_in_corpus
    from cllm.model import CLLM
    from cllm.run import SHIPPED

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "base")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=128, d_kv=32, num_heads=4, num_layers=2, d_ff=256,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    base = BaseLM(T5ForConditionalGeneration(config), tokenizer, "random T5")
    base.save(folder)
    words = Transformer(str(folder), max_seq_length=80)
    theirs = SentenceTransformer(modules=[words, Pooling(config.d_model)], device="cpu")
    ours = CLLM.from_base(base, context=80, dim=32)
    texts = list(built_in_corpus("plain", options.texts, 0).texts)
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for repeat in range(options.repeats + 1):
        sides = {
            "ours": lambda: ours.encode(texts, BATCH),
            "theirs": lambda: theirs.encode(texts, batch_size=BATCH),
        }
        for name, encode in in_turns(sides, repeat):
            begun = time.perf_counter()
            encode()
            rates[name] += [len(texts) / (time.perf_counter() - begun)] if repeat else []
        say(f"peer {repeat}: {rates}")
    return ratio(rates["ours"], rates["theirs"]) | {"texts_a_second": rates}


# ---- training --------------------------------------------------------------------------------


def train(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Tokens a second: Ray Train with DeepSpeed on two workers, over one process of two threads."""
    rates: dict[str, list[float]] = {"ray": [], "plain": []}
    for repeat in range(options.repeats):
        for name, (workers, threads) in in_turns({"ray": (2, 1), "plain": (0, 2)}, repeat):
            run = _to_train(folder / f"{name}-{repeat}", options.texts)
            command(
                "-m", "cluster.train", "--run", str(run), "--workers", str(workers),
                *_training(options.steps), threads=threads,
            )  # fmt: skip
            rates[name].append(_tokens_a_second(run))
            shutil.rmtree(run)
        say(f"train {repeat}: {rates}")
    return ratio(rates["ray"], rates["plain"]) | {"tokens_a_second": rates}


def _to_train(folder: Path, texts: int) -> Path:
    run = run_of(folder, texts)
    shutil.rmtree(run / "model")
    return run


def _training(steps: int) -> list[str]:
    changes = ("loop.evaluations=1", "loop.batch=64")
    return [
        "--preset", "quick", "--steps", str(steps),
        *(word for change in changes for word in ("--set", f"train.{change}")),
    ]  # fmt: skip


def _tokens_a_second(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(np.median([x["tokens_per_second"] for x in lines if "tokens_per_second" in x][1:]))


def resume(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of training that are done again after a kill, over the checkpoints' interval."""
    interval = 10.0
    run = _to_train(folder, options.texts)
    words = [
        sys.executable, "-m", "cluster.train", "--run", str(run), *_training(2 * options.steps),
        "--set", f"train.loop.checkpoint_seconds={interval}", "--set", "train.loop.report_every=1",
    ]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    log = (folder.parent / "resume.log").open("wb")
    driver = subprocess.Popen(words, env=env, stderr=log, stdout=log)
    kept = run / "training/ray/model/checkpoint_manager_snapshot.json"
    while not (kept.exists() and json.loads(kept.read_text())["checkpoint_results"]):
        if driver.poll() is not None:
            raise SystemExit(Path(log.name).read_text(errors="replace")[-3000:])
        time.sleep(0.2)
    time.sleep(0.7 * interval)
    driver.kill()
    driver.wait()
    name = json.loads(kept.read_text())["checkpoint_results"][-1]["checkpoint_dir_name"]
    progress = json.loads((kept.parent / name / "progress.json").read_text())
    lost = _steps_reached(kept.parent) - progress["step"]
    again = subprocess.run(words, env=env, text=True, capture_output=True)
    per_step = progress["seconds"] / progress["step"]
    return {
        "interval_seconds": interval, "repeated_steps": lost,
        "repeated_seconds": lost * per_step, "finished": again.returncode == 0,
    }  # fmt: skip


def _steps_reached(training: Path) -> int:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(training / "tensorboard")).Reload()
    return max(event.step for event in board.Scalars("loss"))


# ---- memory, Milvus ----------------------------------------------------------------------------


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The driver's resident memory while a million short texts are embedded, MiB."""
    import psutil
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = run_of(folder / "run", 1000, dim=8)
    texts = folder / "texts.parquet"
    with pq.ParquetWriter(texts, pa.schema([("id", pa.string()), ("text", pa.string())])) as file:
        for first in range(0, options.many, 50_000):
            rows = range(first, min(first + 50_000, options.many))
            file.write_table(pa.table({
                "id": [f"t{i}" for i in rows], "text": [f"leek soup {i}" for i in rows],
            }))  # fmt: skip
    driver = subprocess.Popen(
        [sys.executable, "-m", "cluster.embed", "--run", str(run), "--texts", str(texts),
         "--rows", "8192"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen: list[float] = []
    process = psutil.Process(driver.pid)
    while driver.poll() is None:
        try:
            seen.append(process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    told = json.loads((driver.communicate()[0] or "{}").splitlines()[-1])
    halves = np.array_split(np.array(seen), 2)
    return {
        "texts": told["rows"], "seconds": told["seconds"], "peak_mib": max(seen),
        "median_mib_by_half": [float(np.median(half)) for half in halves],
    }  # fmt: skip


def milvus(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rows a second into a Milvus server: the sink with two writers, over a bare loop."""
    from bench._milvus import filled

    rates = filled(options.texts, options.repeats, folder)
    return ratio(rates["sink"], rates["loop"]) | {"rows_a_second": rates}


# ---- what was planned ---------------------------------------------------------------------------


def planned(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What `cllm plan` says of one core of this machine, beside what that core does."""
    from bench._planned import beside
    from cllm.run import RunFolder

    run = _to_train(folder / "run", options.texts)
    words = ["-m", "cluster.train", "--run", str(run), "--workers", "0"]
    command(*words, *_training(options.steps))
    done = command("-c", PLAIN.replace("set_num_threads(2)", "set_num_threads(1)"), str(run))
    store = folder / "milvus.db"
    command("-m", "cluster.embed", "--run", str(run), "--milvus", str(store))
    embedded = options.texts / float(done.stdout.split()[-1])
    return beside(RunFolder(run), _tokens_a_second(run), embedded, store)


# ---- a GPU -------------------------------------------------------------------------------------


def gpu(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """CLLM over a T5-large-sized base with random weights in bfloat16, on this machine's GPUs."""
    from bench._gpu import measure

    return measure(options.steps, folder)


if __name__ == "__main__":
    main()
