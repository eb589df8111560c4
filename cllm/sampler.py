"""Sampling by the models of this process: all hands in one.

sampler = Sampler.of(run)
for sample in sampler.sample(Request(Where(topic="soup"), n=5, seed=1)): ...
"""

# Shapes: n places or texts, S starts, A anchors, D coordinates.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cllm.ideas import Idea
from cllm.model import CLLM
from cllm.places import Places
from cllm.plausibility import Plausibility
from cllm.run import RunFolder
from cllm.sampling import Request, Rewritten, Sample, Tally, sampled
from cllm.settling import filled
from cllm.where import Spot, Where
from cllm.writing import make_plausible

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Sampler:
    """All hands in this process."""

    model: CLLM
    places: Places
    likely: Plausibility | None

    @classmethod
    def of(cls, run: RunFolder) -> Sampler:
        """From a trained run with latents; InputError where a part is missing."""
        model = run.load_model()
        likely = make_plausible(run, model, run.load_trained_corpus())
        return cls(model, Places.of(run, model), likely)

    def sample(self, request: Request, tally: Tally | None = None) -> Iterator[Sample]:
        """As `sampled`, one after the other."""
        found = sampled(self, request, tally or Tally())
        while True:
            try:
                anext(found).__await__().send(None)  # these hands wait for nobody
            except StopIteration as samples:
                yield from samples.value
            except StopAsyncIteration:
                return

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """As in `Hands`."""
        return self.model.encode(texts)

    async def decode(self, points_nD: Vectors) -> list[str]:
        """Texts of vectors."""
        return self.model.decode(points_nD)

    async def rewrite(self, points_nD: Vectors) -> Rewritten:
        """As in `Hands`."""
        return rewritten(self.model, self.likely, points_nD)

    async def starts(
        self, where: Where, anchors_AD: Vectors, seed: int, first: int, blocks: int
    ) -> Vectors:
        """As in `Hands`."""
        return self.places.starts(where, anchors_AD, seed, first, blocks)

    async def settled(self, where: Where, points_nD: Vectors) -> list[Spot | None]:
        """As in `Hands`."""
        return self.places.settled(where, points_nD)

    async def both(self, where: Where, points_nD: Vectors) -> tuple[list[Spot | None], Rewritten]:
        """As in `Hands`: one after the other."""
        return await self.settled(where, points_nD), await self.rewrite(points_nD)

    async def judged(
        self, points_nD: Vectors, texts: Sequence[str], arrived_nD: Vectors
    ) -> list[Idea]:
        """As in `Hands`."""
        return self.places.judged(points_nD, texts, arrived_nD)


def rewritten(model: CLLM, likely: Plausibility | None, points_nD: Vectors) -> Rewritten:
    """Places decoded and, where the text is plausible, encoded again."""
    texts = filled(model.decode(points_nD))
    good_n = np.ones(len(texts), bool) if likely is None else likely(texts)
    rows = np.flatnonzero(good_n).tolist()
    kept = [texts[row] for row in rows]
    return Rewritten(rows, kept, model.encode(kept) if kept else points_nD[:0])
