"""The CLLM: an autoencoder that folds a text's token embeddings into one unit vector.

model = CLLM.from_base("runs/demo/base", dim=32)
vectors = model.encode(["title: leek soup. ..."])   # (1, 32), unit length
texts = model.decode(vectors)                       # the vector and nothing else
"""

# Shapes: B texts, N texts in all, T tokens, M memory positions, H base width, D bottleneck.
from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from cllm.base import GREEDY, BaseLM, Generation
from cllm.batches import Batch, TokenTexts
from cllm.codecs import make_codec
from cllm.errors import InputError
from cllm.files import digest, read_json
from cllm.settings import ModelSettings, first_fault
from cllm.sphere import slerp

if TYPE_CHECKING:
    from cllm.editor import Editor

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

MIN_SAMPLE, SAMPLE_VALUES = 64, 100_000_000  # texts and values that a start is learnt from


_SHAPE = (  # what decides vectors, texts and voids, with the weights
    "base_hash", "dim", "void_dim", "context", "form", "blocks", "perceptron", "window", "nested",
)  # fmt: skip


class CLLMConfig(PreTrainedConfig):
    """Shape of a CLLM and of the base it belongs to."""

    model_type = "cllm"

    dim: int = 32
    void_dim: int = 4
    context: int = 128
    width: int = 192
    form: str = "mirrored"
    blocks: int = 1
    perceptron: bool = True
    window: int = 128
    nested: bool = True
    editor: int = 0  # steps that rewrite restored arrays
    passage: int = 0  # words of the passages that it folds; 0 = tokens
    base: str = "../base"
    base_hash: str = ""


