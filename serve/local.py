"""All hands of a service in this process: the same texts, without Ray.

hands = LocalHands.load(run)
for line in written(hands, Generate(n=3, topic="soup")): ...
"""

# Shapes: n vectors, D coordinates.
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.run import RunFolder
from cllm.sampler import Sampler
from serve import schemas as s
from serve.catalogue import Catalogue, Near
from serve.generation import generated
from serve.settings import Limits


@dataclass(frozen=True)
class LocalHands(Sampler):
    """A sampler that knows the run's texts, too."""

    catalogue: Catalogue

    @classmethod
    def load(cls, run: RunFolder) -> LocalHands:
        """Of a trained run with latents; InputError where a part is missing."""
        sampler = Sampler.of(run)
        return cls(sampler.model, sampler.places, sampler.likely, Catalogue.of(run, None))

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return int(self.model.config.dim)

    async def nearest(self, vectors_nD: NDArray[np.float32], k: int) -> list[list[Near]]:
        """The nearest known texts."""
        return self.catalogue.nearest(vectors_nD, k)

    async def about(self, part: str, *given: Any) -> Any:  # noqa: ANN401 - a part's own kind
        """A part of what is shown of the run."""
        return getattr(self.catalogue, part)(*given)

    async def ready(self) -> None:
        """Everything is there."""


def written(hands: LocalHands, asked: s.Generate) -> Iterator[s.Item | s.End]:
    """What `generate` answers, line by line; within the limits of a service."""
    lines = generated(hands, asked, Limits(), lambda _: None)
    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(anext(lines))  # type: ignore[arg-type]  # is a coroutine here
            except StopAsyncIteration:
                return
