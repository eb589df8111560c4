"""The deployments of a service as the hands of `cllm.sampling`: one implementation of sampling."""

# Shapes: n places or texts, S starts, A anchors, D coordinates.
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from grpc import RpcError
from numpy.typing import NDArray
from ray.exceptions import RayActorError

if TYPE_CHECKING:
    from cllm.ideas import Idea
    from cllm.sampling import Rewritten
    from cllm.where import Spot, Where
    from serve.catalogue import Near

Vectors = NDArray[np.float32]
TRIES = 3  # of a call whose replica dies: calls change nothing, and another one may answer


class Hands:
    """Calls for one run, by its name."""

    def __init__(self, model: Any, index: Any, store: Any, run: str) -> None:  # noqa: ANN401
        self.model, self.index, self.store, self.run = model, index, store, run
        self.dim = 0  # of its vectors; known once it is ready

    async def decode(self, points_nD: Vectors) -> list[str]:
        """Texts of vectors."""
        return await self._asked(self.model, "decode", points_nD)

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts."""
        return await self._asked(self.model, "encode", list(texts))

    async def rewrite(self, points_nD: Vectors) -> Rewritten:
        """What places decode to, and where that lies."""
        return await self._asked(self.model, "rewrite", points_nD)

    async def starts(
        self, where: Where, anchors_AD: Vectors, seed: int, first: int, blocks: int
    ) -> Vectors:
        """Candidates of some blocks."""
        return await self._asked(self.index, "starts", where, anchors_AD, seed, first, blocks)

    async def settled(self, where: Where, points_nD: Vectors) -> list[Spot | None]:
        """What places are like."""
        return await self._asked(self.index, "settled", where, points_nD)

    async def both(self, where: Where, points_nD: Vectors) -> tuple[list[Spot | None], Rewritten]:
        """What places are like, and what they decode to."""
        spots, texts = await asyncio.gather(self.settled(where, points_nD), self.rewrite(points_nD))
        return spots, texts

    async def judged(
        self, points_nD: Vectors, texts: Sequence[str], arrived_nD: Vectors
    ) -> list[Idea]:
        """What was written from places."""
        return await self._asked(self.index, "judged", points_nD, list(texts), arrived_nD)

    async def nearest(self, vectors_nD: Vectors, k: int) -> list[list[Near]]:
        """The nearest known texts."""
        return await self._asked(self.store, "nearest", vectors_nD, k)

    async def about(self, part: str, *given: Any) -> Any:  # noqa: ANN401 - a part's own kind
        """A part of what is shown of the run."""
        return await self._asked(self.store, "about", part, *given)

    async def ready(self) -> None:
        """Have the run loaded everywhere. NoAnswer: it is, but Milvus is away."""
        parts = (self.model, self.index, self.store)
        await asyncio.gather(*(self._asked(part, "ready") for part in parts))
        self.dim = self.dim or int((await self.about("facts"))["model"]["dim"])
        await self._asked(self.store, "answers")

    async def _asked(self, part: Any, name: str, *given: Any) -> Any:  # noqa: ANN401 - a part's own
        method = getattr(part, name)
        for _ in range(TRIES - 1):
            try:
                return await method.remote(self.run, *given)
            except (RayActorError, RpcError):
                continue
        return await method.remote(self.run, *given)
