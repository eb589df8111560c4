"""The one training loop: plain torch, no Ray; `cluster/` calls the same function.

It trains whatever a `Task` describes (base LLM, reference LM, CLLM), keeps the
best weights by held-out score, and can be stopped and continued exactly.
    best = fit(task, texts, LoopSettings(seconds=240), folder)
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cllm.batches import Batch, TokenTexts
from cllm.checkpoints import METRICS, Checkpoints, Folder, Place, Progress
from cllm.engines import Engine, halved, make_engine
from cllm.errors import WorkError
from cllm.files import replacing
from cllm.schedule import COOLING, learning_rate, rises_no_more
from cllm.settings import LoopSettings, ParallelSettings
from cllm.workers import ALONE, Workers

_GOES_ON = "the same command goes on from there"

Report = Callable[[dict[str, Any]], None]


class Task(Protocol):
    """What is trained, on what loss, and how well it does on held-out texts."""

    module: nn.Module
    identity: str  # of everything but loop settings and texts; a checkpoint remembers it
    enough: bool = False  # set by `score` where no more training is wanted
    mixed: bool = False  # whether batches have to be random parts of the texts, of any lengths

    def prepare(self, pieces: Sequence[Batch], step: int) -> None:  # noqa: ARG002 - few look
        """Look at all of this worker's part of a batch, before its pieces are gone through.

        Nothing is to be seen where a text's loss is its own.
        """
        return

    def losses(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """Scalars by name; "loss" is the one to go down. Of all parts of a batch they add up."""

    def score(self) -> float:
        """Held-out score; higher is better."""


@dataclass(frozen=True)
class Fit:
    """How a training ended."""

    steps: int
    seconds: float
    best_score: float
    best_step: int
    checkpoint: Place  # remove it once the result is safe
    plateau: bool = False  # the score rose no more


@dataclass(frozen=True)
class Spread:
    """How a training is spread: over which workers, with what means, and where it is kept."""

    settings: ParallelSettings = field(default_factory=ParallelSettings)
    workers: Workers = ALONE
    place: Place | None = None  # of checkpoints; none = the training's folder
    preempted: Callable[[], bool] = lambda: False  # the machine is about to be taken away
    report: Report | None = None  # gets each line of metrics, on every worker


@dataclass
class Meter:
    """Averages between two lines of metrics.jsonl."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    tokens: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, parts: Mapping[str, Tensor], tokens: int) -> None:
        """Count one step."""
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        self.steps += 1
        self.tokens += tokens

    def line(self, workers: Workers) -> dict[str, float]:
        """Means a step, and tokens/s; losses of all workers add up."""
        sums = workers.sum(torch.tensor([*self.sums.values()], device=workers.device))
        means = {
            name: total / self.steps for name, total in zip(self.sums, sums.tolist(), strict=True)
        }
        return means | {"tokens_per_second": self.tokens / (time.perf_counter() - self.since)}


def fit(
    task: Task,
    texts: TokenTexts,
    settings: LoopSettings,
    folder: Path,
    report: Report | None = None,
    resume: bool = True,
    spread: Spread | None = None,
) -> Fit:
    """Train to the end of the budget; leaves the best weights in `task.module`.

    `folder` receives metrics.jsonl, TensorBoard files and checkpoints. With `resume`, an
    unfinished run there with the same settings goes on at the step where it stopped.
    With several workers all call it, each with its own `spread`; the first one writes.

    Raises:
        WorkError: the loss is not finite (names the step and the texts), or the run was
            interrupted (a checkpoint is left behind).
        InputError: a batch is too small for the workers.
    """
    spread = spread or Spread()
    workers = spread.workers
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)  # dropout, where a base has it
    workers.align(task.module)
    engine = make_engine(task.module, settings, spread.settings, workers)
    place = spread.place or Folder(folder / "checkpoint", workers)
    metrics = folder / METRICS
    checkpoints = Checkpoints(place, settings, texts, task.identity, workers, metrics)
    if not resume:
        checkpoints.remove()
    progress = checkpoints.load(engine, task.module)
    if progress and workers.first:
        logging.getLogger(__name__).info("going on at step %d", progress.step)
    log = _Log(
        folder, (report if workers.first else None, spread.report),
        from_step=progress.step if progress else None, on=workers.first,
    )  # fmt: skip
    progress = progress or Progress()
    run = _Run(task, texts, settings, spread, engine, checkpoints, progress, log)
    try:
        with _signals() as stop:
            run.train(stop)
    finally:
        log.close()
    engine.release(progress.best)
    return Fit(
        progress.step, progress.seconds, progress.best_score, progress.best_step, place,
        bool(progress.plateau),
    )  # fmt: skip


