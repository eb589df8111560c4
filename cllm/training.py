"""The one training loop: plain torch, no Ray; `cluster/` calls the same function.

It trains whatever a `Task` describes (base LLM, reference LM, CLLM), keeps the
best weights by held-out score, and can be stopped and continued exactly.
    best = fit(task, texts, LoopSettings(seconds=240), folder)
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cllm.batches import Batch, TokenTexts
from cllm.checkpoints import Checkpoint, Progress
from cllm.errors import WorkError
from cllm.files import replacing
from cllm.settings import LoopSettings

_GOES_ON = "the same command goes on from there"


class Task(Protocol):
    """What is trained, on what loss, and how well it does on held-out texts."""

    module: nn.Module
    identity: str  # of everything but loop settings and texts; a checkpoint remembers it
    enough: bool  # set by `score` where no more training is wanted

    def losses(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """Scalars by name; "loss" is the one to go down."""

    def score(self) -> float:
        """Held-out score; higher is better."""


@dataclass(frozen=True)
class Fit:
    """How a training ended."""

    steps: int
    seconds: float
    best_score: float
    best_step: int
    checkpoint: Checkpoint  # remove it once the result is safe


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

    def line(self) -> dict[str, float]:
        """Means a step, and tokens/s."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        return means | {"tokens_per_second": self.tokens / (time.perf_counter() - self.since)}


Report = Callable[[dict[str, Any]], None]


def fit(
    task: Task,
    texts: TokenTexts,
    settings: LoopSettings,
    folder: Path,
    report: Report | None = None,
    resume: bool = True,
) -> Fit:
    """Train to the end of the budget; leaves the best weights in `task.module`.

    `folder` receives metrics.jsonl, TensorBoard files and checkpoints. With `resume`, an
    unfinished run there with the same settings goes on at the step where it stopped.

    Raises:
        WorkError: the loss is not finite (names the step and the texts), or the run was
            interrupted (a checkpoint is left behind).
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)  # dropout, where a base has it
    optimizer = make_optimizer(task.module, settings)
    checkpoint = Checkpoint(folder / "checkpoint", settings, texts, task.identity)
    progress = checkpoint.load(task.module, optimizer) if resume else None
    if progress:
        logging.getLogger(__name__).info("going on at step %d", progress.step)
    log = _Log(folder, report, from_step=progress.step if progress else None)
    progress = progress or Progress()
    run = _Run(task, texts, settings, optimizer, checkpoint, progress, log)
    try:
        with _signals() as stop:
            run.train(stop)
    finally:
        log.close()
    checkpoint.load_best(task.module)
    return Fit(progress.step, progress.seconds, progress.best_score, progress.best_step, checkpoint)


def make_optimizer(module: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and other one-dimensional weights."""
    weights = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)


