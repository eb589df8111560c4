"""Make a base LLM fit to be frozen: train a small one, or adapt one from the hub.

Two stages. *Denoising*: encoder and decoder learn to restore texts from masked
ones with noise on the token embeddings. *Low rank*: with the encoder fixed, the
decoder learns to write from the first k principal components of the token
embeddings, which is what a small vector leaves of them. A decoder that has seen
only whole arrays takes an imperfect one at its word; this one knows what is likely.
"""

# Shapes: B texts, T tokens, M memory positions, H width, D principal components.
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cllm.base import BaseLM, Tokens, device
from cllm.batches import Batch, TokenTexts, fit_context
from cllm.corpus import Corpus, spaced
from cllm.files import digest
from cllm.layers import attention_heads
from cllm.model import CLLM
from cllm.noise import PREFIX_STREAM, RATE_STREAM, TOKEN_STREAM, VECTOR_STREAM, normal, uniform
from cllm.settings import BaseSettings
from cllm.training import Fit, Report, Task, fit

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


class Denoising(Task):
    """Task: restore the text from its masked form through noisy token embeddings."""

    def __init__(self, base: BaseLM, settings: BaseSettings, held_out: TokenTexts) -> None:
        self.base, self.settings, self.held_out = base, settings, held_out
        self.module: nn.Module = base.model.train().requires_grad_(True)
        self.mask_id = base.mask
        self.spread = spread(base, held_out)
        self.identity = digest(
            settings.model_dump_json(exclude={"loop", "low_rank_loop"}), base.hash
        )

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy a token."""
        return per_token(self.nats(batch, step), batch)

    def nats(self, batch: Batch, step: int) -> Tensor:
        """Nats of each token (B, T), given a memory as drawn for this step."""
        memory_BTH = self.base.embed(self.masked(batch, step), batch.mask_BT)
        size = self.settings.memory_noise * self.spread
        memory_BTH = self.disturbed(memory_BTH, batch, step, size)
        return self.base.cross_entropy(memory_BTH, batch.ids_BT, batch.mask_BT, batch.mask_BT)

    def held_out_nats(self, batch: Batch) -> Tensor:
        """Nats of each token (B, T) of held-out texts, undisturbed."""
        memory_BTH = self.base.embed(batch.ids_BT, batch.mask_BT)
        return self.base.cross_entropy(memory_BTH, batch.ids_BT, batch.mask_BT, batch.mask_BT)

    def disturbed(
        self, memory_BMH: Tensor, batch: Batch, step: int, size: float | Tensor
    ) -> Tensor:
        """Memory with Gaussian noise of up to `size`, at a level drawn by text."""
        if not self.settings.memory_noise:
            return memory_BMH
        seed = self.settings.loop.seed
        noise = normal(seed, step, batch.keys_B, memory_BMH[0].numel(), VECTOR_STREAM)
        level_B11 = uniform(seed, step, batch.keys_B, 2, RATE_STREAM)[:, 1, None, None]
        noise_BMH = torch.from_numpy(noise.reshape(memory_BMH.shape) * level_B11)
        noise_BMH = noise_BMH.to(memory_BMH)
        return memory_BMH + size * noise_BMH

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
        """Minus the nats a held-out text."""
        total = 0.0
        for _, batch in self.held_out.in_order(64):
            total += float(self.held_out_nats(batch.to(self.base.device)).sum())
        return -total / len(self.held_out)


class Adapting(Denoising):
    """The same for a base from elsewhere, until it restores enough without a bottleneck."""

    def __init__(self, base: BaseLM, settings: BaseSettings, held_out: TokenTexts) -> None:
        self.enough = restored_tokens(base, held_out) >= settings.minimum_restored
        super().__init__(base, settings, held_out)

    def score(self) -> float:
        """Minus the nats a held-out text; looks besides whether it restores enough."""
        share = restored_tokens(self.base, self.held_out)
        log.info("the base restores %.2f %% of held-out tokens", 100 * share)
        self.enough = share >= self.settings.minimum_restored
        return super().score()


class LowRank(Denoising):
    """Task: restore the text from what a small vector could hold of its token embeddings.

    An untrained CLLM is a hierarchical PCA. Most texts keep the first k of its components, k
    even on a log scale; the others are masked as in denoising. The whole context is memory, as
    it is for a CLLM: no mask, no length.
    """

    masked_share = 0.3
    noise = 0.3  # of the denoising stage's, on arrays of low rank

    def __init__(
        self, base: BaseLM, settings: BaseSettings, train: TokenTexts, held_out: TokenTexts,
        context: int,
    ) -> None:  # fmt: skip
        super().__init__(base, settings, held_out)
        base.encoder.requires_grad_(False)  # the components stay what they are
        self.dim = min(settings.rank, context * base.width)
        self.identity = digest(self.identity, str(context))
        base.encoder.eval()  # no dropout: the components are to be those a CLLM will see
        self.collapse = CLLM.from_base(base, context=context, dim=self.dim)
        self.collapse.start(train, sample=4096)
        self.collapse.requires_grad_(False)

    def nats(self, batch: Batch, step: int) -> Tensor:
        """Nats of each token (B, T), given a memory as drawn for this step."""
        memory_BMH = self.memory(batch, step)
        return self.base.cross_entropy(memory_BMH, batch.ids_BT, batch.mask_BT)

    def held_out_nats(self, batch: Batch) -> Tensor:
        """Nats of each token (B, T), drawn as in training, but once and for all."""
        return self.nats(batch, 0)

    @torch.no_grad()
    def memory(self, batch: Batch, step: int) -> Tensor:
        """The memory (B, context, H) of each text."""
        self.base.encoder.eval()  # the loop puts the whole base into training mode
        kept_BD, whole_B = self.kept(batch, step)
        ids_BT = torch.where(whole_B[:, None], self.masked(batch, step), batch.ids_BT)
        x_BMH = self.collapse.standardised(self.base.embed(ids_BT, batch.mask_BT), batch.mask_BT)
        codec = self.collapse.codec
        low_BMH = codec.decoder(codec.encoder(x_BMH) * kept_BD)
        memory_BMH = torch.where(whole_B[:, None, None], x_BMH, low_BMH)
        memory_BMH = memory_BMH * self.collapse.spread + self.collapse.mean
        size_B = torch.where(whole_B, 1.0, self.noise) * self.settings.memory_noise * self.spread
        return self.disturbed(memory_BMH, batch, step, size_B[:, None, None])

    def kept(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Which components each text keeps, (B, D), and which texts keep the whole array, (B,)."""
        draw_B2 = uniform(self.settings.loop.seed, step, batch.keys_B, 2, PREFIX_STREAM)
        first_B = np.floor((self.dim + 1) ** draw_B2[:, 0])  # 1 .. D, even in the log
        kept_BD = torch.from_numpy(np.arange(self.dim) < first_B[:, None])
        whole_B = torch.from_numpy(draw_B2[:, 1] < self.masked_share)
        return kept_BD.to(batch.ids_BT.device), whole_B.to(batch.ids_BT.device)


