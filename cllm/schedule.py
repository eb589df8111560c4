"""How the learning rate goes, and when a training has come to its plateau.

lr = learning_rate(settings, done=0.3)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cllm.settings import LoopSettings

COOLING = 0.8  # share of a training that ends at a plateau after which its rate falls


def learning_rate(settings: LoopSettings, done: float) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak; `done` is the share trained, 0..1.

    Where a plateau ends the training the rate stays at its peak until then, and falls in the last
    fifth (Hu et al. 2024, "WSD").
    """
    if done < settings.warmup:
        return settings.lr * (0.02 + 0.98 * done / settings.warmup)
    begin = max(settings.warmup, COOLING) if settings.plateau else settings.warmup
    falling = min(max(0.0, (done - begin) / (1 - begin)), 1.0)
    return settings.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * falling)))


def rises_no_more(scores: Sequence[tuple[int, float]], least: float) -> bool:
    """Whether the last third of the steps raised the best score by less than `least`.

    `scores` are (step, best score so far), in order; a third has three of them at least, as at a
    high rate single ones go up and down.
    """
    step, best = scores[-1]
    earlier = [score for at, score in scores[:-3] if at <= step * 2 / 3]
    return bool(earlier) and best - earlier[-1] < least
