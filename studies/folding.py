"""Context that folds and unfolds, against context in full and cut: `cllm study folding --json`.

The last passage of a text is predicted from those before it. In full: their token embeddings.
Folded: a vector each, and of these as much unfolded as the room allows, that first which the
passage before it attends to most, from its end. Cut: the last tokens. One decoder learns all ways
in turn, from the same steps; what a way costs is the number of positions that it reads. Goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cllm.base import BaseLM, token_nats
from cllm.batches import Batch, TokenTexts
from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.files import digest, read_json, write_json
from cllm.levels import Packed, Passages
from cllm.metrics import bootstrap, paired_difference
from cllm.pretrain import token_texts
from cllm.progress import training_progress
from cllm.run import RunFolder
from cllm.settings import overridden
from cllm.training import Task, fit

# Shapes: B texts, n passages, t tokens of one, D coordinates, H width, M memory positions,
# R passages of a text, N test texts.

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

METHOD = 5  # raised when the same would be trained or measured otherwise


@dataclass(frozen=True)
class Way:
    """How what came before is read."""

    fold: bool  # passages that are not read in full are a vector each; else they are left out
    times: float  # fewer positions than in full


WAYS = {
    "full": Way(False, 1), "nothing": Way(False, np.inf), "vectors alone": Way(True, np.inf),
    **{f"folded {k}x": Way(True, k) for k in (2, 4, 8)},
    **{f"cut {k}x": Way(False, k) for k in (2, 4, 8)},
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a reader for each seed, measure all ways, and print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if min(o.seeds, o.steps) < 1:
            raise InputError("--seeds and --steps must be 1 or more")
        run = RunFolder(o.run)
        model = run.load_model()
        if not isinstance(model.base, Passages):
            raise InputError(
                f"{run.path} has one level, and folding needs vectors of passages; make a run with "
                "`cllm run --levels 2`"
            )
        corpus = run.load_trained_corpus()
        texts = {split: token_texts(model.base, corpus.select(split), model.config.context)
                 for split in ("train", "validation", "test")}  # fmt: skip
        seeds = [measured(model.base, texts, seed, o) for seed in range(o.seeds)]
        told = summary(seeds) | {"steps": o.steps, "seeds": o.seeds, "source": run.path.name}
        write_json(o.out / "folding.json", told)
        print(json.dumps(told))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(
        prog="cllm study folding", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument(
        "--run", type=Path, default=Path("runs/levels/two-levels-0"), help="with two levels"
    )
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--steps", type=int, default=4500, help="of the reader, all ways together")
    p.add_argument("--batch", type=int, default=16, help="texts")
    p.add_argument("--measured", type=int, default=300, help="test texts")
    p.add_argument("--out", type=Path, default=Path("runs/folding"), help="a folder")
    return p


@dataclass(frozen=True)
class Context:
    """The passages before each text's last one, and that one."""

    base: Passages
    some: Packed  # of the passages before
    last_Bt: Tensor
    last_mask_Bt: Tensor
    _ends: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Passages, batch: Batch) -> Context:
        """Of texts of two passages or more."""
        whole = Packed.of(batch.ids_BT, batch.mask_BT, base.eos, base.pad)
        counts_B = torch.bincount(whole.text_n)
        last_n = whole.row_n == counts_B[whole.text_n] - 1
        some = Packed(whole.ids_nt[~last_n], whole.mask_nt[~last_n], whole.text_n[~last_n],
                      whole.row_n[~last_n], whole.mask_BT, whole.of_S)  # fmt: skip
        return cls(base, some, whole.ids_nt[last_n], whole.mask_nt[last_n])

    @cached_property
    def full_ntH(self) -> Tensor:
        """Token embeddings."""
        with torch.no_grad():
            return self.base.level.base.array_of(self.some.ids_nt, self.some.mask_nt)[0]

    @cached_property
    def vectors_nD(self) -> Tensor:
        """Of the passages before."""
        with torch.no_grad():
            vectors_nD: Tensor = self.base.level.encode_array(self.full_ntH, self.some.mask_nt)
        return vectors_nD

    @cached_property
    def restored_nMH(self) -> Tensor:
        """Unfolded from the vectors."""
        with torch.no_grad():
            restored_nMH: Tensor = self.base.level.decode_array(self.vectors_nD)
        return restored_nMH

    def end_of(self, passage: int, length: int) -> Tensor:
        """Embeddings of its last tokens, as if nothing had stood before them."""
        if (passage, length) not in self._ends:
            ids_1t = self.some.ids_nt[passage][self.some.mask_nt[passage]][None, -length:]
            with torch.no_grad():
                array_1tH = self.base.level.base.array_of(ids_1t, torch.ones_like(ids_1t).bool())[0]
            self._ends[passage, length] = array_1tH[0]
        return self._ends[passage, length]


