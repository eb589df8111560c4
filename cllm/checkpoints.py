"""Checkpoints of a training that continue it exactly, and survive what happens to a machine.

Each is a folder: every worker's weights and moments, its random state, the best weights so far
as a model folder, and a list of all files with their digests, written last. Two are kept; a
damaged one is passed over.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from cllm.batches import TokenTexts
from cllm.engines import Engine, Weights
from cllm.errors import InputError, WorkError
from cllm.files import digest, file_digest, flush, read_json, writing
from cllm.settings import LoopSettings
from cllm.workers import Workers

log = logging.getLogger(__name__)

_DAMAGE = (OSError, ValueError, RuntimeError, SafetensorError, KeyError, TypeError)
KEPT = 2  # the newest and, should it be damaged, the one before
NOTE, BEST, METRICS = "progress.json", "best", "metrics.jsonl"


@dataclass
class Progress:
    """Where a training is. `seconds` counts training only, not scoring."""

    step: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    scored_step: int = -1
    best_score: float = float("-inf")
    best_step: int = -1
    enough: bool = False  # the task said so
    plateau: float = 0.0  # share of the budget at which the score was found to rise no more
    scores: list[tuple[int, float]] = field(default_factory=list)  # (step, best held-out score)
    best: Weights = field(default_factory=dict, repr=False)

    def note(self) -> dict[str, Any]:
        """What is written down of it: all but weights."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "best"}


class Place(Protocol):
    """Where checkpoints lie; all workers call all of it but `found`."""

    shared: bool  # all workers write into the same room

    def room(self, step: int) -> Path:
        """An empty folder to write a checkpoint into."""

    def keep(self, room: Path, progress: Progress) -> None:
        """The room is complete: make it the newest checkpoint."""

    def found(self) -> Iterator[Path]:
        """The checkpoints there are, newest first."""

    def remove(self) -> None:
        """Delete them all."""


