"""Token embeddings worked out once, for many trainings over the same frozen base.

    base.known = TokenArrays.of(base, texts)   # `base.arrays(batch)` looks them up from then on

They take T * H * 4 bytes a text (40 kB for 80 tokens of 128): for sweeps, not for whole corpora.
"""

# Shapes: N texts, S tokens of all texts, B texts of a batch, T tokens, H width.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cllm.errors import InputError

if TYPE_CHECKING:
    from cllm.base import BaseLM
    from cllm.batches import Batch, TokenTexts


@dataclass(frozen=True)
class TokenArrays:
    """Token embeddings of texts, one after the other, found by a text's own tokens.

    Values lie in one array, which processes of one machine can share.
    """

    base_hash: str
    values_SH: NDArray[np.float32]
    first_of: dict[bytes, int]  # row of `values_SH` where a text begins

    @classmethod
    @torch.inference_mode()
    def of(
        cls, base: BaseLM, several: Sequence[TokenTexts], batch: int = 64,
        room: float = float("inf"),
    ) -> TokenArrays:  # fmt: skip
        """Of all texts in all of them, each once. InputError: they take more than `room` bytes."""
        first_of: dict[bytes, int] = {}
        total = 0
        for row in (row for texts in several for row in texts.rows):
            if (key := _key(row)) not in first_of:
                first_of[key] = total
                total += len(row)
        if (size := total * base.width * np.dtype(np.float32).itemsize) > room:
            raise InputError(
                f"token embeddings of {len(first_of)} texts take {size / 2**30:.1f} GiB, and there "
                f"is room for {room / 2**30:.1f} GiB"
            )
        values_SH = np.empty((total, base.width), np.float32)
        done: set[bytes] = set()
        for texts in several:
            for chosen_B, part in texts.in_order(batch):
                keys = [_key(texts.rows[i]) for i in chosen_B]
                if done.issuperset(keys):
                    continue
                moved = part.to(base.device)
                array_BTH = base.embed(moved.ids_BT, moved.mask_BT).float().cpu().numpy()
                for key, array_TH, i in zip(keys, array_BTH, chosen_B, strict=True):
                    length = len(texts.rows[i])
                    values_SH[first_of[key] : first_of[key] + length] = array_TH[:length]
                done.update(keys)
        return cls(base.hash, values_SH, first_of)

    def __len__(self) -> int:
        return len(self.first_of)

    def find(self, batch: Batch) -> Tensor | None:
        """Token embeddings (B, T, H) of a batch, 0 where masked; None where a text is not known."""
        lengths_B = batch.mask_BT.sum(1).tolist()
        firsts = [
            self.first_of.get(_key(ids_T[:length]))
            for ids_T, length in zip(batch.ids_BT.cpu().numpy(), lengths_B, strict=True)
        ]
        array_BTH = np.zeros((*batch.ids_BT.shape, self.values_SH.shape[1]), np.float32)
        for one_TH, first, length in zip(array_BTH, firsts, lengths_B, strict=True):
            if first is None:
                return None
            one_TH[:length] = self.values_SH[first : first + length]
        return torch.from_numpy(array_BTH)


def _key(row: NDArray[np.int64]) -> bytes:
    return blake2b(row.tobytes(), digest_size=16).digest()
