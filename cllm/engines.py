"""How a step's gradients become new weights: torch alone, or DeepSpeed over several workers.

`fit` hands either one its losses; what differs is where weights and moments lie and how they
are saved. DeepSpeed is imported only where it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cllm.errors import InputError
from cllm.settings import LoopSettings, ParallelSettings
from cllm.workers import Workers

Weights = dict[str, Tensor]
Losses = Callable[[], Mapping[str, Tensor]]
HALVED = ("cuda",)  # kinds of device where products are in bfloat16; weights stay float32


def halved(device: torch.device) -> Any:  # noqa: ANN401 - a context
    """A context in which products are in bfloat16, where the device is good at that."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type in HALVED)


class Engine(Protocol):
    """Holds a module's weights and their optimizer. All workers call all of it."""

    def forward(self, losses: Losses) -> Mapping[str, Tensor]:
        """What `losses` gives, with the module's weights in place."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part of the batch; over the parts they are summed."""

    def update(self, lr: float) -> Tensor:
        """Clip, step, forget the gradients; returns their norm before it was clipped."""

    def whole(self) -> Any:  # noqa: ANN401 - a context
        """A context in which the module has all its weights, to be used without gradient."""

    def weights(self) -> Weights:
        """All trained weights, float32 on the CPU."""

    def save(self, folder: Path) -> None:
        """This worker's part of weights and optimizer, into a folder that all share."""

    def load(self, folder: Path) -> None:
        """Put back what `save` wrote."""

    def release(self, weights: Weights) -> None:
        """End: the module stands alone again, with these weights."""


def make_engine(
    module: nn.Module, settings: LoopSettings, parallel: ParallelSettings, workers: Workers
) -> Engine:
    """DeepSpeed where a ZeRO stage is set, else torch. InputError: torch with several workers."""
    if parallel.zero is not None:
        return DeepSpeed(module, settings, parallel, workers)
    if workers.count > 1:
        raise InputError(
            f"{workers.count} workers need DeepSpeed; set parallel.zero to 0, 1, 2 or 3"
        )
    return Torch(module, settings)


def make_optimizer(module: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and other one-dimensional weights."""
    weights = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)


def trained_weights(module: nn.Module) -> Weights:
    """The weights that are trained, on the CPU."""
    return {
        name: weight.detach().to("cpu").contiguous()
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }


def put_weights(module: nn.Module, weights: Weights) -> None:
    """Put trained weights back; ValueError where they are those of another module."""
    wanted = {name for name, weight in module.named_parameters() if weight.requires_grad}
    if wanted != set(weights):
        raise ValueError(f"weights differ: {sorted(wanted ^ set(weights))[:4]}")
    module.load_state_dict(weights, strict=False)


class Torch:
    """One process, plain torch."""

    FILE = "state.safetensors"

    def __init__(self, module: nn.Module, settings: LoopSettings) -> None:
        self.module, self.clip = module, settings.clip
        self.optimizer = make_optimizer(module, settings)

    def forward(self, losses: Losses) -> Mapping[str, Tensor]:
        """What `losses` gives."""
        return losses()

    def backward(self, loss: Tensor) -> None:
        """Add gradients."""
        loss.backward()

    def update(self, lr: float) -> Tensor:
        """Clip, step, forget the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Nothing to do."""
        yield

    def weights(self) -> Weights:
        """All trained weights."""
        return {name: weight.clone() for name, weight in trained_weights(self.module).items()}

    def save(self, folder: Path) -> None:
        """Weights and moments as safetensors."""
        parts = {"weights": trained_weights(self.module), "moments": _moments(self.optimizer)}
        every = {f"{part}/{name}": x for part, state in parts.items() for name, x in state.items()}
        save_file(every, folder / self.FILE)

    def load(self, folder: Path) -> None:
        """Put them back."""
        parts: dict[str, Weights] = {"weights": {}, "moments": {}}
        with safe_open(folder / self.FILE, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - no dict
                part, _, name = key.partition("/")
                parts[part][name] = file.get_tensor(key)
        put_weights(self.module, parts["weights"])
        _set_moments(self.optimizer, parts["moments"])

    def release(self, weights: Weights) -> None:
        """Put the weights in."""
        put_weights(self.module, weights)


class Inside(nn.Module):
    """A module whose forward is whatever is to be worked out with its weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, losses: Losses) -> Mapping[str, Tensor]:
        """What `losses` gives."""
        return losses()


