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
from cllm.model import CLLM
from cllm.settling import Written

LENGTHS_FROM = 2000  # training texts that say how long texts are


def unaided(model: CLLM, train_texts: Sequence[str]) -> Callable[[int, int], Written]:
    """The base arm: texts sampled where every token of the input is masked.

    As long as training texts are; the function takes their number and a seed.
    """
    lengths = [len(row) for row in model.tokens(train_texts[:LENGTHS_FROM]).rows]
    base, context = model.base, model.config.context

    def write(count: int, seed: int) -> Written:
        torch.manual_seed(seed)
        drawn = np.random.default_rng(seed).choice(lengths, count).tolist()
        hidden = [[base.mask] * length for length in drawn]
        inputs = TokenTexts.of([str(i) for i in range(count)], hidden, base.pad, context)
        rows: list[list[int]] = []
        for start in range(0, count, 64):
            batch = inputs.gather(range(start, min(start + 64, count))).to(base.device)
            with torch.inference_mode():
                memory_BTH = base.embed(batch.ids_BT, batch.mask_BT)
            rows += base.write(memory_BTH, context, Generation(sample=True), batch.mask_BT)
        return Written("base", tuple(base.to_text(rows)), None, count)

    return write
