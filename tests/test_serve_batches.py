"""Batches of a model replica: what waits is worked on together, and each gets its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve.batches import Batches

pytestmark = pytest.mark.serve


class Work:
    """Doubles rows, a batch at a time, once it may; remembers batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[list[int]]]] = []
        self.may = asyncio.Event()

    async def __call__(self, kind: Any, parts: list[list[int]]) -> list[list[int]]:
        self.batches.append((kind, parts))
        await self.may.wait()
        if kind == "bad":
            raise ValueError("no good")
        return [[2 * row for row in part] for part in parts]


async def asked(batches: Batches, work: Work, *parts: tuple[Any, list[int]]) -> list[Any]:
    """All at once; the first one is being worked on while the others come."""
    tasks = [asyncio.create_task(batches.ask(kind, part)) for kind, part in parts]
    await asyncio.sleep(0.01)
    work.may.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_comes_while_one_batch_is_worked_on_is_the_next_one() -> None:
    async def run() -> None:
        work = Work()
        batches = Batches(4, work)
        first = asyncio.create_task(batches.ask("a", [0]))
        await asyncio.sleep(0.01)
        found = await asked(batches, work, ("a", [1]), ("a", [2, 3]), ("a", [4, 5]), ("a", [6]))
        assert await first == [0]
        assert found == [[2], [4, 6], [8, 10], [12]]
        assert [parts for _, parts in work.batches] == [[[0]], [[1], [2, 3], [6]], [[4, 5]]]

    asyncio.run(run())


def test_kinds_are_not_mixed_and_the_oldest_goes_first() -> None:
    async def run() -> None:
        work = Work()
        found = await asked(Batches(64, work), work, ("a", [1]), ("b", [2]), ("a", [3]), ("b", [4]))
        assert found == [[2], [4], [6], [8]]
        assert [kind for kind, _ in work.batches] == ["a", "b"]

    asyncio.run(run())


def test_what_is_larger_than_a_batch_is_worked_on_alone() -> None:
    async def run() -> None:
        work = Work()
        found = await asked(Batches(2, work), work, ("a", [1, 2, 3]), ("a", [4]))
        assert found == [[2, 4, 6], [8]]
        assert [parts for _, parts in work.batches] == [[[1, 2, 3]], [[4]]]

    asyncio.run(run())


def test_a_batch_that_fails_tells_those_who_wait_for_it_and_no_others() -> None:
    async def run() -> None:
        work = Work()
        batches = Batches(64, work)
        bad, other, good = await asked(batches, work, ("bad", [1]), ("bad", [2]), ("a", [3]))
        assert str(bad) == str(other) == "no good"
        assert good == [6]
        assert await batches.ask("a", [7]) == [14]

    asyncio.run(run())


def test_nothing_is_worked_on_for_who_gave_up() -> None:
    async def run() -> None:
        work = Work()
        batches = Batches(64, work)
        tasks = [asyncio.create_task(batches.ask("a", [row])) for row in range(3)]
        await asyncio.sleep(0.01)
        late = asyncio.create_task(batches.ask("b", [9]))
        await asyncio.sleep(0.01)
        late.cancel()
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        work.may.set()
        assert [await tasks[0], await tasks[2]] == [[0], [4]]
        assert [kind for kind, _ in work.batches] == ["a"]

    asyncio.run(run())
