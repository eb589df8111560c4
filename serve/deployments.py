"""The parts of a service that scale on their own: model, places, store. Each holds runs by name.

Every call names its run (`serve.runs`), so that one run answers all calls of a request. What is
heavy to import, torch above all, is imported where the work is done: the rest starts without it.
"""

# Shapes: n vectors or texts, D coordinates, S starts, A anchors.
from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ray import serve

from cllm.console import set_up_logging
from serve.loaded import Loaded
from serve.metrics import Batches
from serve.runs import run_of

if TYPE_CHECKING:
    from cllm.ideas import Idea
    from cllm.model import CLLM
    from cllm.places import Places
    from cllm.plausibility import Plausibility
    from cllm.sampling import Rewritten
    from cllm.where import Spot, Where
    from serve.catalogue import Catalogue, Near

    Writer: TypeAlias = tuple[CLLM, Plausibility | None]

Vectors = NDArray[np.float32]
Asked: TypeAlias = list[tuple[str, Any]]  # run, and what is asked of it
WAITING = 4096  # calls that a replica may hold: it answers in batches


def _rows(asked: Asked) -> int:
    return sum(len(part) for _, part in asked)


class Model:
    """Encodes, decodes and says what is plausible, many requests at a time."""

    def __init__(self, batch: int, wait: float, threads: int) -> None:
        import torch

        set_up_logging()
        torch.set_num_threads(threads)
        self._runs = Loaded(_model_of)
        self._hands = ThreadPoolExecutor(1)  # which torch spreads over its threads
        self._batches = Batches()
        for work in (self._decode, self._encode, self._rewrite):
            work.set_max_batch_size(batch)
            work.set_batch_wait_timeout_s(wait)

    async def ready(self, run: str) -> bool:
        """Whether the run is loaded, as it is after it."""
        return bool(await self._runs.get(run))

    async def decode(self, run: str, points_nD: Vectors) -> list[str]:
        """Texts of vectors."""
        return await self._decode((run, points_nD)) if len(points_nD) else []

    async def encode(self, run: str, texts: list[str]) -> Vectors:
        """Vectors of texts."""
        return await self._encode((run, texts))

    async def rewrite(self, run: str, points_nD: Vectors) -> Rewritten:
        """Places decoded and, where the text is plausible, encoded again."""
        return await self._rewrite((run, points_nD))

    @serve.batch(batch_size_fn=_rows)
    async def _decode(self, asked: list[tuple[str, Vectors]]) -> list[list[str]]:
        def work(loaded: Writer, points: list[Vectors]) -> list[list[str]]:
            rows = loaded[0].decode_tokens(np.concatenate(points))
            self._batches.done("decode", len(rows), sum(map(len, rows)))
            return _shared_out(loaded[0].base.to_text(rows), points)

        return await self._by_run(work, asked)

    @serve.batch(batch_size_fn=_rows)
    async def _encode(self, asked: list[tuple[str, list[str]]]) -> list[Vectors]:
        def work(loaded: Writer, texts: list[list[str]]) -> list[Vectors]:
            tokens = loaded[0].tokens(list(chain(*texts)))
            self._batches.done("encode", len(tokens), tokens.tokens)
            return _shared_out(loaded[0].encode_tokens(tokens), texts)

        return await self._by_run(work, asked)

    @serve.batch(batch_size_fn=_rows)
    async def _rewrite(self, asked: list[tuple[str, Vectors]]) -> list[Rewritten]:
        from cllm.sampler import rewritten

        def work(loaded: Writer, points: list[Vectors]) -> list[Rewritten]:
            whole = rewritten(*loaded, np.concatenate(points))
            tokens = loaded[0].tokens(whole.texts).tokens if whole.texts else 0
            self._batches.done("rewrite", sum(map(len, points)), tokens)
            return whole.shared_out([len(part) for part in points])

        return await self._by_run(work, asked)

    async def _by_run(self, work: Callable[[Writer, list[Any]], Any], asked: Asked) -> list[Any]:
        """The work of a batch, run by run; to each what it asked for, in order."""
        told: list[Any] = [None] * len(asked)
        for run in dict.fromkeys(run for run, _ in asked):
            loaded = await self._runs.get(run)
            places = [place for place, (of, _) in enumerate(asked) if of == run]
            parts = [asked[place][1] for place in places]
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._hands, work, loaded, parts)
            for place, one in zip(places, found, strict=True):
                told[place] = one
        return told


def _shared_out(whole: Any, parts: list[Any]) -> list[Any]:  # noqa: ANN401 - rows
    """Rows of a batch, to each part as many as it has."""
    ends = np.cumsum([len(part) for part in parts])
    return [whole[end - len(part) : end] for end, part in zip(ends, parts, strict=True)]


def _model_of(name: str) -> Writer:
    from cllm.writing import make_plausible

    run = run_of(name)
    model = run.load_model()
    return model, make_plausible(run, model, run.load_trained_corpus(), keep=False)


class Index:
    """Void index and judge: where texts may be written from, and what they are worth."""

    def __init__(self) -> None:
        set_up_logging()
        self._runs = Loaded(_places_of)

    async def ready(self, run: str) -> bool:
        """Whether the run is loaded, as it is after it."""
        return bool(await self._runs.get(run))

    async def starts(
        self, run: str, where: Where, anchors_AD: Vectors, seed: int, block: int
    ) -> Vectors:
        """As `Places.starts`."""
        places = await self._runs.get(run)
        return await asyncio.to_thread(places.starts, where, anchors_AD, seed, block)

    async def settled(self, run: str, where: Where, points_nD: Vectors) -> list[Spot | None]:
        """As `Places.settled`."""
        return await asyncio.to_thread((await self._runs.get(run)).settled, where, points_nD)

    async def judged(
        self, run: str, points_nD: Vectors, texts: list[str], arrived_nD: Vectors
    ) -> list[Idea]:
        """As `Places.judged`."""
        places = await self._runs.get(run)
        return await asyncio.to_thread(places.judged, points_nD, texts, arrived_nD)


def _places_of(name: str) -> Places:
    from cllm.places import Places

    run = run_of(name)
    return Places.of(run, run.load_model(), keep=False)


class Store:
    """The run's texts and their vectors: neighbours, search, the map, and what the run is."""

    def __init__(self, milvus: str | None) -> None:
        set_up_logging()
        self._runs = Loaded(lambda name: _catalogue_of(name, milvus))

    async def ready(self, run: str) -> bool:
        """Whether the run is loaded, and its vectors can be asked for."""
        await asyncio.to_thread((await self._runs.get(run)).require_answer)
        return True

    async def nearest(self, run: str, vectors_nD: Vectors, k: int) -> list[list[Near]]:
        """The k nearest texts of each vector."""
        return await asyncio.to_thread((await self._runs.get(run)).nearest, vectors_nD, k)

    async def about(self, run: str, part: str, *given: Any) -> Any:  # noqa: ANN401 - a part's own
        """A part of the catalogue by name: `facts`, `void_list`, `map`, `found`, `at`."""
        return await asyncio.to_thread(getattr(await self._runs.get(run), part), *given)


def _catalogue_of(name: str, milvus: str | None) -> Catalogue:
    from serve.catalogue import Catalogue

    return Catalogue.of(run_of(name), milvus)
