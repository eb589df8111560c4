"""Train a run's CLLM on a Ray cluster: the library's loop on every worker, DeepSpeed below it.

    python -m cluster.train --run s3://bucket/runs/mine --workers 8 --gpu --set parallel.zero=2

`--workers 0` trains in this process. Killed at any point, the same command goes on from the
last checkpoint in --storage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pyarrow import fs

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError, WorkError
from cllm.run import RunFolder
from cllm.settings import RunSettings
from cluster.remote import fetched, give_back, is_there, lasting, reached
from cluster.tasks import Needs, told_error

if TYPE_CHECKING:
    from cllm.checkpoints import Progress
    from cllm.workers import Workers

Made = TypeVar("Made")

NEEDED = ("corpus.parquet", "base", "report.json")
PLACED_SECONDS = 60.0  # that Ray Train waits for workers to be placed, by default
POLL_SECONDS = "0.25"  # Ray looks for reports so often, and a worker waits until its own is seen
TIMEOUT = 600.0
MADE = ("model", "metrics.jsonl", "tensorboard", "report.json")


@dataclass(frozen=True)
class Means:
    """What a training gets of the cluster."""

    workers: int
    gpu: bool
    cpus: float  # of a worker
    storage: str  # of checkpoints; all nodes see it
    name: str  # the same one goes on
    retries: int
    wait: float  # seconds for nodes to come
    timeout: float  # seconds that a worker waits for the others
    track: str  # an MLflow server, or ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, leave `model/` in the run folder, print its facts."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        from cllm.train_distributed import settings_of
        from cluster.joining import joined

        settings, means = settings_of(options), means_of(options)
        if means.workers == 0:
            facts = alone(lasting(options.run), settings)
        else:
            with joined(options.address):
                facts = train(lasting(options.run), settings, means)
        print(json.dumps(facts))


def parser() -> argparse.ArgumentParser:
    """What is trained, as in `cllm.train_distributed`, and on what."""
    from cllm.train_distributed import parser as what

    p = argparse.ArgumentParser(
        prog="cluster.train", description=(__doc__ or "").split("\n")[0], parents=[what(help=False)]
    )
    p.add_argument("--address", help="of the cluster; without it: the job's, else this machine")
    p.add_argument("--workers", type=int, default=2, help="0 = in this process")
    p.add_argument("--gpu", action="store_true", help="one GPU a worker")
    p.add_argument("--cpus", type=float, default=1, help="of a worker")
    p.add_argument("--storage", help="folder or URL for checkpoints; [default: RUN/training/ray]")
    p.add_argument("--name", default="model", help="of the training; the same one goes on")
    p.add_argument("--retries", type=int, default=3, help="after a worker or node is lost")
    p.add_argument("--wait", type=float, default=30, help="seconds for missing nodes to come")
    p.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds that a worker waits "
                   "for the others, before the training starts again")  # fmt: skip
    p.add_argument("--mlflow", default="", help="tracking URI; needs mlflow installed")
    return p


def means_of(options: argparse.Namespace) -> Means:
    """The means that the options come to, places absolute."""
    o = options
    if o.workers < 0:
        raise InputError(f"--workers is {o.workers}; it must be 0 (this process) or more")
    storage = lasting(o.storage or f"{o.run}/training/ray")
    return Means(
        o.workers, o.gpu, o.cpus, storage, o.name, o.retries, o.wait, o.timeout, o.mlflow
    )  # fmt: skip


def alone(run: str, settings: RunSettings) -> dict[str, Any]:
    """Train in this process; the model's facts."""
    from cllm import pipeline

    folder = fetched(run, NEEDED)
    pipeline.train_model(folder, settings, reuse=True)
    give_back(folder, run, _made(folder))
    return dict(folder.notes()["model"])