class CLLM(PreTrainedModel):
    """Token embeddings (B, T, H) to unit vectors (B, D) and back.

    The base LLM hangs on it as `self.base` but is no part of its weights: a model folder
    holds the CLLM alone and names its base.
    """

    config_class = CLLMConfig
    base_model_prefix = "cllm"
    main_input_name = "array_BTH"

    def __init__(self, config: CLLMConfig) -> None:
        super().__init__(config)
        c = config
        self.codec = make_codec(
            c.form, (c.context, c.width), c.dim, c.blocks, c.window, perceptron=c.perceptron
        )
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(c.context, c.width))
        self.register_buffer("spread", torch.ones(()))
        self.null = nn.Parameter(torch.randn(c.dim) * c.dim**-0.5)
        self.editor: Editor | None = None
        if c.editor:
            self.add_editor(c.editor)
        self._base: BaseLM | None = None
        self.checkpointing = False  # work out activations twice instead of keeping them
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    def add_editor(self, steps: int) -> None:
        """One that does nothing yet (`cllm.editor`); it is saved with the model."""
        from cllm.editor import Editor

        self.config.editor = steps
        self.editor = Editor(self.config.context, self.config.width, steps).to(self.mean.device)

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation is kept; transformers' default would overwrite it."""

    @classmethod
    def from_base(
        cls, base: BaseLM | str | Path, context: int = 128, **shape: int | str | bool
    ) -> CLLM:
        """An untrained CLLM over a base LLM, for texts of up to `context` tokens.

        `shape` are fields of ModelSettings (dim, form, blocks, ...).

        Raises:
            InputError: the vector would be larger than the array it is to hold.
        """
        base = base if isinstance(base, BaseLM) else BaseLM.load(base)
        try:
            settings = ModelSettings.model_validate(shape)
        except ValidationError as error:
            raise InputError(first_fault(error)) from error
        config = CLLMConfig(
            context=context,
            width=base.width,
            passage=base.passage,
            base=base.home,
            base_hash=base.hash,
            **settings.model_dump(),
        )
        model = cls(config)
        model.base = base
        nn.Module.to(model, base.device)
        return model

    @classmethod
    def load(cls, folder: str | Path, base: BaseLM | None = None) -> CLLM:
        """From a model folder, with its base beside it (or the one given).

        Raises:
            InputError: a file is missing, it is another class of model, or the base is
                not the one it was trained on.
        """
        folder = Path(folder)
        _check_folder(folder)
        try:
            loaded: Any = super().from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
            model, found = cast(tuple[CLLM, dict[str, Any]], loaded)
            if found["missing_keys"]:  # transformers would fill them with random numbers
                raise ValueError(f"its weights lack {', '.join(sorted(found['missing_keys'])[:3])}")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{folder} cannot be loaded ({reason}); train it again with `cllm train`"
            ) from error
        if base is None:
            base = model._load_base(folder)
        if base.hash != model.config.base_hash:
            raise InputError(
                f"{folder} was trained on base {model.config.base_hash}, but {base.name} is "
                f"{base.hash}; load the base that belongs to it, or train again with `cllm train`"
            )
        model.base = base
        nn.Module.to(model, base.device)
        model.requires_grad_(False).train(False)
        return model

    from_pretrained = load  # type: ignore[assignment]  # the base comes with it

    def _load_base(self, folder: Path) -> BaseLM:
        name, words = self.config.base, self.config.passage
        place = str((folder / name).resolve()) if name.startswith(".") else name
        if not words:
            return BaseLM.load(place)
        from cllm.levels import Passages

        return Passages(CLLM.load(place), words, rows=self.config.context)

    @property
    def base(self) -> BaseLM:
        """The frozen base LLM."""
        if self._base is None:
            raise InputError(
                "this CLLM has no base LLM; make it with CLLM.from_base or CLLM.from_pretrained"
            )
        return self._base

    @base.setter
    def base(self, base: BaseLM) -> None:
        self._base = base

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CLLM:
        """Move or cast (`.to`, `.cuda`, …) the base along with the weights."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        if self._base is not None:
            self._base.apply(fn, recurse=recurse)
        return self

    @property
    def hash(self) -> str:
        """16 hex digits over configuration, weights and base: what latents refer to."""
        weights = {k: v.detach().to("cpu", torch.float16) for k, v in self.state_dict().items()}
        names = [*_SHAPE, *(["editor"] if self.editor is not None else [])]
        shape = json.dumps([getattr(self.config, name) for name in names])
        parts = (k.encode() + weights[k].contiguous().numpy().tobytes() for k in sorted(weights))
        return digest(shape, *parts)

    @property
    def parameters_count(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    # ---- tensors -------------------------------------------------------------------

    @torch.no_grad()
    def start(self, texts: TokenTexts, sample: int = 1024) -> None:
        """Learn the mean array of the texts and begin as a principal component analysis.

        A sample is looked at, smaller where arrays are large, so that it fits into memory.
        """
        sample = max(MIN_SAMPLE, min(sample, SAMPLE_VALUES // self.mean.numel()))
        arrays_NTH, mask_NT = self._arrays(texts, min(sample, len(texts)))
        self.mean.copy_(arrays_NTH.sum(0) / mask_NT.sum(0)[:, None].clamp(min=1))
        centred_NTH = (arrays_NTH - self.mean) * mask_NT[..., None]
        self.spread.copy_((centred_NTH.square().sum() / mask_NT.sum() / arrays_NTH.shape[2]).sqrt())
        self.codec.start(centred_NTH / self.spread)

    def _arrays(self, texts: TokenTexts, sample: int, batch: int = 64) -> tuple[Tensor, Tensor]:
        """Token embeddings (N, context, H) of some texts, zero where masked, and the mask."""
        context, width = self.mean.shape
        arrays_NTH = self.mean.new_zeros(sample, context, width)
        mask_NT = torch.zeros(sample, context, dtype=torch.bool, device=self.device)
        chosen_N = np.argsort(texts.keys_N, kind="stable")[:sample]  # whatever a file's order
        for first in range(0, sample, batch):
            part = texts.gather(chosen_N[first : first + batch]).to(self.device)
            array_BTH, mask_BT = self.base.arrays(part)
            place = slice(first, first + len(part)), slice(mask_BT.shape[1])
            arrays_NTH[place] = array_BTH * mask_BT[..., None]
            mask_NT[place] = mask_BT
        return arrays_NTH, mask_NT

    def standardised(self, array_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """Deviation from the mean array over its spread, padded with zeros: (B, context, H)."""
        length = array_BTH.shape[1]
        x = (array_BTH - self.mean[:length]) / self.spread * mask_BT[..., None]
        return F.pad(x, (0, 0, 0, self.config.context - length))

    def encode_array(self, array_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """Unit vectors (B, D) of token embeddings; positions outside the mask do not count."""
        x_BTH = self.standardised(array_BTH, mask_BT)
        return F.normalize(self._through(self.codec.encoder, x_BTH), dim=-1)

    def decode_array(self, vectors_BD: Tensor) -> Tensor:
        """Token embeddings (B, M, H) restored from unit vectors, or from prefixes of them."""
        scale = self.config.dim**0.5  # coordinates of about unit size
        memory = self._through(self.codec.decoder, vectors_BD * scale)
        if self.editor is not None:
            memory = self.editor(memory)
        memory = memory * self.spread
        return memory + self.mean if self.config.form == "mirrored" else memory

    def _through(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            out: Tensor = layers(x)
            return out
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x

    def recompute(self) -> None:
        """Keep no activations of the layers, nor of the base's decoder: less memory, more time."""
        self.checkpointing = self.base.recomputing = True

    def null_vector(self) -> Tensor:
        """The learned vector (D,) that says nothing."""
        return F.normalize(self.null, dim=-1)

    def vectors_of(self, batch: Batch) -> Tensor:
        """Unit vectors (B, D) of a batch."""
        return self.encode_array(*self.base.arrays(batch))

    # ---- texts -----------------------------------------------------------------------

    def tokens(self, texts: Sequence[str]) -> TokenTexts:
        """Texts as token rows, cut to the context (`.cut` says how many)."""
        if isinstance(texts, str):
            raise InputError("a single text was given; pass a list of texts")
        rows = self.base.tokenize(list(texts))
        names = [str(i) for i in range(len(texts))]
        return self.base.texts(names, rows, self.config.context)

    def as_cut(self, texts: Sequence[str]) -> list[str]:
        """Texts as the model sees them: those beyond its context end there."""
        whole, seen = self.base.tokenize(list(texts)), list(texts)
        kept = self.base.texts([""] * len(whole), whole, self.config.context)
        cut = [place for place, row in enumerate(kept.rows) if len(row) < len(whole[place])]
        for place, text in zip(cut, self.base.to_text([kept.rows[i].tolist() for i in cut]),
                               strict=True):  # fmt: skip
            seen[place] = text
        return seen

    @torch.inference_mode()
    def encode_tokens(self, texts: TokenTexts, batch: int = 64) -> Vectors:
        """Unit vectors (N, D) of token rows."""
        vectors_ND = np.zeros((len(texts), self.config.dim), np.float32)
        for chosen_B, part in texts.in_order(batch):
            vectors_ND[chosen_B] = self.vectors_of(part.to(self.device)).float().cpu().numpy()
        return vectors_ND

    def encode(self, texts: Sequence[str], batch: int = 64) -> Vectors:
        """Unit vectors, float32 (N, D). Texts beyond the context are cut, with a warning."""
        tokens = self.tokens(texts)
        if tokens.cut:
            log.warning(
                "%d of %d texts are longer than %d %s and were cut",
                tokens.cut, len(tokens), self.config.context, self.base.unit,
            )  # fmt: skip
        return self.encode_tokens(tokens, batch)

    @torch.inference_mode()
    def decode_tokens(
        self, vectors_ND: Vectors, how: Generation = GREEDY, batch: int = 64
    ) -> list[list[int]]:
        """Free-running token rows of unit vectors (N, D), or of prefixes (N, k) with k < D.

        Raises:
            InputError: NaN, a zero vector, or more coordinates than the model has.
        """
        full_ND = self.lift(vectors_ND)
        rows: list[list[int]] = []
        for start in range(0, len(full_ND), batch):
            vectors_BD = torch.from_numpy(full_ND[start : start + batch]).to(self.device)
            rows += self.base.write(self.decode_array(vectors_BD), self.config.context, how)
        return rows

    def decode(self, vectors_ND: Vectors, how: Generation = GREEDY, batch: int = 64) -> list[str]:
        """Texts of unit vectors (N, D) or prefixes (N, k)."""
        return self.base.to_text(self.decode_tokens(vectors_ND, how, batch))

    def reconstruct(self, texts: Sequence[str]) -> list[str]:
        """Each text folded to its vector and unfolded again."""
        return self.decode(self.encode(texts))

    def interpolate(self, a: str, b: str, steps: int) -> list[str]:
        """Texts along the great circle from `a` to `b`, both ends included."""
        first_D, last_D = self.encode([a, b])
        return self.decode(np.stack([slerp(first_D, last_D, t) for t in np.linspace(0, 1, steps)]))

    def lift(self, vectors_Nk: Vectors) -> Vectors:
        """Vectors and prefixes on the sphere, (N, D); missing coordinates are zero."""
        x = np.atleast_2d(np.asarray(vectors_Nk, np.float32))
        dim = self.config.dim
        if x.shape[1] > dim:
            raise InputError(
                f"vectors have {x.shape[1]} coordinates, the model takes {dim} or fewer"
            )
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
        if len(bad):
            raise InputError(
                f"vector {bad[0] + 1} is zero or not finite; give finite, non-zero vectors"
            )
        return np.pad(x / norms, ((0, 0), (0, dim - x.shape[1])))


def _check_folder(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; it is no CLLM, make one with `cllm train`")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != CLLMConfig.model_type:
        raise InputError(
            f"{folder} holds a model of type {kind!r}, not a CLLM; "
            "give a folder made by `cllm train`"
        )