@torch.inference_mode()
def spread(base: BaseLM, texts: TokenTexts) -> float:
    """Standard deviation of the token embeddings of some texts, over all coordinates."""
    batch = texts.gather(spaced(len(texts), 64)).to(base.device)
    return float(base.embed(batch.ids_BT, batch.mask_BT)[batch.mask_BT].float().std())


def per_token(nats_BT: Tensor, batch: Batch) -> dict[str, Tensor]:
    """A task's losses where cross-entropy is all: nats a token, and nats a text."""
    total = nats_BT.sum()
    return {"loss": total / batch.whole.tokens, "cross_entropy": total / batch.whole.texts}


@torch.inference_mode()
def restored_tokens(base: BaseLM, texts: TokenTexts) -> float:
    """Share of tokens that `rewritten` puts in their place."""
    right = whole = 0
    for row, wanted in zip(rewritten(base, texts), texts.rows, strict=True):
        right += sum(a == b for a, b in zip(row, wanted.tolist(), strict=False))
        whole += max(len(wanted), len(row))
    return right / whole


def rewritten(base: BaseLM, texts: TokenTexts, batch: int = 64) -> Tokens:
    """Each text's tokens as greedy, free-running decoding restores them without a bottleneck."""
    rows: Tokens = [[]] * len(texts)
    for order_B, part in texts.in_order(batch):
        moved = part.to(base.device)
        memory_BTH = base.embed(moved.ids_BT, moved.mask_BT)
        most = moved.ids_BT.shape[1] + 8
        for at, row in zip(
            order_B, base.write(memory_BTH, most, memory_mask_BM=moved.mask_BT), strict=True
        ):
            rows[at] = row
    return rows


def token_texts(base: BaseLM, corpus: Corpus, context: int) -> TokenTexts:
    """The corpus as token rows, cut to the context; says how many were cut."""
    return _cut(base, corpus, base.tokenize(corpus.texts), context)


def fitted_texts(base: BaseLM, corpus: Corpus, limit: int) -> tuple[TokenTexts, int]:
    """The corpus as token rows, and the context that fits it, as `fit_context` finds it."""
    rows = base.tokenize(corpus.texts)
    context = fit_context(base.lengths(rows), limit)
    return _cut(base, corpus, rows, context), context


def _cut(base: BaseLM, corpus: Corpus, rows: Tokens, context: int) -> TokenTexts:
    texts = base.texts(corpus.ids, rows, context)
    if texts.cut:
        log.warning(
            "%d of %d texts are longer than %d %s and were cut",
            texts.cut,
            len(texts),
            context,
            base.unit,
        )
    return texts


def train_denoising(
    base: BaseLM, corpus: Corpus, settings: BaseSettings, folder: Path,
    report: Report | None = None, *, adapting: bool = False,
) -> Fit:  # fmt: skip
    """First stage: the base learns to restore the corpus. Leaves its best weights in `base`.

    `adapting` a base from elsewhere ends as soon as it restores enough.
    """
    train = token_texts(base, corpus.select("train"), settings.context)
    held_out = held_out_texts(base, corpus, settings.context)
    task = (Adapting if adapting else Denoising)(base, settings, held_out)
    return _frozen(base, fit(task, train, settings.loop, folder, report))


def train_low_rank(
    base: BaseLM, corpus: Corpus, settings: BaseSettings, folder: Path,
    report: Report | None = None, context: int | None = None,
) -> Fit:  # fmt: skip
    """Second stage: the decoder learns to write from low-rank arrays; the encoder stays.

    `context`: that a CLLM has; none = the one that it will have on these texts.
    """
    if context is None:
        train, context = fitted_texts(base, corpus.select("train"), settings.context)
    else:
        train = token_texts(base, corpus.select("train"), context)
    task = LowRank(base, settings, train, held_out_texts(base, corpus, context), context)
    return _frozen(base, fit(task, train, settings.low_rank_loop, folder, report))


def held_out_texts(base: BaseLM, corpus: Corpus, context: int) -> TokenTexts:
    """Validation texts that are scored while training."""
    return token_texts(base, corpus.select("validation").sample(HELD_OUT), context)


def _frozen(base: BaseLM, result: Fit) -> Fit:
    base.model.eval().requires_grad_(False)
    base.__dict__.pop("hash", None)  # of the weights before
    return result
