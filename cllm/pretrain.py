"""Make a base LLM fit to be frozen: train a small one, or adapt one from the hub.

Both learn to restore texts from masked ones with noise on the token embeddings,
so that the decoder forgives an imperfect array. Beside the base stands its
*reference*: a decoder LM of the same size and training time without any
encoder, which says how many nats a text costs without its vector.
"""

# Shapes: B texts, T tokens, H width, V vocabulary.
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from cllm.base import BaseLM, device
from cllm.batches import Batch, TokenTexts
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.files import digest
from cllm.layers import attention_heads
from cllm.noise import RATE_STREAM, TOKEN_STREAM, VECTOR_STREAM, normal, uniform
from cllm.settings import BaseSettings
from cllm.training import Fit, Report, fit

log = logging.getLogger(__name__)

PAD, EOS, MASK = "<pad>", "</s>", "<mask>"
HELD_OUT = 512  # texts scored while training
SPARE_POSITIONS = 16  # a little more than the context, so that a loop can be seen as one
COPY_GAIN = 2.0


def train_tokenizer(texts: tuple[str, ...], vocabulary: int) -> Any:  # noqa: ANN401
    """A lossless byte-level BPE tokenizer with <pad>, </s> and <mask>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, mask_token=MASK,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def new_base(corpus: Corpus, settings: BaseSettings, name: str) -> BaseLM:
    """An untrained base LLM with a tokenizer made from the training texts."""
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    torch.manual_seed(settings.loop.seed)
    tokenizer = train_tokenizer(corpus.select("train").texts, settings.vocabulary)
    heads = attention_heads(settings.width)
    config = PegasusConfig(
        vocab_size=len(tokenizer),
        d_model=settings.width,
        encoder_layers=settings.layers,
        decoder_layers=settings.layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=settings.feed_forward,
        decoder_ffn_dim=settings.feed_forward,
        max_position_embeddings=settings.context + SPARE_POSITIONS,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        scale_embedding=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
    )
    model = PegasusForConditionalGeneration(config)
    _start_copying(model)
    return BaseLM(model, tokenizer, name).to(device())


@torch.no_grad()
def _start_copying(model: Any) -> None:  # noqa: ANN401
    """Let each decoder position look at the same encoder position from the first step on.

    Query and key projections of the cross-attention start equal and orthogonal, output and
    value projections as each other's inverse, so positions match and tokens pass through.
    """
    for layer in model.get_decoder().layers:
        cross = layer.encoder_attn
        nn.init.orthogonal_(cross.q_proj.weight, gain=COPY_GAIN)
        cross.k_proj.weight.copy_(cross.q_proj.weight)
        nn.init.orthogonal_(cross.v_proj.weight)
        cross.out_proj.weight.copy_(cross.v_proj.weight.T)


class Denoising:
    """Task: restore the text from its masked form through noisy token embeddings."""

    def __init__(self, base: BaseLM, settings: BaseSettings, held_out: TokenTexts) -> None:
        self.base, self.settings, self.held_out = base, settings, held_out
        self.module: nn.Module = base.model.train().requires_grad_(True)
        self.mask_id = mask_token(base)
        self.identity = digest(settings.model_dump_json(exclude={"loop"}), str(base.model.config))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy a token."""
        ids_BT = self.masked(batch, step)
        memory_BTH = self.base.embed(ids_BT, batch.mask_BT)
        size = self.settings.memory_noise
        if size:
            seed = self.settings.loop.seed
            noise = normal(seed, step, batch.keys_B, memory_BTH[0].numel(), VECTOR_STREAM)
            level_B11 = uniform(seed, step, batch.keys_B, 2, RATE_STREAM)[:, 1, None, None]
            noise_BTH = torch.from_numpy(noise.reshape(memory_BTH.shape) * level_B11)
            memory_BTH = memory_BTH + size * noise_BTH.to(memory_BTH)
        nats_BT = self.base.cross_entropy(memory_BTH, batch.ids_BT, batch.mask_BT, batch.mask_BT)
        loss = nats_BT.sum() / batch.mask_BT.sum()
        return {"loss": loss, "cross_entropy": nats_BT.sum() / len(batch)}

    def masked(self, batch: Batch, step: int) -> Tensor:
        """Ids (B, T) with a share of tokens replaced by the mask, from none to all, by text."""
        settings = self.settings
        rate_B1 = uniform(settings.loop.seed, step, batch.keys_B, 1, RATE_STREAM)
        unaided_B1 = rate_B1 > 1 - settings.unconditional  # the decoder also learns to write so
        rate_B1 = np.where(
            unaided_B1, 1.0, 2 * settings.mask * rate_B1 / (1 - settings.unconditional)
        )
        length = batch.ids_BT.shape[1]
        draw_BT = uniform(settings.loop.seed, step, batch.keys_B, length, TOKEN_STREAM)
        hidden_BT = torch.from_numpy(draw_BT < rate_B1).to(batch.ids_BT.device) & batch.mask_BT
        return batch.ids_BT.masked_fill(hidden_BT, self.mask_id)

    @torch.inference_mode()
    def score(self) -> float:
        """Minus the nats a text on clean held-out texts."""
        total = 0.0
        for _, batch in self.held_out.in_order(64):
            moved = batch.to(self.base.device)
            memory_BTH = self.base.embed(moved.ids_BT, moved.mask_BT)
            total += float(
                self.base.cross_entropy(
                    memory_BTH, moved.ids_BT, moved.mask_BT, moved.mask_BT
                ).sum()
            )
        return -total / len(self.held_out)


