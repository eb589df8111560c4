"""One trial of a sweep: train a CLLM with a point's settings, measure it on validation texts.

A trial has a run folder of its own, named by its settings: what was finished there is not done
again, and what was interrupted goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from cllm import discovery, pipeline
from cllm.arrays import TokenArrays
from cllm.clouds import uniformity
from cllm.errors import InputError
from cllm.evaluate import nats_without
from cllm.files import digest, read_json, write_json
from cllm.losses import text_nats
from cllm.metrics import bootstrap
from cllm.pretrain import held_out_texts, token_texts
from cllm.run import RunFolder, training_facts
from cllm.settings import RunSettings
from cllm.sphere import ExactIndex, prefix
from cllm.training import Spread
from cllm.training_texts import TrainingTexts
from cllm.unseen import notices
from cluster.tasks import Needs, told_error, told_of
from tune.objectives import of_part
from tune.space import Budget, Value

Report = Callable[[dict[str, Any]], None]
Train = Callable[[RunFolder, RunSettings, "Scores"], None]
Measure = Callable[[RunFolder, RunSettings, "Plan", "Shared"], dict[str, float]]

EVALUATED = 300  # validation texts that are restored
RESULT = "result.json"
METHOD = 4  # raised when a trial would be measured otherwise


@dataclass(frozen=True)
class Plan:
    """What is the same for all trials."""

    run: Path
    budget: Budget
    parts: tuple[str, ...]
    decodes: int  # an arm, where voids are measured
    workers: int = 0  # of Ray Train, for each trial; 0 = in the trial's own process
    weak: bool = False  # the base may restore less than it should
    made_of: str = ""  # which corpus, base and reference LM

    def folder(self, point: Mapping[str, Value]) -> RunFolder:
        """Of a trial; the same for the same settings."""
        settings = self.budget.settings(point)
        name = digest(settings.model_dump_json(), str(self.workers), self.made_of)
        return RunFolder(self.run / "tune" / "trials" / name)

    def checkpoints(self, folder: RunFolder) -> tuple[Path, Path]:
        """Where an interrupted trial's training lies: its own process's, and Ray Train's."""
        return folder.path / "training", self.run / "tune" / "ray" / folder.path.name

    @property
    def evaluations(self) -> int:
        """Held-out scores of a whole training."""
        return self.budget.settings({}).train.loop.evaluations

    @property
    def identity(self) -> str:
        """What a result was measured with."""
        return digest(*self.parts, str(self.decodes), str(METHOD))


@dataclass(frozen=True)
class Shared:
    """What trials share: token embeddings, and what held-out texts cost without a vector."""

    arrays: TokenArrays
    without_nats: float


def share(run: RunFolder, settings: list[RunSettings], room: float = float("inf")) -> Shared:
    """Work out once what all trials need; `settings`: those that differ in what is trained on.

    InputError: token embeddings take more than `room` bytes.
    """
    base, corpus = run.load_base(), run.load_corpus()
    limit = run.notes()["base"]["context"]
    several = [TrainingTexts.of(base, corpus, one.train, limit) for one in settings]
    context = several[0].context
    everything = [token_texts(base, corpus, context), *(texts.both for texts in several)]
    reference = run.find_reference(base)
    held_out = held_out_texts(base, corpus, context)
    entropy = corpus.info.get("entropy_nats")
    costs = [] if reference is None else [float(reference.nats(held_out).mean())]
    costs += [] if entropy is None else [float(entropy)]
    try:
        arrays = TokenArrays.of(base, everything, room=room)
    except InputError as error:
        raise InputError(
            f"{error}; search with a part of the texts, or start Ray with a larger "
            "--object-store-memory"
        ) from error
    return Shared(arrays, min(costs, default=0.0))


def share_by_task(run: RunFolder, settings: Iterable[RunSettings], needs: Needs) -> list[Any]:
    """References to the two parts of `Shared`, worked out by a worker of a cluster, once.

    InputError, WorkError: the work's own, or some node does not see the run folder.
    """
    import ray

    from cluster.joining import require_seen, smallest_store

    require_seen(str(run.path))
    different = {(s.train.swaps, s.train.swaps and s.seed): s for s in settings}
    task = ray.remote(**needs.options, num_returns=3)(_shared_parts)
    *parts, error = task.remote(run, list(different.values()), smallest_store())
    if told := ray.get(error):
        raise told_error(*told)
    return parts


def _shared_parts(
    run: RunFolder, settings: list[RunSettings], room: float
) -> tuple[TokenArrays, float, None] | tuple[None, None, tuple[int, str]]:
    shared, error = told_of(share, run, settings, room)
    return (shared.arrays, shared.without_nats, None) if shared else (None, None, error)


