"""Train a base LLM and a CLLM on, with texts that a model wrote among the real ones.

corpus = with_made(corpus, texts, "round-1")     # what they are taught is kept in the corpus
taught = mixed(corpus, share=0.3, repeats=10)    # as often as they are taught it
base_on(base, taught, settings, folder); model_on(model, taught, settings, folder)
"""

# Shapes: B texts, T tokens, M memory positions, H width, V vocabulary, n places, D bottleneck.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cllm.base import BaseLM
from cllm.batches import Batch
from cllm.corpus import Corpus, title_in
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.noise import uniform
from cllm.pretrain import train_denoising, train_low_rank
from cllm.progress import training_progress
from cllm.settings import BaseSettings, TrainSettings
from cllm.training import Fit, fit
from cllm.training_texts import TrainingTexts

MADE = "made"  # in a corpus's facts: how many texts at its end no person wrote
ARRAY_STREAM = 7


def with_made(corpus: Corpus, texts: Sequence[str], name: str) -> Corpus:
    """The corpus with texts that a model wrote at its end, for training; named `name`-00000."""
    ids = tuple(f"{name}-{number:05d}" for number in range(len(texts)))
    return Corpus(
        corpus.ids + ids, corpus.texts + tuple(texts),
        corpus.titles + tuple(title_in(text) for text in texts), corpus.groups + ids,
        corpus.splits + ("train",) * len(texts),
        corpus.info | {MADE: corpus.info.get(MADE, 0) + len(texts)},
    )  # fmt: skip


def real_part(corpus: Corpus) -> Corpus:
    """Without texts that a model wrote: the corpus as it was before any was added."""
    made = corpus.info.get(MADE, 0)
    info = {name: fact for name, fact in corpus.info.items() if name != MADE}
    real = corpus.only([True] * (len(corpus) - made) + [False] * made)
    return replace(real, info=info)


def made_part(corpus: Corpus) -> Corpus:
    """The texts that a model wrote."""
    made = corpus.info.get(MADE, 0)
    return corpus.only([False] * (len(corpus) - made) + [True] * made)


def room_for(corpus: Corpus, share: float) -> int:
    """How many more texts of a model's the corpus takes before they are more than that share."""
    if share >= 1:
        return len(corpus)
    real = len(real_part(corpus).select("train"))
    return max(0, int(share / (1 - share) * real) - int(corpus.info.get(MADE, 0)))


def mixed(corpus: Corpus, share: float, repeats: int = 0) -> Corpus:
    """What is trained on: real texts once, a model's as often as makes them `share` of all.

    Each stands there `repeats` times at most (0: no limit); with a share of 1 no real text does.
    Held-out texts stay as they are.
    """
    real, made = real_part(corpus), made_part(corpus)
    held_out = real.only([split != "train" for split in real.splits])
    train = real.select("train")
    if share >= 1 and len(made):
        return _joined(made, held_out)
    wanted = round(share / (1 - share) * len(train)) if share < 1 else 0
    rows = min(wanted, repeats * len(made)) if repeats else wanted
    return _joined(train, _repeated(made, rows), held_out)


def _repeated(corpus: Corpus, rows: int) -> Corpus:
    """Its texts in turn until there are so many rows, under names of their own."""
    if not len(corpus):
        return corpus
    chosen = [row % len(corpus) for row in range(rows)]
    texts, titles, groups, splits = (
        tuple(column[row] for row in chosen)
        for column in (corpus.texts, corpus.titles, corpus.groups, corpus.splits)
    )
    ids = tuple(f"{corpus.ids[row]}/{turn // len(corpus)}" for turn, row in enumerate(chosen))
    return Corpus(ids, texts, titles, groups, splits, corpus.info)


def _joined(*parts: Corpus) -> Corpus:
    columns = zip(
        *((part.ids, part.texts, part.titles, part.groups, part.splits) for part in parts),
        strict=True,
    )
    ids, texts, titles, groups, splits = (sum(column, ()) for column in columns)
    return Corpus(ids, texts, titles, groups, splits, parts[0].info)


def base_on(base: BaseLM, corpus: Corpus, settings: BaseSettings, folder: Path) -> list[Fit]:
    """Train a base on, both of its stages; the best weights are left in it, frozen."""
    with training_progress("base LLM, further") as report:
        stages = [train_denoising(base, corpus, settings, folder, report)]
    if settings.rank:
        with training_progress("base LLM, further, low rank") as report:
            stages.append(train_low_rank(base, corpus, settings, folder / "low_rank", report))
    return stages


