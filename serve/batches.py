"""Work of many requests together: while one batch is worked on, the next one gathers.

Ray Serve's own batches close after a time, however few they have, and then stand in line.

    batches = Batches(64, work)      # async work(kind, parts) -> one result for each part
    result = await batches.ask(kind, part)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sized
from dataclasses import dataclass
from typing import Any

Work = Callable[[Any, list[Any]], Awaitable[list[Any]]]


@dataclass(frozen=True)
class Asked:
    """A part of some kind, and who waits for its result."""

    kind: Hashable
    part: Sized
    result: asyncio.Future[Any]


class Batches:
    """Of one event loop. Parts of one kind are worked on together, `most` rows at a time."""

    def __init__(self, most: int, work: Work) -> None:
        self._most, self._work = most, work
        self._waiting: list[Asked] = []
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Parts that are not worked on yet, and that somebody still waits for."""
        return sum(not asked.result.done() for asked in self._waiting)

    async def ask(self, kind: Hashable, part: Sized) -> Any:  # noqa: ANN401 - of the work
        """The result of a part; raises what its batch raised."""
        asked = Asked(kind, part, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work_off())
        return await asked.result

    async def _work_off(self) -> None:
        while batch := self._next():
            try:
                results = await self._work(batch[0].kind, [asked.part for asked in batch])
            except Exception as error:
                for asked in batch:
                    if not asked.result.done():
                        asked.result.set_exception(error)
            else:
                for asked, result in zip(batch, results, strict=True):
                    if not asked.result.done():  # who gave up is done
                        asked.result.set_result(result)

    def _next(self) -> list[Asked]:
        """The oldest part, and others of its kind as far as they fit; none where nobody waits."""
        waiting = [asked for asked in self._waiting if not asked.result.done()]
        batch, self._waiting, rows = list[Asked](), list[Asked](), 0
        for asked in waiting:
            fits = not batch or rows + len(asked.part) <= self._most
            if fits and asked.kind == waiting[0].kind:
                batch.append(asked)
                rows += len(asked.part)
            else:
                self._waiting.append(asked)
        return batch
