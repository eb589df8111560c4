"""Write new texts from places of a run, one after the other, as a command or as a service.

Candidates are settled as those of the arms (`cllm.arms`): decoded, filtered by what is plausible,
encoded again, and written from where they arrive. The same request gives the same texts (but for
rounding), whatever else is worked on at the same time, by whatever hands.

    async for samples in sampled(hands, Request(Where(topic="soup"), n=5, seed=1), Tally()): ...
"""

# Shapes: n places or texts, A anchors, D coordinates.
from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cllm.ideas import Idea
from cllm.where import BLOCK, Spot, Where

Vectors = NDArray[np.float32]

DECODES = 40  # allowed for each text that is asked for, where nothing else is said
LEAST, MOST = 2, 64  # candidates that are worked on together: many cost less each
EXPECTED = (1.6, 2.0)  # texts of so many candidates, before any was tried
MARGIN = 1.2  # more candidates than should be enough: another round takes as long as the first


@dataclass(frozen=True)
class Request:
    """What is asked for: how many texts, where, and which are wanted."""

    where: Where = field(default_factory=Where)
    n: int = 1
    seed: int = 0
    novel: bool = False  # only those that no training text is like
    valid: bool = False
    hit: bool = False  # only those whose own vector is nearer to the place than to any text
    decodes: int = 0  # at most; 0 = DECODES for each text
    seconds: float = math.inf  # at most; what time cuts off may differ from one time to the next

    @property
    def budget(self) -> int:
        """Decodes at most."""
        return self.decodes or DECODES * self.n

    def wants(self, idea: Idea) -> bool:
        """Whether a text is one of those asked for."""
        verdict = idea.verdict
        return (
            (not self.novel or not verdict.duplicate)
            and (not self.valid or verdict.valid)
            and (not self.hit or idea.hit is not False)
        )


@dataclass(frozen=True)
class Sample:
    """One text, the place it was written from, its own vector, and decodes spent so far."""

    number: int
    idea: Idea
    spot: Spot
    arrived_D: Vectors
    decodes: int


@dataclass(frozen=True)
class Rewritten:
    """Places decoded and encoded again, of those whose text is plausible."""

    rows: list[int]  # of the places
    texts: list[str]
    vectors_nD: Vectors  # of the texts

    def shared_out(self, sizes: Sequence[int]) -> list[Rewritten]:
        """The same, of each of several requests that had so many places, in order."""
        parts, first = [], 0
        for size in sizes:
            here = [i for i, row in enumerate(self.rows) if first <= row < first + size]
            parts.append(Rewritten(
                [self.rows[i] - first for i in here], [self.texts[i] for i in here],
                self.vectors_nD[here],
            ))  # fmt: skip
            first += size
        return parts