class Folder:
    """Checkpoints in a folder that all workers see."""

    shared = True

    def __init__(self, path: Path, workers: Workers) -> None:
        self.path, self.workers = path, workers

    def __str__(self) -> str:
        return str(self.path)

    def room(self, step: int) -> Path:
        """A hidden folder beside the others."""
        room = self.path / f".step-{step:09d}"
        if self.workers.first:
            for left in self.path.glob(".step-*"):  # by a process that was killed
                shutil.rmtree(left)
            room.mkdir(parents=True)
        self.workers.wait()
        return room

    def keep(self, room: Path, progress: Progress) -> None:
        """Give it its name, and drop all but the last few."""
        del progress
        if self.workers.first:
            named = room.with_name(room.name[1:])
            shutil.rmtree(named, ignore_errors=True)  # of a run that went back behind it
            room.rename(named)
            for old in list(self.found())[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        self.workers.wait()

    def found(self) -> Iterator[Path]:
        """Newest first."""
        yield from sorted(self.path.glob("step-*"), reverse=True)

    def remove(self) -> None:
        """Delete the folder."""
        if self.workers.first:
            shutil.rmtree(self.path, ignore_errors=True)


class Checkpoints:
    """The checkpoints of one training, recognised by its settings, texts and task."""

    def __init__(
        self, place: Place, settings: LoopSettings, texts: TokenTexts, task: str, workers: Workers,
        metrics: Path,
    ) -> None:  # fmt: skip
        self.place, self.workers, self.metrics = place, workers, metrics
        same = settings.model_dump_json(
            include={"batch", "lr", "weight_decay", "clip", "seed", "plateau"}
        )
        self.identity = digest(task, same, *texts.names, *(row.tobytes() for row in texts.rows))

    def save(self, engine: Engine, module: nn.Module, progress: Progress) -> None:
        """Write the newest state; the ones before stay until it is complete.

        Raises:
            WorkError: the disk is full or cannot be written.
        """
        first, rank = self.workers.first, self.workers.rank
        with writing(self.place):
            room = self.place.room(progress.step)
            engine.save(room)
            best = progress.best or engine.weights()
            save_file(_random_state(), room / f"random-{rank}.safetensors")
            if first:
                save_folder(room / BEST, module, best)
                note = {"identity": self.identity, "workers": self.workers.count}
                (room / NOTE).write_text(json.dumps(note | progress.note()))
                if self.metrics.exists():  # for a worker that begins elsewhere
                    shutil.copyfile(self.metrics, room / METRICS)
            if self.place.shared:
                self.workers.wait()
            if first or not self.place.shared:  # who sees files answers for them
                files = [file for file in sorted(room.rglob("*")) if file.is_file()]
                flush(room)
                listed = {str(file.relative_to(room)): file_digest(file) for file in files}
                (room / f"files-{rank}.json").write_text(json.dumps(listed))
            self.place.keep(room, progress)

    def load(self, engine: Engine, module: nn.Module) -> Progress | None:
        """Put back the newest state that is whole; None where there is none.

        Raises:
            InputError: it belongs to a training with other settings, texts, or workers.
            WorkError: none is whole.
        """
        damage = ""
        for path in self.place.found():
            reason = self._damage(path)
            if not self.workers.any(bool(reason)):
                return self._put_back(path, engine, module)
            damage = f"checkpoint {path} is damaged ({reason or 'another worker says so'})"
            log.warning("%s; going on from the one before", damage)
        if damage:
            raise WorkError(f"{damage}; delete {self.place} to start the training anew")
        return None

    def remove(self) -> None:
        """Delete them all."""
        self.place.remove()

    def _damage(self, path: Path) -> str:
        """What is wrong with the files that this worker answers for; "" where nothing is."""
        try:
            writers = int(read_json(path / NOTE)["workers"])
            alone = self.place.shared or self.workers.rank >= writers
            rank = 0 if alone else self.workers.rank
            for name, wanted in read_json(path / f"files-{rank}.json").items():
                if file_digest(path / name) != wanted:
                    return f"{name} is not what was written"
        except (OSError, InputError, KeyError, ValueError, TypeError) as error:
            return str(error).partition(";")[0] or type(error).__name__
        return ""

    def _require_same(self, path: Path, note: dict[str, Any]) -> None:
        if note["identity"] != self.identity:
            raise InputError(
                f"an unfinished training with other settings or texts lies in {self.place}; "
                "finish it with the command that began it, or delete that folder"
            )
        if note["workers"] != self.workers.count:
            raise InputError(
                f"{path} was written by {note['workers']} workers, and its shards fit no other "
                f"number; go on with {note['workers']}, or delete {self.place} to start the "
                "training anew"
            )

    def _put_back(self, path: Path, engine: Engine, module: nn.Module) -> Progress:
        note = read_json(path / NOTE)
        self._require_same(path, note)
        del note["identity"], note["workers"]
        try:
            engine.load(path)
            state = load_file(path / f"random-{self.workers.rank}.safetensors")
            best = load_file(path / BEST / "model.safetensors")
        except _DAMAGE as error:
            raise WorkError(
                f"checkpoint {path} cannot be loaded ({error}); delete it to go on from the one "
                "before"
            ) from error
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        if self.workers.first and not self.metrics.exists() and (path / METRICS).exists():
            shutil.copyfile(path / METRICS, self.metrics)
        trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
        best = {name: weight for name, weight in best.items() if name in trained}
        return Progress(**note, best=best if note["best_step"] >= 0 else {})


def save_folder(folder: Path, module: nn.Module, weights: Weights) -> None:
    """A module with these weights as `save_pretrained` writes it, where it is of that kind."""
    buffers = {
        name: buffer.detach().to("cpu").contiguous() for name, buffer in module.named_buffers()
    }
    folder.mkdir()
    save_file(buffers | weights, folder / "model.safetensors", metadata={"format": "pt"})
    if isinstance(module, PreTrainedModel):
        module.config.save_pretrained(folder)


def _random_state() -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"torch": torch.get_rng_state()} | cuda
