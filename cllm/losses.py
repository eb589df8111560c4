"""What a CLLM is trained for, term by term.

Cross-entropy of the text through the frozen base decoder, the error of the
restored token embeddings, a clustering term, and a hard-negative term. Means and
terms are over the whole batch, however it is split: parts add up to them.
"""

# Shapes: B texts, G texts of the whole batch, T tokens, M memory positions, H width, D bottleneck.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cllm.batches import Batch, TokenTexts, Whole
from cllm.files import digest
from cllm.levels import Passages
from cllm.model import CLLM
from cllm.noise import (
    PASSAGE_STREAM,
    PREFIX_STREAM,
    TOKEN_STREAM,
    VECTOR_STREAM,
    normal,
    uniform,
)
from cllm.settings import TrainSettings
from cllm.training import Task
from cllm.workers import ALONE, Workers

REST = 0.1  # what the last tokens still count where a prefix answers for the first


class Restoring(Task):
    """Task: restore texts from their vectors."""

    def __init__(
        self, model: CLLM, settings: TrainSettings, held_out: TokenTexts,
        workers: Workers = ALONE, edits: TokenTexts | None = None,
    ) -> None:  # fmt: skip
        """`edits`: nearly real copies by the texts' names, for the hard-negative term."""
        self.model, self.settings, self.held_out = model, settings, held_out
        self.workers, self.edits = workers, edits
        self.edit_rows = {name: row for row, name in enumerate(edits.names)} if edits else {}
        self.seen: dict[str, Tensor] = {}  # vectors of the whole batch, where it comes in pieces
        self.module: nn.Module = model.train()
        self.mask_id = model.base.mask
        # texts of one length can be gathered in one place, and those of the next in another
        self.mixed = settings.mixed or settings.cluster_weight > 0
        dim = model.config.dim
        self.prefixes = list(settings.prefixes) or prefix_lengths(dim) or [dim]
        self.identity = digest(settings.model_dump_json(exclude={"loop"}), _told(model))

    @torch.no_grad()
    def prepare(self, pieces: Sequence[Batch], step: int) -> None:
        """Look at the whole batch, where it comes in pieces and a term compares its texts."""
        self.seen = {}
        s = self.settings
        if len(pieces) == 1 or not (s.cluster_weight or s.negative_weight):
            return
        several = [self._compared(piece, step) for piece in pieces]
        for name in several[0]:
            mine_BD = torch.cat([vectors[name] for vectors in several])
            self.seen[name] = self.workers.gathered(mine_BD, pieces[0].whole.counts)

    def _compared(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Vectors (B, D) that terms compare with those of other texts."""
        noisy_BTH, array_BTH, mask_BM = self._views(batch, step)
        vectors = {"noisy": self.model.encode_array(noisy_BTH, mask_BM)}
        if self.settings.negative_weight:
            vectors["clean"] = self.model.encode_array(array_BTH, mask_BM)
            vectors["edited"] = self._edited(batch)
        return vectors

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The weighted sum "loss" and its terms; "cross_entropy" is their weighted nats a text.

        Over the parts of a batch they add up to those of the whole batch.
        """
        s, model, whole = self.settings, self.model, batch.whole
        noisy_BTH, array_BTH, mask_BM = self._views(batch, step)
        clean_BD = model.encode_array(noisy_BTH, mask_BM)
        memory_BMH, kept_BD, weight_B1 = self._unfolded(clean_BD, batch, step)
        nats_BT = self.nats(memory_BMH, batch, step)
        if s.front:
            nats_BT = nats_BT * self._fronts(kept_BD, nats_BT.shape[1])
        nats = (nats_BT * weight_B1).sum()
        parts = {"loss": nats / whole.tokens, "cross_entropy": nats / self._weight(whole, step)}
        if s.array_weight and model.config.form == "mirrored":  # slots restore no array
            parts["array"] = array_error(model, memory_BMH, array_BTH, mask_BM, weight_B1, batch)
        if s.cluster_weight or s.negative_weight:
            noisy_GD = self._among_all("noisy", clean_BD, batch)
        if s.cluster_weight:
            parts["cluster"] = _of_parts(cluster_term(noisy_GD, s.cluster_floor), whole.parts)
        if s.negative_weight:
            other_BD = clean_BD
            if s.token_noise:
                other_BD = model.encode_array(array_BTH, mask_BM)
            other_GD = self._among_all("clean", other_BD, batch)
            edited_GD = self._among_all("edited", self._edited(batch), batch)
            term = negative_term(noisy_GD, other_GD, edited_GD, s.negative_temperature)
            parts["negative"] = _of_parts(term, whole.parts)
        for name in ("array", "cluster", "negative"):
            if name in parts:
                parts["loss"] = parts["loss"] + getattr(s, f"{name}_weight") * parts[name]
        return parts

    def _unfolded(self, clean_BD: Tensor, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Arrays (B, M, H) of disturbed vectors, what each kept (B, D), and its weight (B, 1)."""
        kept_BD = self._kept(batch.keys_B, step).to(clean_BD.device)
        memory_BMH = self.model.decode_array(self._disturbed(clean_BD, kept_BD, batch, step))
        # a prefix leaves so many nats that at full weight it would outshout the whole vector
        weight_B1 = torch.where(kept_BD.all(1, keepdim=True), 1.0, self.settings.prefix_weight)
        return memory_BMH, kept_BD, weight_B1

    def nats(self, memory_BMH: Tensor, batch: Batch, step: int) -> Tensor:
        """Nats of each token (B, T), 0 where masked; of some passages, for all, over two levels."""
        base, share = self.model.base, self.settings.passage_share
        if share == 1 or not isinstance(base, Passages):
            return base.cross_entropy(memory_BMH, batch.ids_BT, batch.mask_BT)
        seed = self.settings.loop.seed
        draw_BR = uniform(seed, step, batch.keys_B, base.rows, PASSAGE_STREAM)
        chosen_BR = torch.from_numpy(draw_BR < share).to(memory_BMH.device)
        return base.sampled_nats(memory_BMH, batch.ids_BT, batch.mask_BT, chosen_BR, share)

    @torch.inference_mode()
    def score(self) -> float:
        """Minus the nats a held-out text costs given its vector, noise-free.

        By `score_prefixes` each text is given another length of it, all lengths as often.
        """
        vectors_ND = self.model.encode_tokens(self.held_out)
        if self.settings.score_prefixes:
            lengths = [*self.prefixes, self.model.config.dim]
            length_N1 = np.resize(lengths, (len(vectors_ND), 1))
            kept_ND = vectors_ND * (np.arange(vectors_ND.shape[1]) < length_N1)
            vectors_ND = self.model.lift(kept_ND)
        return -float(nats_given(self.model, self.held_out, vectors_ND).mean())

    def _edited(self, batch: Batch) -> Tensor:
        """Vectors (B, D) of the texts' edits; zero for a text without one."""
        here = [row for row, name in enumerate(batch.names) if name in self.edit_rows]
        vectors_BD = torch.zeros(len(batch), self.model.config.dim, device=self.model.device)
        if not here or self.edits is None:
            return vectors_BD
        wrong = self.edits.gather([self.edit_rows[batch.names[row]] for row in here])
        wrong = wrong.to(self.model.device)
        arrays = self.model.base.array_of(wrong.ids_BT, wrong.mask_BT)  # named as what is `known`
        here_B = torch.tensor(here, device=vectors_BD.device)
        made_BD = self.model.encode_array(*arrays).to(vectors_BD)
        return vectors_BD.index_copy(0, here_B, made_BD)

    @torch.no_grad()
    def _views(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Arrays (B, M, H) as the encoder gets them, with tokens masked, and whole; their mask."""
        array_BMH, mask_BM = self.model.base.arrays(batch)
        if not self.settings.token_noise:
            return array_BMH, array_BMH, mask_BM
        noisy_BMH, _ = self.model.base.array_of(self._masked(batch, step), batch.mask_BT)
        return noisy_BMH, array_BMH, mask_BM

    def _among_all(self, name: str, live_BD: Tensor, batch: Batch) -> Tensor:
        """Vectors of the whole batch (G, D), those of this part with their gradient."""
        if name in self.seen:
            all_GD = self.seen[name].clone()
        else:
            all_GD = self.workers.gathered(live_BD, batch.whole.counts)
        all_GD[batch.rows] = live_BD.to(all_GD)
        return all_GD

    def _weight(self, whole: Whole, step: int) -> float:
        """What the texts of the whole batch count in all."""
        kept_GD = self._kept(whole.keys_G, step)
        return float(torch.where(kept_GD.all(1), 1.0, self.settings.prefix_weight).sum())

    def _masked(self, batch: Batch, step: int) -> Tensor:
        seed, length = self.settings.loop.seed, batch.ids_BT.shape[1]
        draw_BT = uniform(seed, step, batch.keys_B, length, TOKEN_STREAM)
        hidden_BT = torch.from_numpy(draw_BT < self.settings.token_noise).to(batch.ids_BT.device)
        return batch.ids_BT.masked_fill(hidden_BT & batch.mask_BT, self.mask_id)

    def _disturbed(self, clean_BD: Tensor, kept_BD: Tensor, batch: Batch, step: int) -> Tensor:
        """Vectors moved by noise, cut to a prefix, or replaced by the null vector; by text."""
        s = self.settings
        moved_BD = clean_BD
        if s.vector_noise:
            noise_BD = normal(s.loop.seed, step, batch.keys_B, clean_BD.shape[1], VECTOR_STREAM)
            size = s.vector_noise / clean_BD.shape[1] ** 0.5
            moved_BD = clean_BD + size * torch.from_numpy(noise_BD).to(clean_BD)
        moved_BD = F.normalize(moved_BD * kept_BD, dim=-1)
        return torch.where(kept_BD.any(1, keepdim=True), moved_BD, self.model.null_vector())

    def _kept(self, keys_B: NDArray[np.uint64], step: int) -> Tensor:
        """Which coordinates each text keeps (B, D): all, a prefix drawn evenly by length, or none.

        Texts that keep none train the null vector.
        """
        s, dim = self.settings, self.model.config.dim
        draw_B3 = uniform(s.loop.seed, step, keys_B, 3, PREFIX_STREAM)
        chosen_B = (draw_B3[:, 1] * len(self.prefixes)).astype(int)
        whole_B = draw_B3[:, 0] < (s.full_length if s.nested else 1.0)
        length_B = np.where(whole_B, dim, np.array(self.prefixes)[chosen_B])
        length_B = np.where(draw_B3[:, 2] < s.null, 0, length_B)
        return torch.from_numpy(np.arange(dim)[None, :] < length_B[:, None])

    def _fronts(self, kept_BD: Tensor, length: int) -> Tensor:
        """What each token counts, (B, T): all the same but where a prefix is to say it.

        A text's opening names its subject. A prefix of k coordinates cannot carry all of a text;
        told to, it keeps whatever saves most nats, and unseen combinations of subjects fall on
        seen ones. So the weight halves every `front` * k tokens, down to REST: a prefix alone
        still has to write a whole text.
        """
        kept_B1 = kept_BD.sum(1, keepdim=True)
        partial_B1 = (kept_B1 > 0) & (kept_B1 < kept_BD.shape[1])
        reach_B1 = self.settings.front * kept_B1.clamp(min=1)
        falling_BT = torch.exp2(-torch.arange(length, device=kept_BD.device) / reach_B1)
        weight_BT = REST + (1 - REST) * falling_BT
        return torch.where(partial_B1, weight_BT, 1.0)


class Rebuilding(Restoring):
    """Task: restore arrays, and no text: a step that writes nothing is far cheaper.

    It goes before `Restoring` where a text has many passages.
    """

    def __init__(self, model: CLLM, settings: TrainSettings, held_out: TokenTexts) -> None:
        super().__init__(model, settings, held_out)
        self.identity = digest("arrays alone", self.identity)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The error of arrays, of whole vectors and of prefixes, over what arrays vary."""
        array_BMH, mask_BM = self.model.base.arrays(batch)
        clean_BD = self.model.encode_array(array_BMH, mask_BM)
        memory_BMH, _, weight_B1 = self._unfolded(clean_BD, batch, step)
        error = array_error(self.model, memory_BMH, array_BMH, mask_BM, weight_B1, batch)
        return {"loss": error, "array": error}

    @torch.inference_mode()
    def score(self) -> float:
        """Minus the error of held-out arrays, given their vectors."""
        errors = [
            squared_error(self.model.decode_array(self.model.encode_array(array_BMH, mask_BM)),
                          array_BMH, mask_BM, mask_BM.new_ones(len(mask_BM), 1)).mean()
            for _, batch in self.held_out.in_order(64)
            for array_BMH, mask_BM in [self.model.base.arrays(batch.to(self.model.device))]
        ]  # fmt: skip
        return -float(torch.stack(errors).mean() / self.model.spread.square())


def _told(model: CLLM) -> str:
    """Its configuration, without what it does not have: so trainings begun earlier go on."""
    told: str = model.config.to_json_string()
    for name in ("editor", "passage"):
        if not getattr(model.config, name):
            told = told.replace(f'  "{name}": 0,\n', "")
    return told


def prefix_lengths(dim: int) -> list[int]:
    """Lengths a nested vector is cut to: the powers of two below dim."""
    return [2**i for i in range(1, 13) if 2**i < dim]


def squared_error(
    memory_BTH: Tensor, array_BTH: Tensor, mask_BT: Tensor, weight_B1: Tensor
) -> Tensor:
    """Mean squared error of the restored embedding of each real token, (N,), weighted by text."""
    real_NH, restored_NH = array_BTH[mask_BT], memory_BTH[:, : array_BTH.shape[1]][mask_BT]
    error_N = (restored_NH - real_NH).square().mean(1)
    return error_N * weight_B1.expand_as(mask_BT)[mask_BT]


def array_error(
    model: CLLM, memory_BMH: Tensor, array_BMH: Tensor, mask_BM: Tensor, weight_B1: Tensor,
    batch: Batch,
) -> Tensor:  # fmt: skip
    """The mean of `squared_error` over the arrays' variance; parts of a batch add up to it."""
    error_N = squared_error(memory_BMH, array_BMH, mask_BM, weight_B1)
    share = batch.mask_BT.sum() / batch.whole.tokens  # of this part
    return error_N.mean() / model.spread.square() * share


def _of_parts(term: Tensor, parts: int) -> Tensor:
    """A term that every part works out in full: over the parts its values add up to itself.

    Gradients add up as they are, since each part has only those of its own texts.
    """
    return term - term.detach() * (1 - 1 / parts)


def cluster_term(vectors_BD: Tensor, floor: float) -> Tensor:
    """Uniformity of the batch (Wang & Isola 2020, eq. 2, sign turned), with a variance floor.

    -log E exp(-2 |x - y|^2) over pairs: 4 for vectors spread evenly over a large sphere, 0
    for equal ones, so minimising it gathers them. Below `floor` times the variance of a
    uniform spread a steep penalty takes over, so that it cannot collapse.
    """
    if len(vectors_BD) < 2:
        return vectors_BD.sum() * 0.0  # one text has no spread
    distances_P = torch.pdist(vectors_BD.float()).square()
    uniformity = distances_P.mul(-2).exp().mean().log()
    variance = vectors_BD.float().var(0, unbiased=False).sum()  # 1 where uniform
    return -uniformity + 10 * F.relu(floor - variance).square() / max(floor, 1e-6)


def negative_term(
    noisy_BD: Tensor, clean_BD: Tensor, edited_BD: Tensor, temperature: float
) -> Tensor:
    """InfoNCE: a text's noisy view is nearer to its clean one than to other texts and to its edit.

    A low temperature puts the weight on the nearest confusable text (van den Oord et al. 2018).
    Without token noise both views are one, and the term keeps others away by a margin.
    """
    others_BB, edit_B1 = noisy_BD @ clean_BD.T, (noisy_BD * edited_BD).sum(1, keepdim=True)
    edit_B1 = edit_B1.masked_fill(~edited_BD.any(1, keepdim=True), -torch.inf)  # it has none
    scores_BC = torch.cat([others_BB, edit_B1], dim=1) / temperature
    return F.cross_entropy(scores_BC, torch.arange(len(noisy_BD), device=noisy_BD.device))


def text_nats(
    model: CLLM, texts: TokenTexts, prefix: int | None = None, batch: int = 64
) -> NDArray[np.float64]:
    """Nats of each text given its vector (or the first `prefix` coordinates), (N,)."""
    vectors_ND = model.encode_tokens(texts, batch)
    return nats_given(model, texts, model.lift(vectors_ND[:, :prefix]), batch)


def null_nats(model: CLLM, texts: TokenTexts) -> NDArray[np.float64]:
    """Nats of each text given the learned vector that says nothing, (N,)."""
    null_D = model.null_vector().detach().cpu().numpy()
    return nats_given(model, texts, np.repeat(null_D[None], len(texts), 0))


@torch.inference_mode()
def nats_given(
    model: CLLM, texts: TokenTexts, vectors_ND: NDArray[np.float32], batch: int = 64
) -> NDArray[np.float64]:
    """Nats of each text given any unit vector for it, (N,)."""
    nats_N = np.zeros(len(texts))
    for chosen_B, part in texts.in_order(batch):
        moved = part.to(model.device)
        memory_BMH = model.decode_array(torch.from_numpy(vectors_ND[chosen_B]).to(model.device))
        nats_BT = model.base.cross_entropy(memory_BMH, moved.ids_BT, moved.mask_BT)
        nats_N[chosen_B] = nats_BT.sum(1).cpu().numpy()
    return nats_N
