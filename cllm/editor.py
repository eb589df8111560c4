"""The editor: a second network that rewrites the whole restored array before the base speaks.

A few steps of denoising with the same weights, learnt on arrays damaged as places in voids damage
them: a text's vector mixed with another's and moved on the sphere, not white noise.

    fit_editor(model, texts, settings, folder)   # from then on model.decode_array edits
"""

# Shapes: B texts, T tokens, M memory positions, H width, D bottleneck, P partners.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cllm.batches import Batch
from cllm.files import digest
from cllm.layers import Block
from cllm.losses import array_error, prefix_lengths
from cllm.model import CLLM
from cllm.noise import normal, uniform
from cllm.progress import training_progress
from cllm.settings import RunSettings
from cllm.training import Fit, Spread, Task, fit
from cllm.training_texts import TrainingTexts

BLOCKS = 2
MIXED = 0.5  # of the way to another text, at most
CUT = 0.3  # share of vectors that are cut to a prefix, where the model has these
PARTNERS, OFFERED = 2048, 8  # texts to mix with; the nearest of so many is taken
SHARE = 0.25  # of the CLLM's time
MIX_STREAM, MOVE_STREAM = 8, 9
ARRAY_WEIGHT = 0.5


class Editor(nn.Module):
    """Standardised arrays (B, M, H) to others; each place sees all. At first it does nothing."""

    def __init__(self, context: int, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.position = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(Block(width, context) for _ in range(BLOCKS)))

    def forward(self, x_BMH: Tensor) -> Tensor:
        """Rewritten `steps` times."""
        for _ in range(self.steps):
            placed_BMH = x_BMH + self.position
            x_BMH = x_BMH + self.blocks(placed_BMH) - placed_BMH
        return x_BMH


class Editing(Task):
    """Task: restore texts from damaged vectors, through a CLLM that stays as it is."""

    def __init__(
        self, model: CLLM, texts: TrainingTexts, seed: int, noise: float,
        prefixes: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """`prefixes`: lengths that some vectors are cut to, as the model learnt them."""
        self.model, self.held_out = model, texts.held_out
        self.seed, self.noise, self.prefixes = seed, noise, list(prefixes)
        assert model.editor is not None
        self.module: nn.Module = model.editor
        self.identity = digest(model.hash, str(noise), *map(str, self.prefixes))
        chosen = np.argsort(texts.both.keys_N, kind="stable")[:PARTNERS]
        partners_PD = model.encode_tokens(texts.both.at(chosen))
        self.partners_PD = torch.from_numpy(partners_PD).to(model.device)

    @torch.no_grad()
    def damaged(self, vectors_BD: Tensor, batch: Batch, step: int) -> Tensor:
        """Vectors moved part of the way to a near one, then in any direction; some are cut."""
        draw_Bn = uniform(self.seed, step, batch.keys_B, OFFERED + 3, MIX_STREAM)
        rows_BO = torch.from_numpy((draw_Bn[:, 3:] * len(self.partners_PD)).astype(np.int64))
        offered_BOD = self.partners_PD[rows_BO.to(vectors_BD.device)]
        nearest_B = (offered_BOD @ vectors_BD[..., None])[..., 0].argmax(1)
        partner_BD = offered_BOD[torch.arange(len(vectors_BD)), nearest_B]
        share_B1 = MIXED * torch.from_numpy(draw_Bn[:, :1]).to(vectors_BD)
        noise_BD = normal(self.seed, step, batch.keys_B, vectors_BD.shape[1], MOVE_STREAM)
        moved_BD = self.noise / vectors_BD.shape[1] ** 0.5 * torch.from_numpy(noise_BD)
        mixed_BD = F.normalize((1 - share_B1) * vectors_BD + share_B1 * partner_BD, dim=-1)
        damaged_BD = F.normalize(mixed_BD + moved_BD.to(vectors_BD), dim=-1)
        if not self.prefixes:
            return damaged_BD
        lengths_B = np.array(self.prefixes)[(draw_Bn[:, 2] * len(self.prefixes)).astype(int)]
        lengths_B = np.where(draw_Bn[:, 1] < CUT, lengths_B, damaged_BD.shape[1])
        kept_BD = torch.from_numpy(np.arange(damaged_BD.shape[1]) < lengths_B[:, None])
        return F.normalize(damaged_BD * kept_BD.to(damaged_BD.device), dim=-1)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Nats a token and the array's error; "cross_entropy" is nats a text."""
        model, whole = self.model, batch.whole
        with torch.no_grad():
            array_BMH, mask_BM = model.base.arrays(batch)
            vectors_BD = model.encode_array(array_BMH, mask_BM)
        memory_BMH = model.decode_array(self.damaged(vectors_BD, batch, step))
        nats = model.base.cross_entropy(memory_BMH, batch.ids_BT, batch.mask_BT).sum()
        parts = {"loss": nats / whole.tokens, "cross_entropy": nats / whole.texts}
        if model.config.form == "mirrored":
            ones_B1 = torch.ones_like(vectors_BD[:, :1])
            parts["array"] = array_error(model, memory_BMH, array_BMH, mask_BM, ones_B1, batch)
            parts["loss"] = parts["loss"] + ARRAY_WEIGHT * parts["array"]
        return parts

    @torch.inference_mode()
    def score(self) -> float:
        """Minus the nats of a held-out text, its vector damaged once and for all."""
        total = 0.0
        for _, part in self.held_out.in_order(64):
            batch = part.to(self.model.device)
            memory_BMH = self.model.decode_array(
                self.damaged(self.model.vectors_of(batch), batch, 0)
            )
            nats_BT = self.model.base.cross_entropy(memory_BMH, batch.ids_BT, batch.mask_BT)
            total += float(nats_BT.sum())
        return -total / len(self.held_out)


def fit_editor(
    model: CLLM, texts: TrainingTexts, settings: RunSettings, folder: Path,
    spread: Spread | None = None,
) -> Fit:  # fmt: skip
    """Give a trained CLLM an editor of `settings.editor` steps, and train that alone."""
    own = settings.train.loop
    torch.manual_seed(own.seed)
    model.requires_grad_(False)
    model.add_editor(settings.editor)
    lengths = settings.train.prefixes or prefix_lengths(model.config.dim)
    task = Editing(
        model, texts, own.seed, settings.train.vector_noise, lengths if model.config.nested else ()
    )
    with training_progress("editor") as report:
        result = fit(task, texts.both, own.for_share(SHARE), folder, report, spread=spread)
    model.train(False).requires_grad_(False)
    return result