def train_step(
    task: Task, pieces: Sequence[Batch], step: int, engine: Engine, lr: float
) -> dict[str, Tensor]:
    """Forward and backward of each piece of a batch, then one update; the summed losses.

    Raises:
        WorkError: the loss is not finite.
    """
    device = next(task.module.parameters()).device
    pieces = [piece.to(device) for piece in pieces]
    parts: dict[str, Tensor] = {}
    with halved(device):
        task.prepare(pieces, step)

    def losses(piece: Batch) -> Mapping[str, Tensor]:
        with halved(device):  # here, as DeepSpeed ends an autocast that began outside its forward
            return task.losses(piece, step)

    for piece in pieces:
        found = engine.forward(partial(losses, piece))
        _require_finite("loss", found["loss"], piece, step)
        engine.backward(found["loss"])
        for name, value in found.items():
            parts[name] = parts.get(name, 0.0) + value.detach()
    _require_finite("gradient", engine.update(lr), pieces[-1], step)
    return parts


def _require_finite(what: str, value: Tensor, batch: Batch, step: int) -> None:
    if not torch.isfinite(value):
        raise WorkError(
            f"the {what} is {float(value.detach())} at step {step}; texts of that batch: "
            f"{', '.join(batch.names)}; look at these texts, or train with a lower `lr` "
            "(such as --set train.loop.lr=1e-3)"
        )


