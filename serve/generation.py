"""What `generate` answers: each text with its place, verdict and nearest known texts, then the end.

async for line in generated(hands, Generate(n=3, topic="soup"), limits, each): ...
"""

# Shapes: n vectors, D coordinates.
from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cllm.sampling import Hands as SamplingHands
from cllm.sampling import Request, Sample, Tally, sampled
from cllm.where import Where
from serve import schemas as s
from serve.catalogue import Near
from serve.problems import require
from serve.settings import Limits

log = logging.getLogger("cllm.serve")

ENOUGH = 0.8  # of a request's time, after which no more is begun
NEIGHBOURS_SECONDS = 3.0  # that the store may take
GONE = "the store does not answer: nearest texts are missing"


class Hands(SamplingHands, Protocol):
    """Who does the work of a service: deployments (`serve.hands`), or this process."""

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""

    async def decode(self, points_nD: NDArray[np.float32]) -> list[str]:
        """Texts of vectors."""

    async def nearest(self, vectors_nD: NDArray[np.float32], k: int) -> list[list[Near]]:
        """The nearest known texts of each vector."""

    async def about(self, part: str, *given: Any) -> Any:  # noqa: ANN401 - a part's own kind
        """A part of what is shown of the run."""

    async def ready(self) -> None:
        """Have the run loaded everywhere; raises where that is not so."""


async def generated(
    hands: Hands, asked: s.Generate, limits: Limits, each: Callable[[str], None]
) -> AsyncIterator[s.Item | s.End]:
    """`each` hears the verdict on every text. Problem: more is asked for than is allowed."""
    request, tally, notes = _request(asked, limits), Tally(), list[str]()
    async for samples in sampled(hands, request, tally):
        nearest = await _nearest(hands, samples, asked.neighbours, notes)
        for sample, near in zip(samples, nearest, strict=True):
            each(sample.idea.verdict.label)
            yield _item(sample, asked, near)
    complete = tally.found == asked.n
    if not complete:
        notes.append(tally.ended)
    yield s.End(
        found=tally.found, asked=asked.n, decodes=tally.decodes, complete=complete, notes=notes
    )


def neighbour(near: Near) -> s.Neighbour:
    """As it is told."""
    return s.Neighbour(**dataclasses.asdict(near))


def _request(asked: s.Generate, limits: Limits) -> Request:
    require(limits.n, asked.n, "texts")
    require(limits.decodes, asked.decodes, "decodes")
    require(limits.neighbours, asked.neighbours, "neighbours")
    for text in (asked.near, asked.topic, *(asked.between or ())):
        require(limits.text_characters, len(text or ""), "characters of a text")
    where = Where(
        asked.void, asked.near, asked.between, asked.topic, asked.groups, tuple(asked.group),
        asked.min_radius, asked.min_score,
    )  # fmt: skip
    wanted = Request(
        where, asked.n, asked.seed, asked.novel, asked.valid, asked.hit, asked.decodes
    )  # fmt: skip
    return dataclasses.replace(
        wanted, decodes=min(wanted.budget, limits.decodes), seconds=ENOUGH * limits.seconds
    )


async def _nearest(
    hands: Hands, samples: list[Sample], k: int, notes: list[str]
) -> Sequence[list[Near] | None]:
    """The nearest known texts of each; None, and a note, where the store is away."""
    if not k:
        return [[] for _ in samples]
    try:
        async with asyncio.timeout(NEIGHBOURS_SECONDS):
            return await hands.nearest(np.stack([sample.arrived_D for sample in samples]), k)
    except Exception:
        log.warning("no neighbours", exc_info=True)
        if GONE not in notes:
            notes.append(GONE)
        return [None] * len(samples)


def _item(sample: Sample, asked: s.Generate, near: list[Near] | None) -> s.Item:
    idea, verdict, spot = sample.idea, sample.idea.verdict, sample.spot
    vector = idea.vector_D.tolist() if asked.vectors and idea.vector_D is not None else None
    return s.Item(
        number=sample.number, text=idea.text, verdict=verdict.label, valid=verdict.valid,
        duplicate=verdict.duplicate, novelty=verdict.novelty, validity=verdict.validity,
        reasons=list(verdict.reasons), hit=idea.hit, round_trip=idea.round_trip,
        place=s.Place(void=spot.void_id, in_void=spot.in_void, score=spot.score,
                      radius=spot.radius, groups=list(spot.groups), vector=vector),
        nearest=None if near is None else [neighbour(one) for one in near],
    )  # fmt: skip
