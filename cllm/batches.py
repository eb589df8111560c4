"""Tokenised texts in batches of similar length, the same order on every machine.

The order is a function of (seed, epoch), so a run resumes at any step by
counting; nothing has to be saved.
    for (batch,) in texts.batches(batch=64, seed=0, first=120): ...
"""

# Shapes: B texts, T tokens, N texts in all, G texts of a whole batch.
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cllm.errors import InputError
from cllm.noise import text_keys
from cllm.workers import ALONE, Workers

POOL_BATCHES = 32  # texts are sorted by length within pools of this many batches


def fit_context(lengths: Sequence[int], limit: int) -> int:
    """The context that holds 99.5 % of the texts, a multiple of 8, `limit` at most."""
    wanted = float(np.quantile(lengths, 0.995))
    return int(min(limit, -(-wanted // 8) * 8))


@dataclass(frozen=True)
class Whole:
    """The batch of one step over all workers, which each of them has a part, or several, of."""

    keys_G: NDArray[np.uint64]
    tokens: int
    counts: tuple[int, ...]  # texts of each worker
    parts: int  # of all workers

    @property
    def texts(self) -> int:
        """Texts in all."""
        return len(self.keys_G)


@dataclass(frozen=True)
class Batch:
    """Token ids and mask (B, T), whose they are, and the whole batch that they are a part of."""

    ids_BT: Tensor
    mask_BT: Tensor
    keys_B: NDArray[np.uint64]
    names: tuple[str, ...]
    whole: Whole
    first: int = 0  # row of the whole batch

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> slice:
        """Its rows in the whole batch."""
        return slice(self.first, self.first + len(self))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return replace(self, ids_BT=self.ids_BT.to(device), mask_BT=self.mask_BT.to(device))


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

    def at(self, rows: Iterable[int]) -> TokenTexts:
        """The texts of these rows, in their order; how many were cut is of all."""
        chosen = list(rows)
        return replace(
            self, names=tuple(self.names[row] for row in chosen),
            rows=tuple(self.rows[row] for row in chosen),
        )  # fmt: skip

    def shortened(self, limit: int) -> TokenTexts:
        """The same, none longer than so many tokens, end token included."""
        if max(map(len, self.rows), default=0) <= limit:
            return self
        return TokenTexts.of(self.names, [row.tolist() for row in self.rows], self.pad, limit)

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
        whole = Whole(keys_B, int(mask_BT.sum()), (len(rows),), 1)
        return Batch(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT), keys_B, names, whole)

    def parts(self, chosen_G: NDArray[np.int64], workers: Workers, pieces: int = 1) -> list[Batch]:
        """One worker's part of a batch, in as many pieces; every worker has texts in each.

        Texts are dealt out in turn, so that workers have equally long ones.

        Raises:
            InputError: fewer texts than workers times pieces.
        """
        total = workers.count * pieces
        if total > len(chosen_G):
            raise InputError(
                f"a batch of {len(chosen_G)} texts is too small for {workers.count} workers "
                f"and {pieces} pieces each; raise train.loop.batch to {total} or more"
            )
        if total == 1:
            return [self.gather(chosen_G)]
        dealt = [chosen_G[number::total] for number in range(total)]
        counts = [sum(map(len, dealt[first : first + pieces])) for first in range(0, total, pieces)]
        keys_G = self.keys_N[np.concatenate(dealt)]
        tokens = sum(len(self.rows[i]) for i in chosen_G)
        whole = Whole(keys_G, tokens, tuple(counts), total)
        mine = range(workers.rank * pieces, (workers.rank + 1) * pieces)
        firsts = np.cumsum([0, *map(len, dealt)])
        return [replace(self.gather(dealt[i]), whole=whole, first=int(firsts[i])) for i in mine]

    def in_order(self, batch: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Each text once, sorted by length; yields the row numbers with each batch."""
        order_N = np.argsort([len(row) for row in self.rows], kind="stable")
        for start in range(0, len(self), batch):
            chosen_B = order_N[start : start + batch]
            yield chosen_B, self.gather(chosen_B)

    def steps_per_epoch(self, batch: int) -> int:
        """Batches in one pass; a last partial batch is left for the next epoch's order."""
        return max(1, len(self) // batch)

    def batches(
        self, batch: int, seed: int, first: int = 0, workers: Workers = ALONE, pieces: int = 1,
        mixed: bool = False,
    ) -> Iterator[list[Batch]]:  # fmt: skip
        """One worker's pieces of endless training batches, from step `first` on.

        `mixed`: each a random part of the texts, of any length, at the price of more padding.
        """
        per_epoch = self.steps_per_epoch(batch)
        epoch, skip = divmod(first, per_epoch)
        while True:
            for chosen_G in self._epoch(batch, seed, epoch, mixed)[skip:]:
                yield self.parts(chosen_G, workers, pieces)
            epoch, skip = epoch + 1, 0

    def _epoch(self, batch: int, seed: int, epoch: int, mixed: bool) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([seed, epoch])
        batch = min(batch, len(self))
        # what is left over falls out before sorting, else it would always be the longest texts
        order_N = rng.permutation(len(self))[: len(self) // batch * batch]
        lengths_N = np.array([len(row) for row in self.rows])
        chunks: list[NDArray[np.int64]] = []
        for start in range(0, len(self), POOL_BATCHES * batch):
            pool = order_N[start : start + POOL_BATCHES * batch]
            if not mixed:
                pool = pool[np.argsort(lengths_N[pool], kind="stable")]
            chunks += [pool[i : i + batch] for i in range(0, len(pool), batch)]
        rng.shuffle(chunks)
        return chunks
