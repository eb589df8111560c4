"""Checkpoints of a training that continue it exactly; safetensors and JSON only.

Weights, AdamW's moments, the place in the schedule and the data, and torch's
random state are written beside and renamed, so the last good one survives.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cllm.batches import TokenTexts
from cllm.errors import InputError, WorkError
from cllm.files import digest, replacing
from cllm.settings import LoopSettings

_DAMAGE = (OSError, ValueError, RuntimeError, SafetensorError)


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


class Checkpoint:
    """A folder with the newest state and the best weights of one training."""

    def __init__(self, folder: Path, settings: LoopSettings, texts: TokenTexts, task: str) -> None:
        self.folder = folder
        self.state = folder / "state.safetensors"
        self.best = folder / "best.safetensors"
        same = settings.model_dump_json(include={"batch", "lr", "weight_decay", "clip", "seed"})
        self.identity = digest(task, same, *texts.names, *(row.tobytes() for row in texts.rows))

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the newest state."""
        parts = {
            "weights": trained_weights(module),
            "moments": _moments(optimizer),
            "random": _random_state(),
        }
        every = {f"{part}/{name}": x for part, state in parts.items() for name, x in state.items()}
        note = {"identity": self.identity, "progress": json.dumps(asdict(progress))}
        with replacing(self.state) as new:
            save_file(every, new, metadata=note)

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Put the saved state back; None where there is none.

        Raises:
            InputError: it belongs to a training with other settings or texts.
            WorkError: the checkpoint is damaged.
        """
        if not self.state.exists():
            return None
        try:
            with safe_open(self.state, "pt") as file:
                note = file.metadata()
                every = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if note["identity"] != self.identity:
                raise InputError(
                    f"an unfinished training with other settings or texts lies in {self.folder}; "
                    "finish it with the command that began it, or delete that folder"
                )
            parts: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}, "random": {}}
            for name, value in every.items():
                part, _, inner = name.partition("/")
                parts[part][inner] = value
            _load(module, parts["weights"])
            _set_moments(optimizer, parts["moments"])
            torch.set_rng_state(parts["random"]["torch"])
            if "cuda" in parts["random"] and torch.cuda.is_available():
                torch.cuda.set_rng_state(parts["random"]["cuda"])
            return Progress(**json.loads(note["progress"]))
        except (*_DAMAGE, KeyError, TypeError) as error:
            raise WorkError(self._damaged(self.state, error)) from error

    def save_best(self, module: nn.Module) -> None:
        """Write the best weights so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.best) as new:
            save_file(trained_weights(module), new)

    def load_best(self, module: nn.Module) -> None:
        """Put the best weights into the module."""
        if not self.best.exists():
            return
        try:
            _load(module, load_file(self.best))
        except _DAMAGE as error:
            raise WorkError(self._damaged(self.best, error)) from error

    def _damaged(self, path: Path, error: Exception) -> str:
        return f"{path} is damaged ({error}); delete {self.folder} to start the training anew"

    def remove(self) -> None:
        """Delete it all."""
        shutil.rmtree(self.folder, ignore_errors=True)


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, on the CPU."""
    return {
        name: weight.detach().to("cpu").contiguous()
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }


def _random_state() -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"torch": torch.get_rng_state()} | cuda


def _load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    wanted = set(trained_weights(module))
    if wanted != set(weights):
        raise ValueError(f"weights differ: {sorted(wanted ^ set(weights))[:4]}")
    module.load_state_dict(weights, strict=False)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value.detach().to("cpu").contiguous()
        for number, values in state.items()
        for name, value in values.items()
    }


def _set_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
