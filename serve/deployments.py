"""The parts of a service that scale on their own: model, places, store. Each holds runs by name.

Every call names its run (`serve.runs`), so that one run answers all calls of a request. What is
heavy to import, torch above all, is imported where the work is done: the rest starts without it.
"""

# Shapes: n vectors or texts, D coordinates, S starts, A anchors.
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cllm.console import set_up_logging
from serve.batches import Batches
from serve.loaded import Loaded
from serve.metrics import BatchCounts
from serve.runs import named, run_of

if TYPE_CHECKING:
    from cllm.ideas import Idea
    from cllm.model import CLLM
    from cllm.places import Places
    from cllm.plausibility import Plausibility
    from cllm.sampling import Rewritten
    from cllm.where import Spot, Where
    from serve.catalogue import Catalogue, Near

    Writer: TypeAlias = tuple[CLLM, Plausibility | None]
    Work: TypeAlias = Callable[[Writer, list[Any]], tuple[list[Any], int]]

Vectors = NDArray[np.float32]
ASKED = 4  # questions to a store at a time
WAITING = 4096  # calls that a replica may hold: it answers in batches


class Part:
    """Holds what `load` makes of a run, by its name."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        set_up_logging()
        self._runs = Loaded(load)

    async def reconfigure(self, config: dict[str, str]) -> None:
        """Load the run that will be served."""
        await self._runs.get(named(config["run"]))

    async def ready(self, run: str) -> bool:
        """Whether the run is loaded, as it is after it."""
        return bool(await self._runs.get(run))


class Model(Part):
    """Encodes, decodes and says what is plausible, many requests at a time."""

    def __init__(self, batch: int, threads: int) -> None:
        import torch

        super().__init__(_model_of)
        torch.set_num_threads(threads)
        self._hands = ThreadPoolExecutor(1)  # which torch spreads over its threads
        self._batches = Batches(batch, self._worked)
        self._counts = BatchCounts()

    async def decode(self, run: str, points_nD: Vectors) -> list[str]:
        """Texts of vectors."""
        return await self._asked(decode, run, points_nD) if len(points_nD) else []

    async def encode(self, run: str, texts: list[str]) -> Vectors:
        """Vectors of texts."""
        return await self._asked(encode, run, texts)

    async def rewrite(self, run: str, points_nD: Vectors) -> Rewritten:
        """Places decoded and, where the text is plausible, encoded again."""
        return await self._asked(rewrite, run, points_nD)

    async def _asked(self, work: Work, run: str, part: Sized) -> Any:  # noqa: ANN401 - of the work
        await self._runs.get(run)  # here, where nobody else waits for it
        return await self._batches.ask((work, run), part)

    async def _worked(self, kind: tuple[Work, str], parts: list[Any]) -> list[Any]:
        work, run = kind
        loaded, loop = await self._runs.get(run), asyncio.get_running_loop()
        results, tokens = await loop.run_in_executor(self._hands, work, loaded, parts)
        rows = sum(map(len, parts))
        self._counts.done(work.__name__, rows, tokens, self._batches.waiting)
        return results


def decode(loaded: Writer, points: list[Vectors]) -> tuple[list[list[str]], int]:
    """Texts of a batch's vectors, and how many tokens that took."""
    rows = loaded[0].decode_tokens(np.concatenate(points))
    return _shared_out(loaded[0].base.to_text(rows), points), sum(map(len, rows))


def encode(loaded: Writer, texts: list[list[str]]) -> tuple[list[Vectors], int]:
    """Vectors of a batch's texts, and how many tokens that took."""
    tokens = loaded[0].tokens(list(chain(*texts)))
    return _shared_out(loaded[0].encode_tokens(tokens), texts), tokens.tokens


def rewrite(loaded: Writer, points: list[Vectors]) -> tuple[list[Rewritten], int]:
    """What a batch's places decode to, and how many tokens that took."""
    from cllm.sampler import rewritten

    whole = rewritten(*loaded, np.concatenate(points))
    tokens = loaded[0].tokens(whole.texts).tokens if whole.texts else 0
    return whole.shared_out([len(part) for part in points]), tokens


def _shared_out(whole: Any, parts: list[Any]) -> list[Any]:  # noqa: ANN401 - rows
    """Rows of a batch, to each part as many as it has."""
    ends = np.cumsum([len(part) for part in parts])
    return [whole[end - len(part) : end] for end, part in zip(ends, parts, strict=True)]


def _model_of(name: str) -> Writer:
    from cllm.writing import make_plausible

    run = run_of(name)
    model = run.load_model()
    return model, make_plausible(run, model, run.load_trained_corpus(), keep=False)


class Index(Part):
    """Void index and judge: where texts may be written from, and what they are worth."""

    def __init__(self) -> None:
        super().__init__(_places_of)

    async def starts(
        self, run: str, where: Where, anchors_AD: Vectors, seed: int, first: int, blocks: int
    ) -> Vectors:
        """As `Places.starts`."""
        places = await self._runs.get(run)
        return await asyncio.to_thread(places.starts, where, anchors_AD, seed, first, blocks)

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

    return Places.of(run_of(name), keep=False)  # torch may not be needed: some seconds less


class Store(Part):
    """The run's texts and their vectors: neighbours, search, the map, and what the run is."""

    def __init__(self, milvus: str | None) -> None:
        super().__init__(lambda name: _catalogue_of(name, milvus))
        self._asking = ThreadPoolExecutor(ASKED)  # so that the rest waits for no Milvus

    async def answers(self, run: str) -> bool:
        """Whether the run's vectors can be asked for; raises where not."""
        await self._ask((await self._runs.get(run)).require_answer)
        return True

    async def nearest(self, run: str, vectors_nD: Vectors, k: int) -> list[list[Near]]:
        """The k nearest texts of each vector."""
        return await self._ask((await self._runs.get(run)).nearest, vectors_nD, k)

    async def _ask(self, work: Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401 - of the work
        return await asyncio.get_running_loop().run_in_executor(self._asking, work, *given)

    async def about(self, run: str, part: str, *given: Any) -> Any:  # noqa: ANN401 - a part's own
        """A part of the catalogue by name: `facts`, `void_list`, `map`, `found`, `at`."""
        return await asyncio.to_thread(getattr(await self._runs.get(run), part), *given)


def _catalogue_of(name: str, milvus: str | None) -> Catalogue:
    from serve.catalogue import Catalogue

    return Catalogue.of(run_of(name), milvus)
