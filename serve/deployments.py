"""The parts of a service that scale on their own: model, places, store. Each holds runs by name.

Ray Serve keeps two runs a replica and sends a request to one that has its run (`multiplexed`): so a
service goes over to a new run while requests to the old one are answered by the old one.
"""

# Shapes: n vectors or texts, D coordinates, S starts, A anchors.
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from ray import serve

from cllm.console import set_up_logging
from cllm.ideas import Idea
from cllm.model import CLLM
from cllm.places import Places
from cllm.plausibility import Plausibility
from cllm.where import Spot, Where
from cllm.writing import make_plausible
from serve.catalogue import Catalogue, Near
from serve.metrics import Batches
from serve.runs import run_of

Vectors = NDArray[np.float32]
T = TypeVar("T")
KEPT = 2  # runs a replica holds: the one served, and the one before or after it
WAITING = 4096  # calls that a replica may hold: it answers in batches


class Model:
    """Encodes, decodes and says what is plausible, many requests at a time."""

    def __init__(self, batch: int, wait: float, threads: int) -> None:
        set_up_logging()
        torch.set_num_threads(threads)
        self._hands = ThreadPoolExecutor(1)  # which torch spreads over its threads
        self._batches = Batches()
        for work in (self._decode, self._encode, self._plausible):
            work.set_max_batch_size(batch)
            work.set_batch_wait_timeout_s(wait)

    @serve.multiplexed(max_num_models_per_replica=KEPT)
    async def load(self, name: str) -> tuple[CLLM, Plausibility | None]:
        """A run's model, and what it finds plausible."""
        return await self._do(_model_of, name)

    async def ready(self) -> bool:
        """Whether the run of this call is loaded, as it is after it."""
        return bool(await self.load(serve.get_multiplexed_model_id()))

    async def decode(self, points_nD: Vectors) -> list[str]:
        """Texts of vectors."""
        return await self._decode(points_nD) if len(points_nD) else []

    async def encode(self, texts: list[str]) -> Vectors:
        """Vectors of texts."""
        return await self._encode(texts)

    async def plausible(self, texts: list[str]) -> list[bool]:
        """Which texts are worth writing."""
        return await self._plausible(texts) if texts else []

    @serve.batch(batch_size_fn=lambda asked: sum(map(len, asked)))
    async def _decode(self, asked: list[Vectors]) -> list[list[str]]:
        model, _ = await self.load(serve.get_multiplexed_model_id())

        def work(points_nD: Vectors) -> list[str]:
            rows = model.decode_tokens(points_nD)
            self._batches.done("decode", len(rows), sum(map(len, rows)))
            return model.base.to_text(rows)

        return _shared_out(await self._do(work, np.concatenate(asked)), asked)

    @serve.batch(batch_size_fn=lambda asked: sum(map(len, asked)))
    async def _encode(self, asked: list[list[str]]) -> list[Vectors]:
        model, _ = await self.load(serve.get_multiplexed_model_id())

        def work(texts: list[str]) -> Vectors:
            tokens = model.tokens(texts)
            self._batches.done("encode", len(texts), tokens.tokens)
            return model.encode_tokens(tokens)

        return _shared_out(await self._do(work, list(chain(*asked))), asked)

    @serve.batch(batch_size_fn=lambda asked: sum(map(len, asked)))
    async def _plausible(self, asked: list[list[str]]) -> list[list[bool]]:
        _, likely = await self.load(serve.get_multiplexed_model_id())
        texts = list(chain(*asked))
        good = [True] * len(texts) if likely is None else (await self._do(likely, texts)).tolist()
        return _shared_out(good, asked)

    async def _do(self, work: Callable[..., T], *given: Any) -> T:  # noqa: ANN401
        return await asyncio.get_running_loop().run_in_executor(self._hands, work, *given)


def _shared_out(whole: Any, asked: Sequence[Any]) -> list[Any]:  # noqa: ANN401 - rows
    """Rows of a batch, to each what it asked for."""
    ends = np.cumsum([len(one) for one in asked])
    return [whole[end - len(one) : end] for end, one in zip(ends, asked, strict=True)]


def _model_of(name: str) -> tuple[CLLM, Plausibility | None]:
    run = run_of(name)
    model = run.load_model()
    return model, make_plausible(run, model, run.load_trained_corpus())


class Index:
    """Void index and judge: where texts may be written from, and what they are worth."""

    def __init__(self) -> None:
        set_up_logging()

    @serve.multiplexed(max_num_models_per_replica=KEPT)
    async def load(self, name: str) -> Places:
        """A run's cloud, voids and judge."""
        run = run_of(name)
        return await asyncio.to_thread(lambda: Places.of(run, run.load_model()))

    async def ready(self) -> bool:
        """Whether the run of this call is loaded, as it is after it."""
        return bool(await self._places())

    async def starts(self, where: Where, anchors_AD: Vectors, seed: int, block: int) -> Vectors:
        """As `Places.starts`."""
        return await asyncio.to_thread(
            (await self._places()).starts, where, anchors_AD, seed, block
        )

    async def settled(self, where: Where, points_nD: Vectors) -> list[Spot | None]:
        """As `Places.settled`."""
        return await asyncio.to_thread((await self._places()).settled, where, points_nD)

    async def judged(self, points_nD: Vectors, texts: list[str], arrived_nD: Vectors) -> list[Idea]:
        """As `Places.judged`."""
        places = await self._places()
        return await asyncio.to_thread(places.judged, points_nD, texts, arrived_nD)

    async def _places(self) -> Places:
        return await self.load(serve.get_multiplexed_model_id())


class Store:
    """The run's texts and their vectors: neighbours, search, the map, and what the run is."""

    def __init__(self, milvus: str | None) -> None:
        set_up_logging()
        self.milvus = milvus

    @serve.multiplexed(max_num_models_per_replica=KEPT)
    async def load(self, name: str) -> Catalogue:
        """A run's texts."""
        return await asyncio.to_thread(Catalogue.of, run_of(name), self.milvus)

    async def ready(self) -> bool:
        """Whether the run of this call is loaded, and its vectors can be asked for."""
        await asyncio.to_thread((await self._catalogue()).require_answer)
        return True

    async def nearest(self, vectors_nD: Vectors, k: int) -> list[list[Near]]:
        """The k nearest texts of each vector."""
        return await asyncio.to_thread((await self._catalogue()).nearest, vectors_nD, k)

    async def about(self, part: str, *given: Any) -> Any:  # noqa: ANN401 - a part's own kind
        """A part of the catalogue by name: `facts`, `voids`, `map`, `found`, `texts`."""
        return await asyncio.to_thread(getattr(await self._catalogue(), part), *given)

    async def _catalogue(self) -> Catalogue:
        return await self.load(serve.get_multiplexed_model_id())
