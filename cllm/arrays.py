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
    rows_of: dict[bytes, tuple[int, int]]  # of `values_SH`: where a text begins, and how many

    @classmethod
    @torch.inference_mode()
    def of(
        cls, base: BaseLM, several: Sequence[TokenTexts], batch: int = 64,
        room: float = float("inf"),
    ) -> TokenArrays:  # fmt: skip
        """Of all texts in all of them, each once. InputError: they take more than `room` bytes."""
        rows_of: dict[bytes, tuple[int, int]] = {}
        total = 0
        for row in (row for texts in several for row in texts.rows):
            if (key := _key(row)) not in rows_of:
                rows_of[key] = total, base.places(row)
                total += base.places(row)
        if (size := total * base.width * np.dtype(np.float32).itemsize) > room:
            raise InputError(
                f"token embeddings of {len(rows_of)} texts take {size / 2**30:.1f} GiB, and there "
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
                array_BMH = base.array_of(moved.ids_BT, moved.mask_BT)[0].float().cpu().numpy()
                for key, array_MH in zip(keys, array_BMH, strict=True):
                    first, count = rows_of[key]
                    values_SH[first : first + count] = array_MH[:count]
                done.update(keys)
        return cls(base.hash, values_SH, rows_of)

    def __len__(self) -> int:
        return len(self.rows_of)

    def find(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Arrays (B, M, H) of a batch, 0 where masked, and mask; None where a text is not known."""
        lengths_B = batch.mask_BT.sum(1).tolist()
        rows = [
            self.rows_of.get(_key(ids_T[:length]))
            for ids_T, length in zip(batch.ids_BT.cpu().numpy(), lengths_B, strict=True)
        ]
        known = [one for one in rows if one]
        if len(known) < len(rows):
            return None
        counts_B = np.array([count for _, count in known])
        array_BMH = np.zeros((len(known), counts_B.max(), self.values_SH.shape[1]), np.float32)
        for one_MH, (first, count) in zip(array_BMH, known, strict=True):
            one_MH[:count] = self.values_SH[first : first + count]
        mask_BM = np.arange(array_BMH.shape[1]) < counts_B[:, None]
        device = batch.ids_BT.device
        return torch.from_numpy(array_BMH).to(device), torch.from_numpy(mask_BM).to(device)


def _key(row: NDArray[np.int64]) -> bytes:
    return blake2b(row.tobytes(), digest_size=16).digest()
