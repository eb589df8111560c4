"""Tokenised texts in batches of similar length, the same order on every machine.

The order is a function of (seed, epoch), so a run resumes at any step by
counting; nothing has to be saved.
    for batch in texts.batches(batch=64, seed=0, first=120): ...
"""

# Shapes: B texts, T tokens, N texts in all.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cllm.noise import text_keys

POOL_BATCHES = 32  # texts are sorted by length within pools of this many batches


def fit_context(rows: Sequence[Sequence[int]], limit: int) -> int:
    """The context that holds 99.5 % of the texts, a multiple of 8, at most `limit` tokens."""
    wanted = float(np.quantile([len(row) for row in rows], 0.995))
    return int(min(limit, -(-wanted // 8) * 8))


@dataclass(frozen=True)
class Batch:
    """Token ids and mask (B, T), and whose they are."""

    ids_BT: Tensor
    mask_BT: Tensor
    keys_B: NDArray[np.uint64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.ids_BT.to(device), self.mask_BT.to(device), self.keys_B, self.names)


@dataclass(frozen=True)
class TokenTexts:
    """Texts as token rows (end token included), cut to the context, with the number cut."""

    names: tuple[str, ...]
    rows: tuple[NDArray[np.int64], ...]
    pad: int
    cut: int

    @classmethod
    def of(
        cls, names: Sequence[str], rows: Sequence[Sequence[int]], pad: int, context: int
    ) -> TokenTexts:
        """Cut each row to `context` tokens, keeping its end token, and count the cut ones."""
        cut = sum(len(row) > context for row in rows)
        kept = (row if len(row) <= context else [*row[: context - 1], row[-1]] for row in rows)
        return cls(tuple(names), tuple(np.asarray(row, np.int64) for row in kept), pad, cut)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def keys_N(self) -> NDArray[np.uint64]:
        """The noise key of each text."""
        return text_keys(self.names)

    @cached_property
    def tokens(self) -> int:
        """Tokens in all."""
        return sum(map(len, self.rows))

    def gather(self, chosen: Sequence[int] | NDArray[np.int64], length: int | None = None) -> Batch:
        """The chosen texts as one padded batch."""
        rows = [self.rows[i] for i in chosen]
        width = length or max(map(len, rows))
        ids_BT = np.full((len(rows), width), self.pad, dtype=np.int64)
        for i, row in enumerate(rows):
            ids_BT[i, : len(row)] = row
        mask_BT = np.arange(width)[None, :] < np.array([len(r) for r in rows])[:, None]
        names = tuple(self.names[i] for i in chosen)
        keys_B = self.keys_N[np.asarray(chosen)]
        return Batch(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT), keys_B, names)

    def in_order(self, batch: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Each text once, sorted by length; yields the row numbers with each batch."""
        order_N = np.argsort([len(row) for row in self.rows], kind="stable")
        for start in range(0, len(self), batch):
            chosen_B = order_N[start : start + batch]
            yield chosen_B, self.gather(chosen_B)

    def steps_per_epoch(self, batch: int) -> int:
        """Batches in one pass; a last partial batch is left for the next epoch's order."""
        return max(1, len(self) // batch)

    def batches(self, batch: int, seed: int, first: int = 0) -> Iterator[Batch]:
        """Endless training batches from step `first` on."""
        per_epoch = self.steps_per_epoch(batch)
        epoch, skip = divmod(first, per_epoch)
        while True:
            for chosen_B in self._epoch(batch, seed, epoch)[skip:]:
                yield self.gather(chosen_B)
            epoch, skip = epoch + 1, 0

    def _epoch(self, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([seed, epoch])
        batch = min(batch, len(self))
        # what is left over falls out before sorting, else it would always be the longest texts
        order_N = rng.permutation(len(self))[: len(self) // batch * batch]
        lengths_N = np.array([len(row) for row in self.rows])
        chunks: list[NDArray[np.int64]] = []
        for start in range(0, len(self), POOL_BATCHES * batch):
            pool = order_N[start : start + POOL_BATCHES * batch]
            pool = pool[np.argsort(lengths_N[pool], kind="stable")]
            chunks += [pool[i : i + batch] for i in range(0, len(pool), batch)]
        rng.shuffle(chunks)
        return chunks