def train(
    run: str, settings: RunSettings, means: Means,
    also: Sequence[Any] = (), known: Any = None,  # noqa: ANN401 - callbacks of Ray, its reference
) -> dict[str, Any]:  # fmt: skip
    """Train over the workers of a cluster that was joined; the model's facts.

    `also` are callbacks of Ray Train; `known` refers to token embeddings that all workers share.

    Raises:
        InputError: resources are missing, or a node does not see the storage or another base.
        WorkError: it failed more often than it may be tried again.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_SECONDS)
    placed = str(max(PLACED_SECONDS, means.wait))  # time for a machine that replaces a lost one
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", placed)
    import ray
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    from cluster.joining import on_this_node, require, require_seen
    from cluster.network import Reachable
    from cluster.tracking import tracking

    if settings.parallel.zero is None and means.workers > 1:
        changed = settings.parallel.model_copy(update={"zero": 0})  # fastest, where it fits
        settings = settings.model_copy(update={"parallel": changed})
    each = Needs(means.cpus, means.gpu).resources
    require(each, means.workers, f"{means.workers} workers", means.wait)
    callbacks = tracking(means.storage, means.name, means.track)
    require_seen(means.storage)
    verdict = on_this_node(Verdict)
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "run": run,
            "settings": settings.model_dump_json(),
            "storage": means.storage,
            "name": means.name,
            "verdict": verdict,
            "known": known,
        },
        torch_config=Reachable(
            backend="nccl" if means.gpu else "gloo", timeout_s=int(means.timeout)
        ),
        scaling_config=ray_train.ScalingConfig(
            num_workers=means.workers, use_gpu=means.gpu, resources_per_worker=each
        ),
        run_config=ray_train.RunConfig(
            name=means.name,
            storage_path=means.storage,
            failure_config=ray_train.FailureConfig(
                max_failures=means.retries, controller_failure_limit=means.retries
            ),
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=2),
            callbacks=[*callbacks, *also],
            worker_runtime_env={"env_vars": _worker_variables(means)},
        ),
    )
    try:
        told = trainer.fit().return_value
        told = ray.get(verdict.said.remote()) or told
    except ray_train.TrainingFailedError as error:
        told = ray.get(verdict.said.remote())
        if told is None:
            raise WorkError(_failed(error, means)) from error
    if "error" in told:
        raise told_error(told["status"], told["error"])
    _forget_checkpoints(f"{means.storage}/{means.name}")
    return dict(told)


def _forget_checkpoints(place: str) -> None:
    """A training that is done is not to be gone on with; its TensorBoard files stay."""
    system, path = reached(place)
    for file in system.get_file_info(fs.FileSelector(path)):
        if file.base_name.startswith("checkpoint_"):
            is_folder = file.type == fs.FileType.Directory
            (system.delete_dir if is_folder else system.delete_file)(file.path)


def _worker_variables(means: Means) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(max(1, int(means.cpus)))}
    return threads | ({} if means.gpu else {"DS_ACCELERATOR": "cpu"})


def _failed(error: Exception, means: Means) -> str:
    reason = " ".join(str(error).split())
    return (
        f"the training failed, after up to {means.retries} retries ({reason[-300:]}); its last "
        f"checkpoint is in {means.storage}/{means.name}, and the same command goes on from there"
    )


# ---- on the workers ----------------------------------------------------------------------


class Verdict:
    """What went wrong for good on some worker, for those that begin after it."""

    def __init__(self) -> None:
        self._told: dict[str, Any] | None = None

    def say(self, error: str, status: int) -> None:
        """The first one counts."""
        self._told = self._told or {"error": error, "status": status}

    def said(self) -> dict[str, Any] | None:
        """None while all is well."""
        return self._told


def work(config: dict[str, Any]) -> dict[str, Any]:
    """One worker's part; what went wrong for good is told and not tried again.

    What is wrong with the input all workers find at once, and return. In the midst of the work one
    may fail alone while others wait for it: it raises, whereupon Ray ends and begins them all.
    """
    import ray

    verdict = config["verdict"]
    if ray.get(verdict.said.remote()):
        return {}
    try:
        return _train(config)
    except InputError as error:
        ray.get(verdict.say.remote(str(error), error.exit_status))
        return {}
    except WorkError as error:
        ray.get(verdict.say.remote(str(error), error.exit_status))
        raise


def _train(config: dict[str, Any]) -> dict[str, Any]:
    set_up_logging()  # before what it quietens is imported
    import ray.train

    from cllm import pipeline
    from cllm.training import Spread
    from cllm.workers import Workers

    workers = Workers.here()
    settings = RunSettings.model_validate_json(config["settings"])
    run = _together(lambda: _own_copy(config["run"]), workers, config["verdict"])
    try:
        _require_same_base(run, workers, config["verdict"])
        spread = Spread(
            settings.parallel, workers, Reported(f"{config['storage']}/{config['name']}"),
            preempted=_preempted, report=lambda line: ray.train.report(line),
        )  # fmt: skip
        known = ray.get(config["known"]) if config["known"] is not None else None
        pipeline.train_model(run, settings, reuse=True, spread=spread, known=known)
        if workers.first:
            give_back(run, config["run"], _made(run))
            return dict(run.notes()["model"])
        return {}
    finally:
        shutil.rmtree(run.path)


def _together(make: Callable[[], Made], workers: Workers, verdict: Any) -> Made:  # noqa: ANN401
    """What `make` gives, or an error on all workers: one that fails alone would be waited for."""
    import ray

    failed: InputError | WorkError | None = None
    try:
        made = make()
    except (InputError, WorkError) as error:
        failed = error
        ray.get(verdict.say.remote(str(error), error.exit_status))
    if workers.any(failed is not None):
        raise failed or InputError("another worker cannot begin; its own line says why")
    return made


def _own_copy(place: str) -> RunFolder:
    """What training needs, in a folder of this worker's own, so that none gets in another's way."""
    source = fetched(place, NEEDED)
    own = source.branch(Path(tempfile.mkdtemp(prefix="cllm-")))
    shutil.copy(source.report, own.report)  # whole, as it goes back
    if is_there(f"{place}/model"):  # it may be the very one that is to be trained
        shutil.copytree(fetched(place, ("model",)).model, own.model)
    return own


def _made(run: RunFolder) -> list[str]:
    """What a training has left; no metrics where it found a finished model."""
    return [name for name in MADE if (run.path / name).exists()]


def _require_same_base(run: RunFolder, workers: Workers, verdict: Any) -> None:  # noqa: ANN401
    mine = int(_together(run.load_base, workers, verdict).hash[:12], 16)
    if workers.any(mine != int(workers.told([mine])[0])):
        raise InputError(
            f"the base LLM in {run.base} differs between nodes; give every node the same run folder"
        )


def _preempted() -> bool:
    """Whether a node of ours is about to be taken away; all workers ask at the same step."""
    import ray.train

    return ray.train.get_preemption_info() is not None


class Reported:
    """Checkpoints that are reported to Ray Train, which keeps them in its storage."""

    shared = False

    def __init__(self, storage: str) -> None:
        self.storage = storage

    def __str__(self) -> str:
        return self.storage

    def room(self, step: int) -> Path:
        """A folder of this worker's; Ray joins the folders of all into one."""
        return Path(tempfile.mkdtemp(prefix=f"step-{step:09d}-"))

    def keep(self, room: Path, progress: Progress) -> None:
        """Report it."""
        import ray.train

        checkpoint = ray.train.Checkpoint.from_directory(str(room))
        ray.train.report({"step": progress.step}, checkpoint=checkpoint)
        shutil.rmtree(room, ignore_errors=True)

    def found(self) -> Iterator[Path]:
        """Newest first: where they lie, or a copy of this worker's own.

        Not `Checkpoint.to_directory`, by which workers of one node overwrite each other's copy.
        """
        import ray.train

        for one in reversed(ray.train.get_all_reported_checkpoints()):
            system, path = one.checkpoint.filesystem, one.checkpoint.path
            if isinstance(system, fs.LocalFileSystem):
                yield Path(path)
                continue
            with tempfile.TemporaryDirectory(prefix="cllm-checkpoint-") as copy:
                fs.copy_files(path, copy, source_filesystem=system)
                yield Path(copy)

    def remove(self) -> None:
        """They stay until the run's storage is deleted."""


if __name__ == "__main__":
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    main()
