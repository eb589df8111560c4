"""The frozen base LLM: texts to token embeddings, token embeddings to texts.

Wraps any encoder-decoder that `AutoModelForSeq2SeqLM` loads (T5 and BART
families, Pegasus). Its weights never change here; `cllm pretrain` and
`cllm adapt` make it fit for the job first.
    base = BaseLM.load("runs/demo/base")
"""

# Shapes: B texts, T tokens, M memory positions, H width, V vocabulary.
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from cllm.errors import InputError

if TYPE_CHECKING:
    from cllm.arrays import TokenArrays
    from cllm.batches import Batch, TokenTexts

Tokens = list[list[int]]
# what saving writes into a configuration: no part of what the model is
_PASSING = ("architectures", "dtype", "transformers_version", "_name_or_path")


@dataclass(frozen=True)
class Generation:
    """How to write: greedy (default), `beams` > 1, or `sample` at a `temperature`."""

    beams: int = 1
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0


GREEDY = Generation()


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class BaseLM:
    """A frozen encoder-decoder and its tokenizer."""

    unit = "tokens"  # what a context counts
    passage = 0  # words of the passages that are folded; 0 = tokens
    home = "../base"  # where it lies, from a model's folder

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:  # noqa: ANN401
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.encoder = model.get_encoder()
        config = model.config
        self.width: int = config.d_model
        self.vocabulary: int = config.vocab_size
        self.eos: int = config.eos_token_id
        self.pad: int = config.pad_token_id
        start = config.decoder_start_token_id
        self.start: int = self.pad if start is None else start
        # T5 counts positions relatively and has no limit
        self.limit: int | None = getattr(config, "max_position_embeddings", None)
        self.recomputing = False  # activations, rather than keeping them
        self.known: TokenArrays | None = None  # token embeddings that need no encoder any more
        self._write_plainly()

    @classmethod
    def load(cls, name_or_dir: str | Path, dtype: torch.dtype = torch.float32) -> BaseLM:
        """Load from a folder, or by name from the hub or its cache. Safetensors only.

        Raises:
            InputError: no such folder or model, a file missing, or not an encoder-decoder.
        """
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        place = str(name_or_dir)
        try:
            tokenizer = AutoTokenizer.from_pretrained(place)
            model, found = AutoModelForSeq2SeqLM.from_pretrained(
                place, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise InputError(_cannot_load(place, error)) from error
        if not hasattr(model.config, "d_model"):
            raise InputError(_cannot_load(place, ValueError(_other_class(model))))
        if found["missing_keys"]:  # transformers would fill them with random numbers
            lacking = ", ".join(sorted(found["missing_keys"])[:3])
            raise InputError(_cannot_load(place, ValueError(f"its weights lack {lacking}")))
        return cls(model, tokenizer, place).to(device())

    def apply(self, fn: Callable[[Tensor], Tensor], *, recurse: bool = True) -> None:
        """Move or cast the weights, as a module that hangs on this one does."""
        self.model._apply(fn, recurse)

    def _write_plainly(self) -> None:
        """Drop a hub model's own habits (BART's forced tokens, no-repeat rules, length limits)."""
        from transformers import GenerationConfig

        self.model.generation_config = GenerationConfig(
            eos_token_id=self.eos, pad_token_id=self.pad, decoder_start_token_id=self.start
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def hash(self) -> str:
        """16 hex digits over configuration and weights: what latents and models refer to."""
        config = self.model.config.to_diff_dict()
        kept = {name: value for name, value in config.items() if name not in _PASSING}
        digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def mask(self) -> int:
        """The token of a hidden one: <mask> (BART), the first sentinel (T5), <unk> or padding."""
        tokenizer = self.tokenizer
        if tokenizer.mask_token_id is not None:
            return int(tokenizer.mask_token_id)
        sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
        return int(sentinel or tokenizer.unk_token_id or self.pad)

    @contextmanager
    def _recomputed(self) -> Iterator[None]:
        """Activations within are worked out again for the gradient, where `recomputing` is set.

        transformers does so in layers that are in training mode, in which they also use dropout,
        which is switched off, and keep no cache, which writing needs: so it is for this call only.
        """
        if not (self.recomputing and torch.is_grad_enabled()):
            yield
            return
        from torch.utils.checkpoint import checkpoint
        from transformers.modeling_layers import GradientCheckpointingLayer

        layers: list[Any] = [
            m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)
        ]
        for layer in layers:
            layer.training = layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            for name in ("dropout", "activation_dropout"):
                if isinstance(getattr(layer, name, None), float):
                    setattr(layer, name, 0.0)
        try:
            yield
        finally:
            for layer in layers:
                layer.training = layer.gradient_checkpointing = False

    def to(self, device: torch.device | str) -> BaseLM:
        """Move the weights."""
        self.model.to(device)
        return self

    def save(self, path: Path) -> None:
        """Write a Hugging Face folder."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)

    def tokenize(self, texts: list[str] | tuple[str, ...]) -> Tokens:
        """Token ids of each text, its end token included, uncut."""
        if not texts:
            return []
        # "</s>" written inside a text is text, not the end of it
        distinct = list(dict.fromkeys(texts))  # a loop's few texts stand there a thousand times
        rows = self.tokenizer(distinct, add_special_tokens=False, split_special_tokens=True)
        row_of = dict(zip(distinct, rows["input_ids"], strict=True))
        return [[*row_of[text], self.eos] for text in texts]

    def to_text(self, tokens: Tokens) -> list[str]:
        """Texts of token rows, special tokens left out."""
        return [t.strip() for t in self.tokenizer.decode(tokens, skip_special_tokens=True)]

    def embed(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Token embeddings (B, T, H): the last hidden states of the encoder."""
        output = self.encoder(input_ids=ids_BT, attention_mask=mask_BT.long())
        hidden_BTH: Tensor = output.last_hidden_state
        return hidden_BTH

    def array_of(self, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """What a CLLM folds of each text, (B, M, H), and which of it is there, (B, M).

        Here its token embeddings; a vector for each passage where there are two levels.
        """
        return self.embed(ids_BT, mask_BT), mask_BT

    def arrays(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same of a batch, looked up where all its texts are `known`."""
        found = self.known.find(batch) if self.known else None
        return found or self.array_of(batch.ids_BT, batch.mask_BT)

    @property
    def ground(self) -> BaseLM:
        """The base whose arrays are token embeddings: this one, unless it is made of passages."""
        return self

    def pieces(self, row: Sequence[int]) -> Tokens:
        """What the ground's decoder writes one by one: here all of it."""
        return [list(row)]

    def lengths(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """How much of a context each text takes: its tokens."""
        return [len(row) for row in rows]

    def places(self, row: Sequence[int] | NDArray[np.int64]) -> int:
        """Rows of a text's array."""
        return len(row)

    def texts(
        self, names: Sequence[str], rows: Sequence[Sequence[int]], context: int
    ) -> TokenTexts:
        """Token rows under names, cut to a context."""
        from cllm.batches import TokenTexts

        return TokenTexts.of(names, rows, self.pad, context)

    def cross_entropy(
        self,
        memory_BMH: Tensor,
        ids_BT: Tensor,
        mask_BT: Tensor,
        memory_mask_BM: Tensor | None = None,
    ) -> Tensor:
        """Teacher-forced nats of each token given the memory, (B, T), 0 where masked."""
        return token_nats(self.logits(memory_BMH, ids_BT, memory_mask_BM), ids_BT, mask_BT)

    def logits(
        self, memory_BMH: Tensor, ids_BT: Tensor, memory_mask_BM: Tensor | None = None
    ) -> Tensor:
        """Teacher-forced next-token scores (B, T, V) given the memory."""
        from transformers.modeling_outputs import BaseModelOutput

        start_B1 = torch.full_like(ids_BT[:, :1], self.start)
        with self._recomputed():
            output = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=memory_BMH),
                attention_mask=None if memory_mask_BM is None else memory_mask_BM.long(),
                decoder_input_ids=torch.cat([start_B1, ids_BT[:, :-1]], dim=1),
                use_cache=False,
            )
        logits_BTV: Tensor = output.logits
        return logits_BTV

    @torch.inference_mode()
    def write(
        self,
        memory_BMH: Tensor,
        max_tokens: int,
        how: Generation = GREEDY,
        memory_mask_BM: Tensor | None = None,
    ) -> Tokens:
        """Free-running token rows from the memory, end token included if it was reached."""
        from transformers.modeling_outputs import BaseModelOutput

        mask = (
            memory_BMH.new_ones(memory_BMH.shape[:2]) if memory_mask_BM is None else memory_mask_BM
        )
        if self.limit:
            max_tokens = min(max_tokens, self.limit - 1)
        options: dict[str, Any] = {"num_beams": how.beams, "do_sample": how.sample}
        if how.sample:
            options |= {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
        rows_BT = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory_BMH),
            attention_mask=mask.long(),
            max_new_tokens=max_tokens,
            **options,
        )
        return [self._trim(row) for row in rows_BT[:, 1:].tolist()]

    def _trim(self, row: list[int]) -> list[int]:
        return row[: row.index(self.eos) + 1] if self.eos in row else row


def token_nats(logits_BTV: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Nats of each token by next-token scores, (B, T), 0 where masked."""
    nats_BT = F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), ids_BT.flatten(), reduction="none"
    )  # fmt: skip
    return nats_BT.view_as(ids_BT) * mask_BT


def _other_class(model: Any) -> str:  # noqa: ANN401
    return f"a {type(model).__name__} says no d_model, the width of its token embeddings"


def _cannot_load(place: str, error: BaseException) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not Path(place).exists() and (place.count("/") > 1 or place.startswith((".", "/", "~"))):
        first_line = "there is no such folder"
    elif lost := [link.name for link in Path(place).glob("*") if not link.exists()]:
        first_line = f"links in it lead nowhere ({', '.join(sorted(lost))}): copy what they meant"
    return (
        f"cannot load a base LLM from {place!r}: {first_line}; give the folder or hub name of an "
        "encoder-decoder in safetensors form (T5, BART, Pegasus), or make one with `cllm pretrain`"
    )