def mask_token(base: BaseLM) -> int:
    """The token that stands for a hidden one: <mask> (BART), the first sentinel (T5), or <unk>."""
    tokenizer = base.tokenizer
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    return int(
        tokenizer.convert_tokens_to_ids("<extra_id_0>") or tokenizer.unk_token_id or base.pad
    )


def restored_tokens(base: BaseLM, texts: TokenTexts, batch: int = 64) -> float:
    """Share of tokens that greedy, free-running decoding restores without a bottleneck."""
    right = whole = 0
    for _, part in texts.in_order(batch):
        moved = part.to(base.device)
        memory_BTH = base.embed(moved.ids_BT, moved.mask_BT)
        rows = base.write(memory_BTH, moved.ids_BT.shape[1] + 8, memory_mask_BM=moved.mask_BT)
        for row, wanted, length in zip(
            rows, part.ids_BT.tolist(), part.mask_BT.sum(1).tolist(), strict=True
        ):
            right += sum(a == b for a, b in zip(row, wanted[:length], strict=False))
            whole += max(length, len(row))
    return right / whole


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
            model = GPT2LMHeadModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"{folder} holds no reference LM; make it with `cllm pretrain` or `cllm run`"
            ) from error
        return cls(model.eval().requires_grad_(False).to(base.device), base.start)

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder."""
        self.model.save_pretrained(folder)

    def cross_entropy(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Nats of each token, (B, T), 0 where masked."""
        start_B1 = torch.full_like(ids_BT[:, :1], self.start)
        logits_BTV = self.model(torch.cat([start_B1, ids_BT[:, :-1]], 1), use_cache=False).logits
        nats_BT = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), ids_BT.flatten(), reduction="none"
        )
        return nats_BT.view_as(ids_BT) * mask_BT

    @torch.inference_mode()
    def nats(self, texts: TokenTexts, batch: int = 64) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Nats of each text, (N,)."""
        nats_N = np.zeros(len(texts))
        device = next(self.model.parameters()).device
        for chosen_B, part in texts.in_order(batch):
            moved = part.to(device)
            nats_N[chosen_B] = self.cross_entropy(moved.ids_BT, moved.mask_BT).sum(1).cpu().numpy()
        return nats_N


def decoder_size(config: Any) -> tuple[int, int]:  # noqa: ANN401 - any seq2seq configuration
    """Layers and MLP width of a base's decoder, as BART and T5 name them."""
    layers = getattr(config, "decoder_layers", None) or config.num_decoder_layers
    inner = getattr(config, "decoder_ffn_dim", None) or config.d_ff
    return int(layers), int(inner)


class Writing:
    """Task: predict the next token, given nothing but the ones before."""

    def __init__(self, reference: ReferenceLM, held_out: TokenTexts) -> None:
        self.reference, self.held_out = reference, held_out
        self.module: nn.Module = reference.model.train().requires_grad_(True)
        self.identity = digest(str(reference.model.config))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002 - no noise here
        """Cross-entropy a token."""
        nats_BT = self.reference.cross_entropy(batch.ids_BT, batch.mask_BT)
        loss = nats_BT.sum() / batch.mask_BT.sum()
        return {"loss": loss, "cross_entropy": nats_BT.sum() / len(batch)}

    def score(self) -> float:
        """Minus the nats a held-out text."""
        return -float(self.reference.nats(self.held_out).mean())


def token_texts(base: BaseLM, corpus: Corpus, context: int) -> TokenTexts:
    """The corpus as token rows, cut to the context; says how many were cut."""
    rows = base.tokenize(corpus.texts)
    texts = TokenTexts.of(corpus.ids, rows, base.pad, context)
    if texts.cut:
        log.warning(
            "%d of %d texts are longer than %d tokens and were cut", texts.cut, len(texts), context
        )
    return texts


def train_denoising(
    base: BaseLM, corpus: Corpus, settings: BaseSettings, folder: Path, report: Report | None = None
) -> Fit:
    """Train the base to restore the corpus; freezes it at its best and leaves it in `base`."""
    train = token_texts(base, corpus.select("train"), settings.context)
    held_out = token_texts(base, corpus.select("validation"), settings.context)
    task = Denoising(base, settings, _first(held_out, HELD_OUT))
    result = fit(task, train, settings.loop, folder, report)
    base.model.eval().requires_grad_(False)
    base.__dict__.pop("hash", None)  # of the weights before
    return result


def train_reference(
    base: BaseLM, corpus: Corpus, settings: BaseSettings, folder: Path, report: Report | None = None
) -> tuple[ReferenceLM, Fit]:
    """Train the reference LM on the corpus with the same loop settings."""
    train = token_texts(base, corpus.select("train"), settings.context)
    held_out = token_texts(base, corpus.select("validation"), settings.context)
    reference = ReferenceLM.new(base, settings, settings.context)
    reference.model.to(base.device)
    task = Writing(reference, _first(held_out, HELD_OUT))
    result = fit(task, train, settings.loop, folder, report)
    reference.model.eval().requires_grad_(False)
    return reference, result


def _first(texts: TokenTexts, n: int) -> TokenTexts:
    return TokenTexts(texts.names[:n], texts.rows[:n], texts.pad, texts.cut)