class _Run:
    """State of one call of `fit`."""

    def __init__(
        self,
        task: Task,
        texts: TokenTexts,
        settings: LoopSettings,
        spread: Spread,
        engine: Engine,
        checkpoints: Checkpoints,
        progress: Progress,
        log: _Log,
    ) -> None:
        self.task, self.texts, self.settings, self.spread = task, texts, settings, spread
        self.engine, self.checkpoints = engine, checkpoints
        self.progress, self.log = progress, log
        self.meter = Meter()
        self.started = time.perf_counter() - progress.seconds
        self.saved = time.perf_counter()
        self.warned = False  # that the machine will be taken away

    @property
    def done(self) -> float:
        """Share of the budget used, 0..1; a plateau cuts the budget, so that the rate falls."""
        return min(1.0, self._spent * COOLING / (self.progress.plateau or COOLING))

    @property
    def _spent(self) -> float:
        seconds = self.settings.seconds
        by_time = self.progress.seconds / seconds if seconds else 0.0
        return max(self.progress.step / self.settings.steps, by_time)

    def train(self, stop: Stop) -> None:
        settings, progress, workers = self.settings, self.progress, self.spread.workers
        pieces = self.spread.settings.pieces
        for batch in self.texts.batches(
            settings.batch, settings.seed, progress.step, workers, pieces, self.task.mixed
        ):
            if self.done >= 1.0 or progress.enough or self.task.enough:
                break
            lr = learning_rate(settings, self.done)
            parts = train_step(self.task, batch, progress.step, self.engine, lr)
            progress.step += 1
            self.meter.add(parts, batch[0].whole.tokens)
            due = self._agree(stop)
            if progress.step % settings.report_every == 0:
                self.log.write(self._line(lr))
                self.meter = Meter()
            self._score_and_save(stop, due)
        if progress.scored_step != progress.step:
            self._score()
        self._save()  # to go on after it
        if stop.requested:
            raise WorkError(f"interrupted at the end of a training; {_GOES_ON}")

    def _agree(self, stop: Stop) -> bool:
        """All workers take the first one's clock, and stop together; whether to save is told."""
        now = time.perf_counter()
        due = now - self.saved > self.settings.checkpoint_seconds
        (seconds, late), stop.requested = self.spread.workers.agreed(
            [now - self.started, due], stop.requested
        )
        self.progress.seconds = seconds
        if self.progress.step % self.settings.report_every or self.warned:
            return bool(late)
        self.warned = self.spread.preempted()
        return bool(late) or self.warned

    def _score_and_save(self, stop: Stop, due: bool) -> None:
        if self.done * self.settings.evaluations >= self.progress.evaluations + 1:
            self._score()
        if stop.requested or due:
            self._save()
        if stop.requested:
            raise WorkError(
                f"interrupted at step {self.progress.step}; a checkpoint is in "
                f"{self.checkpoints.place}; {_GOES_ON}"
            )

    def _save(self) -> None:
        self.checkpoints.save(self.engine, self.task.module, self.progress)
        self.saved = time.perf_counter()

    def _score(self) -> None:
        """Held-out score; not counted as training time."""
        progress, begun = self.progress, time.perf_counter()
        with self.engine.whole():
            self.task.module.eval()
            score, enough = self.spread.workers.told([self.task.score(), self.task.enough])
            self.task.module.train()
        progress.scored_step = progress.step
        progress.enough = bool(enough)
        if score > progress.best_score:
            progress.best_score, progress.best_step = score, progress.step
            progress.best = self.engine.weights()
        if self.settings.plateau and not progress.plateau and self.done < COOLING:
            progress.scores.append((progress.step, progress.best_score))
            if rises_no_more(progress.scores, self.settings.plateau):
                progress.plateau = self._spent
        progress.evaluations = int(self.done * self.settings.evaluations)
        took = time.perf_counter() - begun
        self.started += took
        self.meter.since += took
        self.log.write({
            "step": progress.step, "seconds": progress.seconds, "validation_nats": -score,
            "budget": self.done,
        })  # fmt: skip

    def _line(self, lr: float) -> dict[str, Any]:
        epoch = self.progress.step / self.texts.steps_per_epoch(self.settings.batch)
        place = {"step": self.progress.step, "epoch": epoch, "seconds": self.progress.seconds}
        return place | self.meter.line(self.spread.workers) | {"lr": lr, "done": self.done}


class _Log:
    """metrics.jsonl and TensorBoard; a fresh run starts both anew, a resumed one goes on."""

    def __init__(
        self, folder: Path, reports: Sequence[Report | None], *, from_step: int | None, on: bool
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.on, self.reports = on, [report for report in reports if report]
        if not on:
            return
        path, board = folder / METRICS, folder / "tensorboard"
        if from_step is None:
            shutil.rmtree(board, ignore_errors=True)
        kept = _lines_up_to(path, from_step) if from_step is not None else ""
        with replacing(path) as new:
            new.write_text(kept)
        self.file = path.open("a")
        later = None if from_step is None else from_step + 1
        drawn = board.exists()
        self.board = SummaryWriter(str(board), purge_step=later)
        for line in [] if drawn else kept.splitlines():
            self._draw(json.loads(line))

    def write(self, line: dict[str, Any]) -> None:
        if self.on:
            self._write(line)
        for report in self.reports:
            report(line)

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise WorkError(
                f"cannot write {self.file.name}: {error.strerror}; free some disk space"
            ) from error
        self._draw(line)

    def _draw(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                self.board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        if self.on:
            self.file.close()
            self.board.close()


def _lines_up_to(path: Path, step: int) -> str:
    """What a killed run wrote after its last checkpoint is done again, and so dropped."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = (line for line in lines if line.endswith("\n"))
    return "".join(line for line in whole if json.loads(line)["step"] <= step)


@dataclass
class Stop:
    """Set when the user or the system asks the loop to end."""

    requested: bool = False


@contextmanager
def _signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM end the loop at the next step; a second Ctrl-C ends it at once."""
    stop = Stop()

    def ask(_number: int, _frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us handles signals
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