class Reader(nn.Module):
    """The base's decoder, learning to predict a passage from memory of those before."""

    def __init__(self, base: Passages) -> None:
        super().__init__()
        self.below = base.level.base
        self.base = BaseLM(copy.deepcopy(self.below.model), self.below.tokenizer, "reader")
        self.decoder = self.base.model.requires_grad_(True)
        self.base.encoder.requires_grad_(False)
        dim, width = base.level.config.dim, self.below.width
        self.fold = nn.Linear(dim, width)
        self.place = nn.Embedding(base.rows, width)  # how many passages before the last
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.nothing = nn.Parameter(torch.zeros(width))
        nn.init.zeros_(self.place.weight)

    def related(self, vectors_nD: Tensor) -> Tensor:
        """Attention from the passage that was read last to each of one text, (n,); sums to 1."""
        scores_n = self.key(vectors_nD) @ self.query(vectors_nD[-1]) / vectors_nD.shape[1] ** 0.5
        return scores_n.softmax(0)

    def memory(self, context: Context, way: Way) -> tuple[Tensor, Tensor]:
        """What a way gives to read (B, M, H), and its mask (B, M)."""
        rows = [self._of(context, text, way) for text in range(len(context.last_Bt))]
        memory_BMH = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths_B = torch.tensor([len(row) for row in rows])
        mask_BM = torch.arange(memory_BMH.shape[1]) < lengths_B[:, None]
        return memory_BMH, mask_BM.to(memory_BMH.device)

    def _of(self, context: Context, text: int, way: Way) -> Tensor:
        rows = torch.nonzero(context.some.text_n == text)[:, 0].tolist()
        lengths = context.some.mask_nt[rows].sum(1).tolist()
        parts: list[Tensor] = [self.nothing[None]]  # an empty memory is one position
        share_n = None
        if way.fold:
            vectors_nD = context.vectors_nD[rows]
            share_n = self.related(vectors_nD)
            attended_1D = (share_n[:, None] * vectors_nD).sum(0, keepdim=True)
            parts.append(self.fold(attended_1D))  # by which `related` learns
            taken = unfolded(lengths, share_n.argsort(descending=True).tolist(), way.times)
        else:
            taken = last_of(lengths, way.times)
        for number, (row, length, count) in enumerate(zip(rows, lengths, taken, strict=True)):
            place_H = self.place.weight[len(rows) - 1 - number]
            if way.fold and count < length:
                parts.append(self.fold(context.vectors_nD[row][None]) + place_H)
            if count and way.fold:
                parts.append(context.restored_nMH[row, length - count : length] + place_H)
            elif count:
                whole = count == length
                read_tH = context.full_ntH[row, :length] if whole else context.end_of(row, count)
                parts.append(read_tH + place_H)
        return torch.cat(parts)

    def nats(self, context: Context, way: Way) -> tuple[Tensor, int]:
        """Nats of the last passage's tokens (B, t), and positions that were read in all."""
        memory_BMH, mask_BM = self.memory(context, way)
        logits_BtV = self.base.logits(memory_BMH, context.last_Bt, mask_BM)
        nats_Bt = token_nats(logits_BtV, context.last_Bt, context.last_mask_Bt)
        return nats_Bt, int(mask_BM.sum())


def unfolded(lengths: Sequence[int], order: Sequence[int], times: float) -> list[int]:
    """Tokens of each passage, from its end, that are read beside vectors of all and their mix.

    The most related passages first, the last of them in part; a whole one needs no vector more.
    """
    left = sum(lengths) / times - len(lengths) - 1 if times < np.inf else 0
    taken = [0] * len(lengths)
    for number in order:
        if left >= lengths[number] - 1:
            taken[number] = lengths[number]
            left -= lengths[number] - 1
        else:
            taken[number] = max(0, int(left))
            break
    return taken


def last_of(lengths: Sequence[int], times: float) -> list[int]:
    """The same of the last tokens, where there are no vectors."""
    left, taken = int(sum(lengths) / times), [0] * len(lengths)
    for number in reversed(range(len(lengths))):
        taken[number] = min(left, lengths[number])
        left -= taken[number]
    return taken


