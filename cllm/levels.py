"""Two levels: a CLLM of passages is the base of one of whole texts.

    base = Passages(CLLM.load("runs/mine/base/passages"), words=32)
    base.rows = 16                          # passages of the longest text
    model = CLLM.from_base(base, context=base.rows, dim=64)

An array has a row for each passage, its vector, and says in a last column that it is one. Decoded
downward: the text's vector becomes rows, each row's vector a passage.
"""

# Shapes: B texts, T tokens, n passages of all texts, t tokens of one, R rows, D coordinates of
# their vectors, H = D + 1, V vocabulary.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cllm.base import GREEDY, BaseLM, Generation, Tokens, token_nats
from cllm.batches import TokenTexts
from cllm.files import digest
from cllm.passages import passages

if TYPE_CHECKING:
    from cllm.model import CLLM
    from cllm.settings import RunSettings

MOST_PASSAGES = 128  # of a text; what is beyond is cut, with a warning
AT_ONCE = 256  # passages whose tokens are seen together, so that memory does not grow with texts
SURE = 4.0  # scale of the last column, as the logit of "here is a passage"


class InPassages(BaseLM):
    """A base whose texts are token rows of passages, each with its end token."""

    unit = "passages"

    def __init__(self, base: BaseLM, words: int, limit: int) -> None:
        """Passages have `words` words and `limit` tokens at most; what is longer is several."""
        super().__init__(base.model, base.tokenizer, base.name)
        self.passage, self.longest = words, limit

    def tokenize(self, texts: list[str] | tuple[str, ...]) -> Tokens:
        """Token ids of each text's passages, one after the other; an empty text is an empty one."""
        several = [passages(text, self.passage) or [""] for text in texts]
        rows = iter(super().tokenize([passage for some in several for passage in some]))
        return [
            [token for passage in some for token in self._fitting(passage, next(rows))]
            for some in several
        ]

    def _fitting(self, passage: str, row: list[int]) -> list[int]:
        """In halves, and these again, until none has more than `longest` tokens; words stay whole.

        But for one that is longer by itself.
        """
        words, size = passage.split(), self.longest - 1
        if len(row) <= self.longest:
            return row
        if len(words) < 2:
            said = row[:-1]
            pieces = [said[first : first + size] for first in range(0, len(said), size)]
            return [token for piece in pieces for token in (*piece, self.eos)]
        halves = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
        tokenized = super().tokenize(halves)
        return [token for half, tokens in zip(halves, tokenized, strict=True)
                for token in self._fitting(half, tokens)]  # fmt: skip

    def to_text(self, tokens: Tokens) -> list[str]:
        """Texts of such rows; one space between passages."""
        several = [self.pieces(row) for row in tokens]
        said = iter(super().to_text([piece for some in several for piece in some]))
        return [" ".join(filter(None, [next(said) for _ in some])) for some in several]

    def pieces(self, row: Sequence[int]) -> Tokens:
        """Token rows of its passages, and what is left without an end token."""
        pieces: Tokens = [[]]
        for token in row:
            pieces[-1].append(token)
            if token == self.eos:
                pieces.append([])
        return [piece for piece in pieces if piece]

    def lengths(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """Passages of each text."""
        return [list(row).count(self.eos) for row in rows]

    def texts(
        self, names: Sequence[str], rows: Sequence[Sequence[int]], context: int
    ) -> TokenTexts:
        """Texts cut to so many passages."""
        several = [self.pieces(row) for row in rows]
        kept = [[token for piece in some[:context] for token in piece] for some in several]
        longest = max(map(len, kept), default=0)
        whole = TokenTexts.of(names, kept, self.pad, longest)
        return TokenTexts(whole.names, whole.rows, self.pad,
                          sum(len(some) > context for some in several))  # fmt: skip


def in_passages(base: BaseLM, settings: RunSettings) -> BaseLM:
    """The base as it tokenises whole texts: in passages, where there are two levels."""
    if not settings.passage:
        return base
    return InPassages(base, settings.passage, settings.base.context)


class Passages(InPassages):
    """A frozen CLLM of passages as the base of a CLLM of whole texts."""

    home = "../base/passages"

    def __init__(self, level: CLLM, words: int, rows: int = 0) -> None:
        """`rows`: passages of the longest text; set it once it is known."""
        self.level = level.requires_grad_(False).train(False)
        super().__init__(level.base, words, level.config.context)
        self.width, self.rows = level.config.dim + 1, rows

    @property
    def recomputing(self) -> bool:
        """Whether the decoders below keep no activations."""
        return bool(self.level.checkpointing)

    @recomputing.setter
    def recomputing(self, wanted: bool) -> None:
        self.level.checkpointing = self.level.base.recomputing = wanted

    @property
    def hash(self) -> str:
        """16 hex digits over the CLLM of passages and how texts are cut."""
        return digest(self.level.hash, str(self.passage))

    def to(self, device: torch.device | str) -> Passages:
        """Move the weights of both."""
        self.level.to(device)
        return self

    @property
    def ground(self) -> BaseLM:
        """The base below."""
        ground: BaseLM = self.level.base.ground
        return ground

    def apply(self, fn: Callable[[Tensor], Tensor], *, recurse: bool = True) -> None:
        """Move or cast the weights of both."""
        self.level._apply(fn, recurse)

    def places(self, row: Sequence[int] | NDArray[np.int64]) -> int:  # noqa: ARG002 - one size
        """Rows of a text's array."""
        return self.rows

    def array_of(self, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, R, H) of texts, and a mask of all ones: that none is there is told by a row."""
        some = Packed.of(ids_BT, mask_BT, self.eos, self.pad)
        vectors_nD = torch.cat([
            self.level.encode_array(*self.level.base.array_of(ids_ct, mask_ct))
            for ids_ct, mask_ct in zip(
                some.ids_nt.split(AT_ONCE), some.mask_nt.split(AT_ONCE), strict=True
            )
        ])  # fmt: skip
        array_BRH = vectors_nD.new_zeros(len(ids_BT), self.rows, self.width)
        array_BRH[..., -1] = -self._here
        here_n1 = vectors_nD.new_full((len(vectors_nD), 1), self._here)
        array_BRH[some.text_n, some.row_n] = torch.cat([vectors_nD, here_n1], 1)
        return array_BRH, torch.ones_like(array_BRH[..., 0], dtype=torch.bool)

    @property
    def _here(self) -> float:
        """Of the size of a vector's coordinates, so that none outweighs the others."""
        return float((self.width - 1) ** -0.5)

    def _below(self, rows_nH: Tensor) -> Tensor:
        """What the token decoder gets for each passage."""
        memory_nMH: Tensor = self.level.decode_array(self._vectors(rows_nH))
        return memory_nMH

    def _vectors(self, rows_nH: Tensor) -> Tensor:
        vectors_nD: Tensor = F.normalize(rows_nH[:, :-1], dim=-1)
        return vectors_nD

    def cross_entropy(
        self, memory_BMH: Tensor, ids_BT: Tensor, mask_BT: Tensor,
        memory_mask_BM: Tensor | None = None,  # noqa: ARG002 - all rows count
    ) -> Tensor:  # fmt: skip
        """Nats of each token given the rows, (B, T); a text's last one pays for their number."""
        chosen_BR = torch.ones_like(memory_BMH[..., 0], dtype=torch.bool)
        return self.sampled_nats(memory_BMH, ids_BT, mask_BT, chosen_BR, 1.0)

    def sampled_nats(
        self, memory_BMH: Tensor, ids_BT: Tensor, mask_BT: Tensor, chosen_BR: Tensor, share: float
    ) -> Tensor:
        """The same of chosen passages, 0 for the others' tokens; a `share` of them pays for all.

        Each is chosen with that chance: the sum is what all would cost, on average.
        """
        some = Packed.of(ids_BT, mask_BT, self.eos, self.pad)
        chosen_n = torch.nonzero(chosen_BR[some.text_n, some.row_n])[:, 0]
        rows_nH = memory_BMH[some.text_n, some.row_n]
        nats_nt = torch.zeros_like(some.ids_nt, dtype=torch.float32)
        for part_c in chosen_n.split(AT_ONCE) if len(chosen_n) else ():
            ids_ct, mask_ct = some.ids_nt[part_c], some.mask_nt[part_c]
            logits_ctV = self.level.base.logits(self._below(rows_nH[part_c]), ids_ct)
            nats_nt = nats_nt.index_copy(0, part_c, token_nats(logits_ctV, ids_ct, mask_ct) / share)
        nats_BT = some.spread(nats_nt)
        here_BR = torch.zeros_like(memory_BMH[..., -1])
        here_BR[some.text_n, some.row_n] = 1.0
        logit_BR = SURE * memory_BMH[..., -1] / self._here
        number_B = F.binary_cross_entropy_with_logits(logit_BR, here_BR, reduction="none").sum(1)
        last_BT = F.one_hot(mask_BT.sum(1) - 1, ids_BT.shape[1])
        return nats_BT + last_BT * number_B[:, None]

    def logits(
        self, memory_BMH: Tensor, ids_BT: Tensor,
        memory_mask_BM: Tensor | None = None,  # noqa: ARG002 - all rows count
    ) -> Tensor:  # fmt: skip
        """Teacher-forced next-token scores (B, T, V) given the rows."""
        some = Packed.of(ids_BT, ids_BT != self.pad, self.eos, self.pad)
        rows_nH = memory_BMH[some.text_n, some.row_n]
        return some.spread(self.level.base.logits(self._below(rows_nH), some.ids_nt))

    @torch.inference_mode()
    def write(
        self, memory_BMH: Tensor, max_tokens: int, how: Generation = GREEDY,  # noqa: ARG002
        memory_mask_BM: Tensor | None = None, batch: int = 64,  # noqa: ARG002
    ) -> Tokens:  # fmt: skip
        """Token rows of the passages that the rows tell of, up to the first that is none."""
        here_BR = memory_BMH[..., -1] > 0
        here_BR[:, 0] = True  # a text has one
        here_BR = here_BR.long().cumprod(1).bool()
        written: Tokens = []
        for vectors_nD in self._vectors(memory_BMH[here_BR]).split(batch):
            memory_nMH = self.level.decode_array(vectors_nD)
            written += self.level.base.write(memory_nMH, self.level.config.context, how)
        ended = iter([*row, *([] if row[-1:] == [self.eos] else [self.eos])] for row in written)
        return [[token for _ in range(count) for token in next(ended)]
                for count in here_BR.sum(1).tolist()]  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """The passages of a batch of texts, each a row of its own."""

    ids_nt: Tensor
    mask_nt: Tensor
    text_n: Tensor  # whose it is
    row_n: Tensor  # and which of its passages
    mask_BT: Tensor
    of_S: tuple[Tensor, Tensor]  # passage and place there of each token of the mask, in order

    @classmethod
    def of(cls, ids_BT: Tensor, mask_BT: Tensor, eos: int, pad: int) -> Packed:
        """Passages end with an end token; so does each text."""
        ends_BT = (ids_BT == eos) & mask_BT
        row_BT = ends_BT.cumsum(1) - ends_BT.long()
        count_B = ends_BT.sum(1)
        first_B = count_B.cumsum(0) - count_B
        number_S = (first_B[:, None] + row_BT)[mask_BT]
        length_n = torch.bincount(number_S)
        begin_n = length_n.cumsum(0) - length_n
        place_S = torch.arange(len(number_S), device=ids_BT.device) - begin_n[number_S]
        ids_nt = ids_BT.new_full((len(length_n), int(length_n.max())), pad)
        ids_nt[number_S, place_S] = ids_BT[mask_BT]
        mask_nt = torch.arange(ids_nt.shape[1], device=ids_BT.device) < length_n[:, None]
        text_n = torch.repeat_interleave(torch.arange(len(ids_BT), device=ids_BT.device), count_B)
        row_n = torch.arange(len(text_n), device=ids_BT.device) - first_B[text_n]
        return cls(ids_nt, mask_nt, text_n, row_n, mask_BT, (number_S, place_S))

    def spread(self, values_nt: Tensor) -> Tensor:
        """Values of passages' tokens (n, t, …) where the texts have them, (B, T, …), else 0."""
        out_BT = values_nt.new_zeros(*self.mask_BT.shape, *values_nt.shape[2:])
        out_BT[self.mask_BT] = values_nt[self.of_S]
        return out_BT
