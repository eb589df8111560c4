"""The processes of one training: this one alone, or the ranks of torch's process group.

Each takes its share of every batch. What must be known of the whole batch comes from here:
    workers = Workers.here()
    tokens = workers.sum(torch.tensor([12.0]))
"""

# Shapes: B texts of this worker, G texts of all workers, D coordinates.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """How many there are, and which one this is."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Workers:
        """The ranks of torch's process group where one was started, else one alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return ALONE

    @property
    def first(self) -> bool:
        """Whether this one writes what is written once."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum over workers, without gradient."""
        total = x.detach().clone()
        if self.count > 1:
            dist.all_reduce(total)
        return total

    def told(self, values: Sequence[float]) -> list[float]:
        """The first worker's values, so that all decide alike."""
        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(told, 0)
        return [float(value) for value in told.tolist()]

    def agreed(self, values: Sequence[float], flag: bool) -> tuple[list[float], bool]:
        """`told` and `any` in one: what every step needs should cost one message."""
        if self.count == 1:
            return list(values), flag
        own = list(values) if self.first else [0.0] * len(values)
        both = torch.tensor([*own, float(flag)], dtype=torch.float64, device=self.device)
        dist.all_reduce(both)
        *told, flags = both.tolist()
        return told, flags > 0

    def most(self, value: float) -> float:
        """The largest of the workers' values."""
        if self.count == 1:
            return float(value)
        largest = torch.tensor(float(value), device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def any(self, flag: bool) -> bool:
        """Whether it holds for at least one worker."""
        return bool(self.most(flag))

    @property
    def device(self) -> torch.device:
        """From where the process group can send numbers."""
        on_gpu = self.count > 1 and dist.get_backend() == "nccl"
        return torch.device("cuda" if on_gpu else "cpu")

    def gathered(self, x_BD: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all workers in their order, (G, D), without gradient.

        `counts` says how many rows each worker has; they may differ.
        """
        if self.count == 1:
            return x_BD.detach().clone()
        padded_ND = x_BD.new_zeros(max(counts), x_BD.shape[1])
        padded_ND[: len(x_BD)] = x_BD.detach()
        every = [torch.empty_like(padded_ND) for _ in counts]
        dist.all_gather(every, padded_ND)
        return torch.cat([rows[:n] for rows, n in zip(every, counts, strict=True)])

    def align(self, module: nn.Module) -> None:
        """Give all workers the first one's weights and buffers: a start may differ in bits."""
        if self.count > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


ALONE = Workers()