class Reading(Task):
    """Task: predict the last passage of a text, in all ways in turn."""

    def __init__(self, reader: Reader, base: Passages, held_out: TokenTexts) -> None:
        self.reader, self.base, self.held_out = reader, base, held_out
        self.module: nn.Module = reader
        self.identity = digest(base.hash, *WAYS, str(METHOD))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Nats a token."""
        context = Context.of(self.base, batch)
        way = list(WAYS.values())[step % len(WAYS)]
        nats = self.reader.nats(context, way)[0].sum()
        return {"loss": nats / context.last_mask_Bt.sum(), "cross_entropy": nats / len(batch)}

    @torch.inference_mode()
    def score(self) -> float:
        """Minus the nats a held-out token, over all ways."""
        told = read(self.reader, self.base, self.held_out).values()
        return -float(np.mean([np.mean(one["nats"]) for one in told]))


@torch.inference_mode()
def read(reader: Reader, base: Passages, texts: TokenTexts) -> dict[str, dict[str, Any]]:
    """Of each way: nats a token of each text's last passage (N,), positions and CPU ms a text.

    Token embeddings and vectors are there, those of a cut passage too; what is unfolded for it is
    part of the time.
    """
    nats = {name: np.zeros(len(texts)) for name in WAYS}
    positions, seconds = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0.0)
    for chosen_B, batch in texts.in_order(16):
        context = Context.of(base, batch)
        _ = context.full_ntH, context.vectors_nD, context.restored_nMH  # once, for all ways
        for name, way in WAYS.items():
            reader.memory(context, way)  # ends of cut passages as well
            begun = time.process_time()
            if way.fold and np.isfinite(way.times):
                base.level.decode_array(context.vectors_nD)  # all: which, is known only then
            nats_Bt, read_here = reader.nats(context, way)
            seconds[name] += time.process_time() - begun
            positions[name] += read_here
            nats[name][chosen_B] = (nats_Bt.sum(1) / context.last_mask_Bt.sum(1)).numpy()
    return {
        name: {"nats": nats[name].tolist(), "positions": positions[name] / len(texts),
               "ms": 1000 * seconds[name] / len(texts)}
        for name in WAYS
    }  # fmt: skip


def measured(
    base: Passages, texts: dict[str, TokenTexts], seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Of each way, on test texts; kept once known."""
    o = options
    parts = {split: several(some, base) for split, some in texts.items()}
    texts_hash = digest(*parts["train"].names, *parts["test"].names)
    made_of = [base.hash, o.steps, o.batch, o.measured, texts_hash, METHOD]
    kept = o.out / f"folding-{seed}.json"
    if kept.exists() and (told := read_json(kept))["made_of"] == made_of:
        return dict(told)
    torch.manual_seed(seed)
    reader, loop = Reader(base), overridden("quick", seed=seed).train.loop
    loop = loop.model_copy(update={
        "seconds": 0.0, "steps": o.steps, "batch": o.batch, "lr": 1e-3, "evaluations": 4,
    })  # fmt: skip
    task = Reading(reader, base, first(parts["validation"], 64))
    with training_progress("reader") as report:
        result = fit(task, parts["train"], loop, o.out / f"reader-{seed}", report)
    reader.eval()
    told = {"made_of": made_of, "ways": read(reader, base, first(parts["test"], o.measured))}
    write_json(kept, told)
    result.checkpoint.remove()
    return told


def several(texts: TokenTexts, base: Passages) -> TokenTexts:
    """Those of two passages or more."""
    counts = base.lengths([row.tolist() for row in texts.rows])
    return texts.at(row for row, count in enumerate(counts) if count > 1)


def first(texts: TokenTexts, count: int) -> TokenTexts:
    """So many at most, by their names."""
    return texts.at(np.argsort(texts.keys_N, kind="stable")[:count])


def summary(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each way: nats a token, what it loses against full context, positions and time."""
    told: dict[str, Any] = {}
    of = {name: np.array([one["ways"][name]["nats"] for one in seeds]) for name in WAYS}
    for name, nats_SN in of.items():
        rng = np.random.default_rng(0)
        mean, lost = bootstrap(nats_SN, rng), paired_difference(nats_SN, of["full"], rng)
        each = [one["ways"][name] for one in seeds]
        told[name] = {
            "nats_a_token": mean.mean, "nats_a_token_ci": mean.ci, "lost": lost.mean,
            "lost_ci": lost.ci, "positions": float(np.mean([one["positions"] for one in each])),
            "ms": float(np.mean([one["ms"] for one in each])),
        }  # fmt: skip
    for k in (2, 4, 8):
        less = paired_difference(of[f"cut {k}x"], of[f"folded {k}x"], np.random.default_rng(0))
        told[f"cut less folded {k}x"] = {"mean": less.mean, "ci": less.ci}
    return {"ways": told}


if __name__ == "__main__":
    main()
