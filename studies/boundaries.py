"""Sequences one step outside a rule, and tiny LSTMs that learn the rule, many at once.

Kinds of sequence: sorted, zigzag (strict alternation, first up), pivot (none below the first), and
for each what is nearly so. An `Ensemble` trains E models as one, from the same first weights: their
losses are added, so that none's gradient has anything of another's.
"""

# Shapes: E models, B sequences, L numbers of each, V values, D embedding, I input, H hidden.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Numbers = NDArray[np.int64]
Mask = NDArray[Any]  # of booleans
Delta = Literal["none", "neighbour", "anchor"]

VALUES = 50
HIDDEN = 32
LR, WEIGHT_DECAY = 5e-3, 1e-4


def in_order(count: int, length: int, rng: np.random.Generator) -> Numbers:
    """Sorted, no number twice, (B, L)."""
    return np.sort(rng.random((count, VALUES)).argpartition(length - 1, 1)[:, :length], 1)


def out_of_order(count: int, length: int, rng: np.random.Generator) -> Numbers:
    """Numbers as they come, not sorted, (B, L)."""
    return _drawn(count, lambda n: _any(n, length, rng), lambda x: np.any(np.diff(x) < 0, axis=1))


def swapped(count: int, length: int, rng: np.random.Generator) -> Numbers:
    """Sorted but for one pair of neighbours, (B, L)."""
    numbers_BL, rows = in_order(count, length, rng), np.arange(count)
    at = rng.integers(length - 1, size=count)
    left, right = numbers_BL[rows, at].copy(), numbers_BL[rows, at + 1].copy()
    numbers_BL[rows, at], numbers_BL[rows, at + 1] = right, left
    return numbers_BL


def zigzag(count: int, length: int, rng: np.random.Generator) -> Numbers:
    """Up, down, up and so on, each step to any value that is left, (B, L)."""

    def drawn(n: int) -> Numbers:
        columns = [rng.integers(VALUES, size=n)]
        for step in range(length - 1):
            last, share = columns[-1], rng.random(n)
            up = last + 1 + np.floor(share * (VALUES - 1 - last))
            columns.append((up if step % 2 == 0 else np.floor(share * last)).astype(int))
        return np.stack(columns, 1)

    return _drawn(count, drawn, is_zigzag)


def is_zigzag(numbers_BL: Numbers) -> Mask:
    """Which alternate, first up, within the values there are, (B,)."""
    up = np.arange(numbers_BL.shape[1] - 1) % 2 == 0
    steps = np.diff(numbers_BL)
    alternates_B = np.all(np.where(up, steps > 0, steps < 0), axis=1)
    return np.asarray(alternates_B & np.all(numbers_BL < VALUES, axis=1))


def broken_zigzag(count: int, length: int, rng: np.random.Generator) -> Numbers:
    """A zigzag in which one step goes on as the one before, (B, L).

    Where the value before leaves no room for it: numbers as they come.
    """
    numbers_BL, rows = zigzag(count, length, rng), np.arange(count)
    at = rng.integers(length - 2, size=count)
    first, second = numbers_BL[rows, at], numbers_BL[rows, at + 1]
    low = np.where(second > first, second + 1, 0)
    high = np.where(second > first, VALUES, second)
    numbers_BL[rows, at + 2] = rng.integers(low, np.maximum(high, low + 1))
    none = high <= low
    other = _drawn(int(none.sum()), lambda n: _any(n, length, rng), lambda x: ~is_zigzag(x))
    numbers_BL[none] = other
    return numbers_BL