def learning_rate(settings: LoopSettings, done: float) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak; `done` is the share trained, 0..1."""
    if done < settings.warmup:
        return settings.lr * (0.02 + 0.98 * done / settings.warmup)
    falling = (done - settings.warmup) / (1 - settings.warmup)
    return settings.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(falling, 1.0))))


def train_step(
    task: Task, batch: Batch, step: int, optimizer: torch.optim.Optimizer, clip: float
) -> Mapping[str, Tensor]:
    """One forward, backward and update.

    Raises:
        WorkError: the loss is not finite.
    """
    device = batch.ids_BT.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        parts = task.losses(batch, step)
    loss = parts["loss"]
    _require_finite("loss", loss, batch, step)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(task.module.parameters(), clip)
    _require_finite("gradient", norm, batch, step)
    optimizer.step()
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
        optimizer: torch.optim.AdamW,
        checkpoint: Checkpoint,
        progress: Progress,
        log: _Log,
    ) -> None:
        self.task, self.texts, self.settings = task, texts, settings
        self.optimizer, self.checkpoint = optimizer, checkpoint
        self.progress, self.log = progress, log
        self.meter = Meter()
        self.started = time.perf_counter() - progress.seconds
        self.saved = time.perf_counter()

    @property
    def done(self) -> float:
        """Share of the budget used, 0..1."""
        seconds = self.settings.seconds
        by_time = self.progress.seconds / seconds if seconds else 0.0
        return min(1.0, max(self.progress.step / self.settings.steps, by_time))

    def train(self, stop: Stop) -> None:
        settings, progress = self.settings, self.progress
        device = next(self.task.module.parameters()).device
        for batch in self.texts.batches(settings.batch, settings.seed, progress.step):
            if self.done >= 1.0 or progress.enough or self.task.enough:
                break
            lr = learning_rate(settings, self.done)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            parts = train_step(
                self.task, batch.to(device), progress.step, self.optimizer, settings.clip
            )
            progress.step += 1
            progress.seconds = time.perf_counter() - self.started
            self.meter.add(parts, int(batch.mask_BT.sum()))
            if progress.step % settings.report_every == 0:
                self.log.write(self._line(lr))
                self.meter = Meter()
            self._score_and_save(stop)
        if progress.scored_step != progress.step:
            self._score()
        self.checkpoint.save(self.task.module, self.optimizer, progress)  # to go on after it
        if stop.requested:
            raise WorkError(f"interrupted at the end of a training; {_GOES_ON}")

    def _score_and_save(self, stop: Stop) -> None:
        if self.done * self.settings.evaluations >= self.progress.evaluations + 1:
            self._score()
        stopping = stop.requested
        if stopping or time.perf_counter() - self.saved > self.settings.checkpoint_seconds:
            self.checkpoint.save(self.task.module, self.optimizer, self.progress)
            self.saved = time.perf_counter()
        if stopping:
            raise WorkError(
                f"interrupted at step {self.progress.step}; a checkpoint is in "
                f"{self.checkpoint.folder}; {_GOES_ON}"
            )

    def _score(self) -> None:
        """Held-out score; not counted as training time."""
        progress, begun = self.progress, time.perf_counter()
        self.task.module.eval()
        score = self.task.score()
        self.task.module.train()
        progress.evaluations = int(self.done * self.settings.evaluations)
        progress.scored_step = progress.step
        progress.enough = self.task.enough
        if score > progress.best_score:
            progress.best_score, progress.best_step = score, progress.step
            self.checkpoint.save_best(self.task.module)
        took = time.perf_counter() - begun
        self.started += took
        self.meter.since += took
        self.log.write(
            {"step": progress.step, "seconds": progress.seconds, "validation_nats": -score}
        )

    def _line(self, lr: float) -> dict[str, Any]:
        epoch = self.progress.step / self.texts.steps_per_epoch(self.settings.batch)
        place = {"step": self.progress.step, "epoch": epoch, "seconds": self.progress.seconds}
        return place | self.meter.line() | {"lr": lr, "done": self.done}


class _Log:
    """metrics.jsonl and TensorBoard; a fresh run starts both anew, a resumed one goes on."""

    def __init__(self, folder: Path, report: Report | None, *, from_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path, board = folder / "metrics.jsonl", folder / "tensorboard"
        if from_step is None:
            shutil.rmtree(board, ignore_errors=True)
        kept = _lines_up_to(path, from_step) if from_step is not None else ""
        with replacing(path) as new:
            new.write_text(kept)
        self.file = path.open("a")
        later = None if from_step is None else from_step + 1
        self.board = SummaryWriter(str(board), purge_step=later)
        self.report = report

    def write(self, line: dict[str, Any]) -> None:
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise WorkError(
                f"cannot write {self.file.name}: {error.strerror}; free some disk space"
            ) from error
        for name, value in line.items():
            if name != "step":
                self.board.add_scalar(name, value, line["step"])
        if self.report:
            self.report(line)

    def close(self) -> None:
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