class DeepSpeed:
    """ZeRO over the workers of a process group (Rajbhandari et al. 2020)."""

    TAG = "shards"

    def __init__(
        self, module: nn.Module, settings: LoopSettings, parallel: ParallelSettings,
        workers: Workers,
    ) -> None:  # fmt: skip
        if not torch.distributed.is_initialized():
            raise InputError(
                "parallel.zero needs a process group; start by `torchrun -m "
                "cllm.train_distributed -- …` or `python -m cluster.train`, or leave it out"
            )
        deepspeed = _deepspeed()
        self.module, self.workers, self.stage = module, workers, parallel.zero
        self.engine, *_ = deepspeed.initialize(
            model=Inside(module),
            optimizer=make_optimizer(module, settings),
            config=parallel.deepspeed(settings, pinned=torch.cuda.is_available()),
        )

    def forward(self, losses: Losses) -> Mapping[str, Tensor]:
        """What `losses` gives; DeepSpeed gathers weights as they are needed."""
        parts: Mapping[str, Tensor] = self.engine(losses)
        return parts

    def backward(self, loss: Tensor) -> None:
        """Add gradients. DeepSpeed takes their mean over workers, a batch is their sum."""
        self.engine.backward(loss * self.workers.count, scale_wrt_gas=False)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # counts the piece; weights change with the last one

    def update(self, lr: float) -> Tensor:
        """Clip, step, forget the gradients."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm() or 0.0, dtype=torch.float32)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """ZeRO-3 hands out its parts; otherwise every worker has all weights."""
        if self.stage != 3:
            yield
            return
        self._unhook()
        with _deepspeed().zero.GatheredParameters(list(self.module.parameters())):
            yield
        offload = self.engine.optimizer.parameter_offload
        offload._register_deepspeed_module(offload.module)

    def _unhook(self) -> None:
        """Keep DeepSpeed from gathering and letting go by itself."""
        offload = self.engine.optimizer.parameter_offload
        for parameter in self.module.parameters():
            parameter.ds_active_sub_modules.clear()  # type: ignore[attr-defined]  # DeepSpeed's
        for hooks in (offload.forward_hooks, offload.backward_hooks):
            for hook in hooks:
                hook.remove()
            hooks.clear()

    def weights(self) -> Weights:
        """All trained weights, from the optimizer's float32 copies where it has some."""
        from deepspeed.utils import safe_get_full_fp32_param

        found: Weights = {}
        for name, weight in self.module.named_parameters():
            if weight.requires_grad:
                full = safe_get_full_fp32_param(weight)
                full = weight if full is None else full
                found[name] = full.detach().to("cpu", torch.float32, copy=True).view(_shape(weight))
        return found

    def save(self, folder: Path) -> None:
        """This worker's shards."""
        self.engine.save_checkpoint(str(folder), tag=self.TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Put them back."""
        found, _ = self.engine.load_checkpoint(str(folder), tag=self.TAG)
        if found is None:
            raise ValueError(f"{folder} holds no shards of DeepSpeed")

    def release(self, weights: Weights) -> None:
        """Take the module out of DeepSpeed's hands."""
        if self.stage == 3:
            self._unhook()
            _deepspeed().zero.GatheredParameters(list(self.module.parameters())).__enter__()
        for name, weight in self.module.named_parameters():
            weight.data = weights.get(name, weight.data.cpu()).float().to(weight.device)
        self.engine.destroy()


def _shape(weight: Tensor) -> torch.Size:
    """A weight's own shape, also where ZeRO-3 has left nothing of it here."""
    shape: torch.Size = getattr(weight, "ds_shape", weight.shape)
    return shape


def _deepspeed() -> Any:  # noqa: ANN401 - it is untyped
    """Imported late: it compiles for, and takes hold of, the accelerator it finds."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise InputError(
            f"parallel.zero needs DeepSpeed ({error}); install the cluster extra, or leave it out"
        ) from error
    return deepspeed


def _moments(optimizer: torch.optim.Optimizer) -> Weights:
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value.detach().to("cpu").contiguous()
        for number, values in state.items()
        for name, value in values.items()
    }


def _set_moments(optimizer: torch.optim.Optimizer, moments: Weights) -> None:
    whole = optimizer.state_dict()
    state: dict[int, Weights] = {}
    for key, value in moments.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