def model_on(
    model: CLLM, corpus: Corpus, settings: TrainSettings, folder: Path, *,
    teacher: CLLM | None = None, soft: float = 0.0, arrays_nMH: Tensor | None = None,
    share: float = 0.0,
) -> Fit:  # fmt: skip
    """Train a CLLM on over the base it has; the best weights are left in it.

    `soft`: what the teacher's own chances of each token count, beside the tokens that stand there.
    `arrays_nMH`: token embeddings that a model unfolded from places, restored beside the texts.
    """
    texts = TrainingTexts.of(model.base, corpus, settings, model.config.context)
    model.requires_grad_(True)
    if arrays_nMH is not None:
        task: Restoring = OfArrays(model, settings, texts, arrays_nMH, share)
    elif teacher and soft:
        task = Taught(model, settings, texts, teacher, soft)
    else:
        task = Restoring(model, settings, texts.held_out, edits=texts.edits)
    with training_progress("CLLM, further") as report:
        result = fit(task, texts.both, settings.loop, folder, report)
    model.train(False).requires_grad_(False)
    return result


class Taught(Restoring):
    """Restores texts with soft targets: the chances that another CLLM gives each token.

    As in Hinton et al. 2015, at temperature 1.
    """

    def __init__(
        self, model: CLLM, settings: TrainSettings, texts: TrainingTexts, teacher: CLLM,
        weight: float,
    ) -> None:  # fmt: skip
        super().__init__(model, settings, texts.held_out, edits=texts.edits)
        self.teacher, self.weight = teacher, weight
        self.identity += f" {teacher.hash} {weight}"

    def nats(self, memory_BMH: Tensor, batch: Batch) -> Tensor:
        """Nats of each token (B, T): of what stands there, and of what the teacher expects."""
        hard_BT, logits_BTV = self._costs(memory_BMH, batch)
        with torch.no_grad():
            taught_BMH = self.teacher.decode_array(self.teacher.vectors_of(batch))
            expected_BTV = self.teacher.base.logits(taught_BMH, batch.ids_BT).softmax(-1)
        soft_BT = -(expected_BTV * F.log_softmax(logits_BTV, -1)).sum(-1) * batch.mask_BT
        return (1 - self.weight) * hard_BT + self.weight * soft_BT

    def _costs(self, memory_BMH: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        logits_BTV = self.model.base.logits(memory_BMH, batch.ids_BT).float()
        nats_BT = F.cross_entropy(
            logits_BTV.flatten(0, 1), batch.ids_BT.flatten(), reduction="none"
        ).view_as(batch.ids_BT)
        return nats_BT * batch.mask_BT, logits_BTV


class OfArrays(Restoring):
    """Restores texts, and arrays that no text stands for: the article's variant.

    An array has no tokens to be scored by, so the error of its values is all there is.
    """

    def __init__(
        self, model: CLLM, settings: TrainSettings, texts: TrainingTexts, arrays_nMH: Tensor,
        share: float,
    ) -> None:  # fmt: skip
        super().__init__(model, settings, texts.held_out, edits=texts.edits)
        self.arrays_nMH, self.share = arrays_nMH, share
        self.identity += f" {len(arrays_nMH)} {float(arrays_nMH.sum())} {share}"

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """As of texts; `made` is the error of as many arrays as their share asks for."""
        parts = super().losses(batch, step)
        count = max(1, round(len(batch) * self.share / (1 - self.share)))
        key = np.array([step], np.uint64)
        draw_n = uniform(self.settings.loop.seed, step, key, count, ARRAY_STREAM)[0]
        rows = torch.from_numpy((draw_n * len(self.arrays_nMH)).astype(np.int64))
        array_nMH = self.arrays_nMH[rows].to(self.model.device)
        mask_nM = torch.ones(array_nMH.shape[:2], dtype=torch.bool, device=array_nMH.device)
        restored_nMH = self.model.decode_array(self.model.encode_array(array_nMH, mask_nM))
        error = (restored_nMH - array_nMH).square().mean() / self.model.spread.square()
        parts["made"] = error * self.share / batch.whole.parts
        parts["loss"] = (1 - self.share) * parts["loss"] + parts["made"]
        return parts


@torch.no_grad()
def arrays_of(model: CLLM, places_nD: NDArray[np.float32], batch: int = 64) -> Tensor:
    """Token embeddings (n, M, H) that a CLLM unfolds from places, kept in main memory."""
    vectors_nD = torch.from_numpy(model.lift(places_nD))
    parts = [model.decode_array(some.to(model.device)).cpu() for some in vectors_nD.split(batch)]
    return torch.cat(parts)
