"""The reference LM: what a text costs without its vector.

A decoder-only LM with the base's tokenizer and its decoder's size, trained on the
same split; `gain_nats` counts from it where it is cheaper than the null vector.
"""

# Shapes: B texts, T tokens, N texts in all, V vocabulary.
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from cllm.base import BaseLM, token_nats
from cllm.batches import Batch, TokenTexts
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.files import digest
from cllm.layers import attention_heads
from cllm.levels import MOST_PASSAGES
from cllm.pretrain import held_out_texts, per_token, token_texts
from cllm.settings import BaseSettings
from cllm.training import Fit, Report, Task, fit

LONGEST = 1024  # tokens of a long text that it sees at once


class ReferenceLM:
    """A decoder-only LM with the base's tokenizer and decoder size, no encoder, no vector."""

    def __init__(self, model: Any, start: int) -> None:  # noqa: ANN401
        self.model, self.start = model, start

    @classmethod
    def new(cls, base: BaseLM, settings: BaseSettings, context: int) -> ReferenceLM:
        """Untrained, of the size of the base's decoder (GPT-2 style, pre-norm)."""
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(settings.loop.seed)
        layers, inner = decoder_size(base.model.config)
        config = GPT2Config(
            vocab_size=base.vocabulary,
            n_positions=context,
            n_embd=base.width,
            n_layer=layers,
            n_head=attention_heads(base.width),
            n_inner=inner,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=base.start,
            eos_token_id=base.eos,
        )
        return cls(GPT2LMHeadModel(config), base.start)

    @classmethod
    def load(cls, folder: Path, base: BaseLM) -> ReferenceLM:
        """From `base/reference`."""
        from transformers import GPT2LMHeadModel

        try:
            loaded: Any = GPT2LMHeadModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
            model, found = loaded
            if found["missing_keys"]:  # transformers would fill them with random numbers
                raise ValueError(f"its weights lack {min(found['missing_keys'])}")
            if model.config.vocab_size != base.vocabulary:
                raise ValueError("it has another vocabulary than the base")
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"{folder} holds no reference LM; make it with `cllm pretrain` or `cllm run`"
            ) from error
        return cls(model.eval().requires_grad_(False).to(base.device), base.start)

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder."""
        self.model.save_pretrained(folder)

    def cross_entropy(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Nats of each token, (B, T), 0 where masked.

        Beyond its own context it begins again, with the last token before.
        """
        start_B1 = torch.full_like(ids_BT[:, :1], self.start)
        before_BT, size = torch.cat([start_B1, ids_BT[:, :-1]], 1), self.model.config.n_positions
        return torch.cat([
            token_nats(self.model(seen_Bt, use_cache=False).logits, ids_Bt, mask_Bt)
            for seen_Bt, ids_Bt, mask_Bt in zip(
                before_BT.split(size, 1), ids_BT.split(size, 1), mask_BT.split(size, 1), strict=True
            )
        ], 1)  # fmt: skip

    def nats(self, texts: TokenTexts, batch: int = 64) -> NDArray[np.float64]:
        """Nats of each text, (N,)."""
        return self.costs(texts, batch)[0]

    def nats_a_token(self, texts: TokenTexts) -> NDArray[np.float64]:
        """Of each text, (N,)."""
        return np.asarray(self.nats(texts) / np.array([len(row) for row in texts.rows]))

    @torch.inference_mode()
    def costs(
        self, texts: TokenTexts, batch: int = 64
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nats of each text, and of its second most surprising token; (N,) each."""
        nats_N, second_N = np.zeros((2, len(texts)))
        device = next(self.model.parameters()).device
        for chosen_B, part in texts.in_order(batch):
            moved = part.to(device)
            nats_BT = self.cross_entropy(moved.ids_BT, moved.mask_BT)
            nats_N[chosen_B] = nats_BT.sum(1).cpu().numpy()
            second_N[chosen_B] = nats_BT.topk(min(2, nats_BT.shape[1])).values[:, -1].cpu().numpy()
        return nats_N, second_N


def decoder_size(config: Any) -> tuple[int, int]:  # noqa: ANN401 - any seq2seq configuration
    """Layers and MLP width of a base's decoder, as BART and T5 name them."""
    layers = getattr(config, "decoder_layers", None) or config.num_decoder_layers
    inner = getattr(config, "decoder_ffn_dim", None) or config.d_ff
    return int(layers), int(inner)


def reference_rate(width: int) -> float:
    """AdamW's rate: 3e-3 where the LM is small, less in proportion where it is wide."""
    return min(3e-3, 0.6 / width)


class Writing(Task):
    """Task: predict the next token, given nothing but the ones before."""

    def __init__(self, reference: ReferenceLM, held_out: TokenTexts) -> None:
        self.reference, self.held_out = reference, held_out
        self.module: nn.Module = reference.model.train().requires_grad_(True)
        self.identity = digest(str(reference.model.config))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002 - no noise here
        """Cross-entropy a token."""
        return per_token(self.reference.cross_entropy(batch.ids_BT, batch.mask_BT), batch)

    def score(self) -> float:
        """Minus the nats a held-out text."""
        return -float(self.reference.nats(self.held_out).mean())


def train_reference(
    base: BaseLM, corpus: Corpus, settings: BaseSettings, folder: Path, report: Report | None = None
) -> tuple[ReferenceLM, Fit]:
    """Train the reference LM on the corpus with the same loop settings."""
    context = MOST_PASSAGES if base.passage else settings.context
    train = token_texts(base, corpus.select("train"), context)
    held_out = held_out_texts(base, corpus, context)
    places = min(LONGEST, max(map(len, train.rows))) if base.passage else context
    reference = ReferenceLM.new(base, settings, places)
    reference.model.to(base.device)
    task = Writing(reference, held_out)
    result = fit(task, train, settings.loop, folder, report)
    reference.model.eval().requires_grad_(False)
    return reference, result