class Hands(Protocol):
    """Who does the work: this process (`Sampler`), or deployments of a service."""

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts."""

    async def rewrite(self, points_nD: Vectors) -> Rewritten:
        """What places decode to, and where that lies."""

    async def starts(
        self, where: Where, anchors_AD: Vectors, seed: int, first: int, blocks: int
    ) -> Vectors:
        """Candidates of some blocks (`Places.starts`)."""

    async def settled(self, where: Where, points_nD: Vectors) -> list[Spot | None]:
        """What places are like; None for those that are not where they were asked for."""

    async def both(self, where: Where, points_nD: Vectors) -> tuple[list[Spot | None], Rewritten]:
        """`settled` and `rewrite`, at the same time where that can be."""

    async def judged(
        self, points_nD: Vectors, texts: Sequence[str], arrived_nD: Vectors
    ) -> list[Idea]:
        """What was written from places."""


@dataclass
class Tally:
    """What a request has cost and come to so far."""

    decodes: int = 0
    places: int = 0  # that were tried
    plausible: int = 0  # texts that these told, each once a turn
    there: int = 0  # of those, where it was asked for
    found: int = 0
    late: bool = False  # the time was up

    @property
    def ended(self) -> str:
        """Why there are no more, with what became of the places."""
        why = "the time was up" if self.late else "no more were found"
        return (
            f"{why} after {self.decodes} decodes (places tried: {self.places}; texts of them that "
            f"are plausible: {self.plausible}; where it was asked for: {self.there}; as wanted: "
            f"{self.found})"
        )


async def sampled(hands: Hands, request: Request, tally: Tally) -> AsyncIterator[list[Sample]]:
    """Texts as they are found, some at a time: `n` in all, or fewer where the budget ends before.

    NoSuchPlace: there is no such void or topic.
    """
    where, told, tried = request.where, set[str](), 0
    until = time.monotonic() + request.seconds
    anchors = [text or " " for text in where.anchors]
    anchors_AD = await hands.encode(anchors) if anchors else np.empty((0, 0), np.float32)
    candidates = _Candidates(hands, where, anchors_AD, request.seed)
    while tally.found < request.n and tally.decodes < request.budget:
        tally.late = time.monotonic() > until
        if tally.late:
            return
        left = request.budget - tally.decodes  # half of it for what candidates settle to
        size = min(_enough(request.n - tally.found, tally.found, tried), max(1, left // 2))
        starts_SD = await candidates.taken(size)
        spent = len(starts_SD) or size  # blocks without any have cost as much
        tried, tally.decodes = tried + spent, tally.decodes + spent
        settled_nD = await _settled(hands, starts_SD)
        settled_nD = settled_nD[: max(0, request.budget - tally.decodes)]
        kept_nD, spots, found = await _written(hands, where, settled_nD)
        tally.decodes += len(kept_nD)
        tally.places += len(starts_SD)
        tally.plausible += len(settled_nD)
        tally.there += len(kept_nD)
        if not found.texts:
            continue
        ideas = await hands.judged(kept_nD[found.rows], found.texts, found.vectors_nD)
        samples = list[Sample]()
        for row, idea, arrived_D in zip(found.rows, ideas, found.vectors_nD, strict=True):
            if idea.text in told or not request.wants(idea) or tally.found == request.n:
                continue
            told.add(idea.text)
            samples.append(Sample(tally.found, idea, spots[row], arrived_D, tally.decodes))
            tally.found += 1
        if samples:
            yield samples


class _Candidates:
    """In the order of their blocks, as many at a time as are wanted."""

    def __init__(self, hands: Hands, where: Where, anchors_AD: Vectors, seed: int) -> None:
        self._hands, self._asked = hands, (where, anchors_AD, seed)
        self._drawn: list[Vectors] = []  # and not taken yet
        self._blocks = 0

    async def taken(self, most: int) -> Vectors:
        """The next ones; fewer where blocks have few."""
        missing = most - sum(map(len, self._drawn))
        if (blocks := math.ceil(missing / BLOCK)) > 0:
            self._drawn.append(await self._hands.starts(*self._asked, self._blocks, blocks))
            self._blocks += blocks
        whole_SD = np.concatenate(self._drawn)
        self._drawn = [whole_SD[most:]]
        return whole_SD[:most]


def _enough(wanted: int, found: int, tried: int) -> int:
    """How many candidates should be enough for so many texts, by what came of those before."""
    rate = (found + EXPECTED[0]) / (tried + EXPECTED[1])
    return min(MOST, max(LEAST, math.ceil(MARGIN * wanted / rate)))


async def _settled(hands: Hands, starts_SD: Vectors) -> Vectors:
    """Where the plausible texts of candidates lie, each once."""
    first = await hands.rewrite(starts_SD) if len(starts_SD) else None
    if not first:
        return starts_SD
    row_of: dict[str, int] = {}
    for row, text in enumerate(first.texts):
        row_of.setdefault(text, row)
    return first.vectors_nD[list(row_of.values())]


async def _written(
    hands: Hands, where: Where, settled_nD: Vectors
) -> tuple[Vectors, list[Spot], Rewritten]:
    """Of settled places those that lie where it was asked for, and what is written from them."""
    if where.takes_all and len(settled_nD):
        spots, found = await hands.both(where, settled_nD)
        return settled_nD, [spot for spot in spots if spot], found
    spots = await hands.settled(where, settled_nD) if len(settled_nD) else []
    kept_nD = settled_nD[[spot is not None for spot in spots]]
    found = await hands.rewrite(kept_nD) if len(kept_nD) else Rewritten([], [], kept_nD)
    return kept_nD, [spot for spot in spots if spot], found