def pivot(count: int, length: int, rng: np.random.Generator) -> Numbers:
    """A first number of the lower half, and none below it, (B, L)."""
    first = rng.integers(VALUES // 2 + 1, size=(count, 1))
    return np.hstack([first, rng.integers(first, VALUES, size=(count, length - 1))])


def broken_pivot(count: int, length: int, rng: np.random.Generator) -> Numbers:
    """The same with one number below the first, (B, L); where that is 0, numbers as they come."""
    numbers_BL, rows = pivot(count, length, rng), np.arange(count)
    first = numbers_BL[:, 0]
    at = rng.integers(1, length, size=count)
    numbers_BL[rows, at] = rng.integers(0, np.maximum(first, 1))
    none = first == 0
    below = _drawn(int(none.sum()), lambda n: _any(n, length, rng),
                   lambda x: np.any(x[:, 1:] < x[:, :1], axis=1))  # fmt: skip
    numbers_BL[none] = below
    return numbers_BL


def _any(count: int, length: int, rng: np.random.Generator) -> Numbers:
    return rng.integers(VALUES, size=(count, length))


def _drawn(count: int, draw: Callable[[int], Numbers], keeps: Callable[[Numbers], Mask]) -> Numbers:
    """Drawn again where they must not count."""
    numbers = draw(count)
    while len(bad := np.flatnonzero(~keeps(numbers))):
        numbers[bad] = draw(len(bad))
    return numbers


@dataclass(frozen=True)
class Shape:
    """What one model reads: embeddings, and differences of them beside."""

    width: int = 8  # of the embedding
    delta: Delta = "none"


class Ensemble(nn.Module):
    """E one-layer LSTMs with a logit on the last state; each as torch would initialise it.

    Inputs narrower than the widest are filled up with zeros, which adds nothing to a model.
    """

    def __init__(self, shapes: Sequence[Shape], generator: torch.Generator) -> None:
        """All begin with the same numbers, so that what differs between them is what they learn."""
        super().__init__()
        self.shapes = tuple(shapes)
        widest = max(shape.width for shape in shapes)
        self.input = max(s.width * (1 if s.delta == "none" else 2) for s in shapes)

        def uniform(*size: int) -> nn.Parameter:
            drawn = torch.rand(size, generator=generator) * 2 - 1
            return nn.Parameter((drawn / HIDDEN**0.5).repeat(len(shapes), *[1] * len(size)))

        table_VD = torch.randn((VALUES, widest), generator=generator)
        self.table_EVD = nn.Parameter(table_VD.repeat(len(shapes), 1, 1))
        self.by_input_EIG = uniform(self.input, 4 * HIDDEN)
        self.by_state_EHG = uniform(HIDDEN, 4 * HIDDEN)
        self.biases_2E1G = nn.ParameterList(uniform(1, 4 * HIDDEN) for _ in range(2))
        self.head_EH1, self.offset_E1 = uniform(HIDDEN, 1), uniform(1)

    def forward(self, numbers_EBL: Tensor) -> Tensor:
        """Logits, (E, B)."""
        models, count, length = numbers_EBL.shape
        read_EBLI = self._read(numbers_EBL)
        gates_EBLG = (read_EBLI.flatten(1, 2) @ self.by_input_EIG).view(models, count, length, -1)
        bias_E1G = self.biases_2E1G[0] + self.biases_2E1G[1]
        state_EBH = cell_EBH = read_EBLI.new_zeros(models, count, HIDDEN)
        for gates_EBG in (gates_EBLG + bias_E1G[:, :, None]).unbind(2):
            all_EBG = torch.baddbmm(gates_EBG, state_EBH, self.by_state_EHG)
            open_EBG = all_EBG[..., : 3 * HIDDEN].sigmoid()
            let_in, forget, let_out = open_EBG.chunk(3, -1)
            cell_EBH = forget * cell_EBH + let_in * all_EBG[..., 3 * HIDDEN :].tanh()
            state_EBH = let_out * cell_EBH.tanh()
        return (state_EBH @ self.head_EH1)[..., 0] + self.offset_E1

    def _read(self, numbers_EBL: Tensor) -> Tensor:
        """Embeddings and their differences, (E, B, L, I)."""
        read = []
        for shape, table_VD, numbers_BL in zip(
            self.shapes, self.table_EVD, numbers_EBL, strict=True
        ):
            own_BLD = nn.functional.embedding(numbers_BL, table_VD[:, : shape.width])
            parts = [own_BLD]
            if shape.delta == "neighbour":  # to nothing, for the first
                parts.append(own_BLD - nn.functional.pad(own_BLD[:, :-1], (0, 0, 1, 0)))
            elif shape.delta == "anchor":
                parts.append(own_BLD - own_BLD[:, :1])
            read_BLI = torch.cat(parts, -1)
            read.append(nn.functional.pad(read_BLI, (0, self.input - read_BLI.shape[-1])))
        return torch.stack(read)

    @torch.no_grad()
    def says(self, numbers_EBL: Tensor) -> Tensor:
        """Probabilities of the rule, (E, B)."""
        return self.forward(numbers_EBL).sigmoid()


Batch = Callable[[int], tuple[Tensor, Tensor]]  # of a step: numbers_EBL and labels_EB


def fit_ensemble(
    models: Ensemble, batch: Batch, steps: int, check: Callable[[int], None] | None = None
) -> None:
    """Adam on each model's own mean binary cross-entropy; `check` after each step."""
    adam = torch.optim.Adam(models.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)
    for step in range(1, steps + 1):
        numbers_EBL, labels_EB = batch(step)
        adam.zero_grad()
        loss_EB = nn.functional.binary_cross_entropy_with_logits(
            models(numbers_EBL), labels_EB, reduction="none"
        )
        loss_EB.mean(1).sum().backward()
        adam.step()
        if check:
            check(step)


def accuracies(models: Ensemble, true_BL: Numbers, false_BL: Numbers) -> list[float]:
    """Shares told rightly, of each model."""
    numbers_BL = torch.from_numpy(np.concatenate([true_BL, false_BL]))
    said_EB = models.says(numbers_BL.expand(len(models.shapes), -1, -1)) > 0.5
    right_EB = said_EB == (torch.arange(len(numbers_BL)) < len(true_BL))
    return right_EB.double().mean(1).tolist()
