"""Train a base LLM and a CLLM on: with soft targets, or with arrays that no text stands for.

base_on(base, corpus, settings, folder)
model_on(model, corpus, settings, folder, teacher=before, soft=0.5)
"""

# Shapes: B texts, T tokens, M memory positions, H width, V vocabulary, n arrays, D bottleneck.
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cllm.base import BaseLM, token_nats
from cllm.batches import Batch
from cllm.corpus import Corpus
from cllm.files import digest
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.noise import uniform
from cllm.pretrain import train_denoising, train_low_rank
from cllm.progress import training_progress
from cllm.settings import BaseSettings, TrainSettings
from cllm.training import Fit, fit
from cllm.training_texts import TrainingTexts

ARRAY_STREAM = 7


def base_on(
    base: BaseLM, corpus: Corpus, settings: BaseSettings, folder: Path, context: int
) -> list[Fit]:
    """Train a base on, both of its stages; the best weights are left in it, frozen.

    `context`: of the CLLM over it.
    """
    with training_progress("base LLM, further") as report:
        stages = [train_denoising(base, corpus, settings, folder, report)]
    if settings.rank:
        with training_progress("base LLM, further, low rank") as report:
            stages.append(
                train_low_rank(base, corpus, settings, folder / "low_rank", report, context)
            )
    return stages


@dataclass(frozen=True)
class Arrays:
    """Token embeddings (n, M, H) that a CLLM unfolded from places, kept in main memory."""

    values_nMH: Tensor
    made_from: str  # tells them from others

    @classmethod
    @torch.no_grad()
    def of(cls, model: CLLM, places_nD: NDArray[np.float32], batch: int = 64) -> Arrays:
        """Of places on the sphere, at least one."""
        vectors_nD = torch.from_numpy(model.lift(places_nD))
        parts = [model.decode_array(some.to(model.device)).cpu()
                 for some in vectors_nD.split(batch)]  # fmt: skip
        return cls(torch.cat(parts), digest(model.hash, places_nD.tobytes().hex()))


def model_on(
    model: CLLM, corpus: Corpus, settings: TrainSettings, folder: Path, *,
    teacher: CLLM | None = None, soft: float = 0.0, arrays: Arrays | None = None,
    share: float = 0.0,
) -> Fit:  # fmt: skip
    """Train a CLLM on over the base it has; the best weights are left in it.

    `soft`: what the teacher's own chances of each token count, beside the tokens that stand there.
    `arrays` are restored beside the texts, and count `share` of the loss.
    """
    texts = TrainingTexts.of(model.base, corpus, settings, model.config.context, fitted=False)
    model.requires_grad_(True)
    if arrays:
        task: Restoring = OfArrays(model, settings, texts, arrays, share)
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

    def nats(self, memory_BMH: Tensor, batch: Batch, step: int) -> Tensor:  # noqa: ARG002
        """Nats of each token (B, T): of what stands there, and of what the teacher expects."""
        logits_BTV = self.model.base.logits(memory_BMH, batch.ids_BT).float()
        hard_BT = token_nats(logits_BTV, batch.ids_BT, batch.mask_BT)
        with torch.no_grad():
            taught_BMH = self.teacher.decode_array(self.teacher.vectors_of(batch))
            expected_BTV = self.teacher.base.logits(taught_BMH, batch.ids_BT).softmax(-1)
        soft_BT = -(expected_BTV * F.log_softmax(logits_BTV, -1)).sum(-1) * batch.mask_BT
        return (1 - self.weight) * hard_BT + self.weight * soft_BT


class OfArrays(Restoring):
    """Restores texts, and arrays that no text stands for: the article's variant.

    An array has no tokens to be scored by, so the error of its values is all there is.
    """

    def __init__(
        self, model: CLLM, settings: TrainSettings, texts: TrainingTexts, arrays: Arrays,
        share: float,
    ) -> None:  # fmt: skip
        super().__init__(model, settings, texts.held_out, edits=texts.edits)
        self.arrays_nMH, self.share = arrays.values_nMH, share
        self.identity += f" {arrays.made_from} {share}"

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
