"""What a replica holds of runs."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve.loaded import Loaded

pytestmark = pytest.mark.serve


def test_a_run_is_loaded_once_however_many_ask_and_the_last_two_are_kept() -> None:
    loads: list[str] = []

    def load(name: str) -> str:
        time.sleep(0.05)
        loads.append(name)
        return name.upper()

    async def ask() -> None:
        runs = Loaded(load)
        assert await asyncio.gather(*(runs.get("a") for _ in range(5))) == ["A"] * 5
        assert [await runs.get(name) for name in "bab"] == ["B", "A", "B"]
        assert loads == ["a", "b"]
        await runs.get("c")  # the one asked for longest ago goes
        await runs.get("b")
        assert loads == ["a", "b", "c"]
        await runs.get("a")
        assert loads == ["a", "b", "c", "a"]

    asyncio.run(ask())


def test_what_cannot_be_loaded_is_tried_again() -> None:
    def load(name: str) -> str:
        if not there:
            raise OSError(name)
        return name

    there: list[int] = []

    async def ask() -> None:
        runs = Loaded(load)
        with pytest.raises(OSError, match="a"):
            await runs.get("a")
        there.append(1)
        assert await runs.get("a") == "a"

    asyncio.run(ask())