def run_trial(
    point: Mapping[str, Value], plan: Plan, shared: Shared, report: Report,
    train: Train | None = None, measured: Measure | None = None, begun: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train and measure; every held-out score is reported, and at the end all that was measured.

    `train` and `measured` do so elsewhere. One that was finished before is told again, score by
    score, as `cached`.
    """
    folder = plan.folder(point)
    folder.path.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.path / "lock"):  # a search may try a point twice, and at once
        return _in_folder(folder, point, plan, shared, report, train, measured, begun)


def _in_folder(
    folder: RunFolder, point: Mapping[str, Value], plan: Plan, shared: Shared, report: Report,
    train: Train | None, measured: Measure | None, begun: float | None,
) -> dict[str, Any]:  # fmt: skip
    kept, settings = folder.path / RESULT, plan.budget.settings(point)
    evaluations = settings.train.loop.evaluations
    cached = {"cached": True} if folder.model.is_dir() else {}  # trained before, for these settings
    goes_on = any(place.exists() for place in plan.checkpoints(folder))
    begun = begun or time.time()
    scores = Scores(evaluations, shared.without_nats, None if cached or goes_on else begun)
    for line in folder.metrics() if cached else ():
        scores.to(lambda told: report(told | cached), line)
    if kept.exists() and read_json(kept)["identity"] == plan.identity:
        result = read_json(kept)["result"] | cached
        report(result)
        return dict(result)
    RunFolder(plan.run).branch(folder.path)
    if cached:
        folder.note("model", training_facts(folder.model))
    elif train:
        train(folder, settings, scores)
    else:
        spread = Spread(settings.parallel, report=lambda line: scores.to(report, line))
        pipeline.train_model(
            folder, settings, allow_weak=plan.weak, reuse=True, spread=spread, known=shared.arrays
        )
    trained = time.time()
    result = (measured or measure)(folder, settings, plan, shared) | {
        "evaluation": scores.evaluations, "folder": str(folder.path),
        "train_seconds": trained - begun, "measure_seconds": time.time() - trained,
    } | scores.overhead | ({"went_on": True} if goes_on else {})  # fmt: skip
    write_json(kept, {"identity": plan.identity, "result": result})
    report(result | cached)
    return result | cached


class Scores:
    """Turns a training's lines into reports: its held-out gain, evaluation by evaluation."""

    def __init__(self, evaluations: int, without_nats: float, started: float | None = None) -> None:
        self.evaluations, self.without_nats, self.started = evaluations, without_nats, started
        self.overhead: dict[str, float] = {}  # seconds until the first step

    def told(self, line: Mapping[str, Any]) -> Iterator[dict[str, float]]:
        """The report that a line of metrics.jsonl comes to, if any."""
        if not self.overhead and self.started is not None and "seconds" in line:
            self.overhead = {"start_seconds": time.time() - line["seconds"] - self.started}
        if "validation_nats" not in line:
            return
        number = int(line["budget"] * self.evaluations + 1e-9)
        if number < self.evaluations:  # the last one comes with all that is measured
            gain = self.without_nats - line["validation_nats"]
            yield {"evaluation": max(1, number), "gain_nats": gain} | self.overhead

    def to(self, report: Report, line: Mapping[str, Any]) -> None:
        """Report it."""
        for told in self.told(line):
            report(told)


def measure(
    folder: RunFolder, settings: RunSettings, plan: Plan, shared: Shared
) -> dict[str, float]:
    """Objectives of a trained model, on validation texts only; what has no value is absent."""
    model, corpus = folder.load_model(), folder.load_corpus()
    model.base.known = shared.arrays
    pipeline.write_latents(folder, model, corpus)
    train_ND = folder.load_latents(model).select("train").vectors_ND
    k, rng = int(model.config.void_dim), np.random.default_rng([settings.seed, 13])
    held_out = held_out_texts(model.base, corpus, model.config.context)
    reference = folder.find_reference(model.base)
    without_N = nats_without(model, reference, held_out, corpus.info.get("entropy_nats"))
    found: dict[str, float | None] = {
        "dim": model.config.dim, "void_dim": k,
        "steps": folder.notes()["model"]["steps"],
        "variance": train_ND.var(0).sum(),
        "uniformity": uniformity(ExactIndex(prefix(train_ND, k)), rng),
        "auroc": notices(model, corpus, train_ND, k, rng),
    }  # fmt: skip
    gain = bootstrap(without_N - text_nats(model, held_out), rng)
    found |= {"gain_nats": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
    found["nats_per_dim"] = gain.mean / model.config.dim
    if "texts" in plan.parts:
        told = discovery.evaluate_run(
            folder, settings.seed, EVALUATED, "validation", known=shared.arrays
        ).numbers
        found |= {name: told.get(name) for name in of_part("texts")}
    if "voids" in plan.parts:
        found |= void_facts(folder, settings.seed, plan.decodes, quick=True)
    shutil.rmtree(folder.latents)  # large, and made again in seconds
    return {name: float(value) for name, value in found.items() if value is not None}


def void_facts(
    folder: RunFolder, seed: int, decodes: int, *, quick: bool
) -> dict[str, float | None]:
    """Voids of a model whose latents are there, and what the arm that writes from them comes to."""
    discovery.search_voids(folder, seed, quick=quick)
    discovery.write_ideas(folder, seed, decodes, controls=False)
    voids, arm = folder.notes()["voids"], folder.notes()["ideas"].get("void", {})
    sampled = arm.get("sampled", 0)
    valid_low, valid_high = arm.get("valid_ci", (None, None))
    return {
        "radius_ratio": voids.get("radius_ratio"), "p_value": voids.get("p_value"),
        "voids": voids["count"], "void_texts": sampled, "yield": arm.get("yield"),
        "valid": arm["valid"] / sampled if sampled else None,
        "valid_low": valid_low, "valid_high": valid_high,
        "void_new": round(arm.get("yield", 0.0) * sampled), "withheld": arm.get("withheld"),
    }  # fmt: skip
