"""Put ideas in order: by stated weights, or as another model chose.

score_n = scores(ideas, Weights()); best = best_first(ideas)
"""

# Shapes: n ideas.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cllm.ideas import Idea


class Weights(BaseModel):
    """What an idea's parts count; what is not known of one is left out, and the rest counts more.

    They are a choice, not a fit: nobody's marks (`cllm review`) have been asked yet.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validity: float = Field(0.4, ge=0, description="of the judge; nonsense is worth nothing")
    novelty: float = Field(0.3, ge=0, description="share of real texts that are less new")
    hit: float = Field(0.2, ge=0, description="really from its place; unknown without one")
    plausibility: float = Field(0.1, ge=0, description="share of real texts that cost more")


def scores(ideas: Sequence[Idea], weights: Weights | None = None) -> NDArray[np.float64]:
    """Weighted means of what is known of each, (n,) in 0..1."""
    return np.array([_score(idea, weights or Weights()) for idea in ideas])


def _score(idea: Idea, weights: Weights) -> float:
    verdict = idea.verdict
    parts = {
        "validity": verdict.validity, "novelty": verdict.novelty,
        "hit": None if idea.hit is None else float(idea.hit), "plausibility": idea.plausibility,
    }  # fmt: skip
    weight_of = weights.model_dump()
    known = {name: part for name, part in parts.items() if part is not None}
    total = sum(weight_of[name] for name in known)
    return sum(weight_of[name] * part for name, part in known.items()) / total if total else 0.0


def best_first(ideas: Sequence[Idea], weights: Weights | None = None) -> list[Idea]:
    """Those that another model chose, as it did; then those that count, by their scores."""
    score_n = scores(ideas, weights)

    def place(row: int) -> tuple[bool, int, bool, float]:
        chosen = ideas[row].chosen
        return chosen is None, chosen or 0, not ideas[row].yields, -score_n[row]

    return [ideas[row] for row in sorted(range(len(ideas)), key=place)]
