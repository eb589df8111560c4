"""The base arm: what the base LLM writes without any vector, as long as training texts are.

write = unaided(model, train_texts)
written = write(200, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from cllm.base import Generation
from cllm.batches import TokenTexts
from cllm.corpus import spaced
from cllm.model import CLLM
from cllm.settling import Written

LENGTHS_FROM = 2000  # training texts that say how long texts are


def unaided(model: CLLM, train_texts: Sequence[str]) -> Callable[[int, int], Written]:
    """The base arm: texts sampled where every token of the input is masked.

    As long as training texts are; the function takes their number and a seed.
    """
    base = model.base.ground
    some = [train_texts[row] for row in spaced(len(train_texts), LENGTHS_FROM)]
    drawn_from = [
        [len(piece) for piece in model.base.pieces(row.tolist())] for row in model.tokens(some).rows
    ]
    longest = model.config.context
    if base is not model.base:  # of passages
        longest = max(length for lengths in drawn_from for length in lengths)

    def write(count: int, seed: int) -> Written:
        torch.manual_seed(seed)
        chosen = np.random.default_rng(seed).choice(len(drawn_from), count)
        hidden = [[base.mask] * length for row in chosen for length in drawn_from[row]]
        names = [str(number) for number in range(len(hidden))]
        inputs = TokenTexts.of(names, hidden, base.pad, longest)
        pieces: list[list[int]] = []
        for start in range(0, len(hidden), 64):
            batch = inputs.gather(range(start, min(start + 64, len(hidden)))).to(base.device)
            with torch.inference_mode():
                memory_BTH = base.embed(batch.ids_BT, batch.mask_BT)
            pieces += base.write(memory_BTH, longest, Generation(sample=True), batch.mask_BT)
        written = iter(base.to_text(pieces))
        texts = (" ".join(next(written) for _ in drawn_from[row]) for row in chosen)
        return Written("base", tuple(texts), None, count)

    return write
