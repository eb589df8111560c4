"""Calls from part to part: asked again where the replica that had one died."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError

from cllm.where import Where
from serve.hands import TRIES, Hands

pytestmark = pytest.mark.serve


class Dying:
    """A handle whose first calls meet replicas that die."""

    def __init__(self, deaths: int) -> None:
        self.deaths, self.calls = deaths, list[tuple[Any, ...]]()
        self.encode = SimpleNamespace(remote=self._call)

    async def _call(self, *given: Any) -> str:
        self.calls.append(given)
        if len(self.calls) <= self.deaths:
            raise RayActorError
        return "vectors"


def encoded(handle: Dying) -> Any:
    return asyncio.run(Hands(handle, None, None, "run").encode(["a"]))


@pytest.mark.parametrize("deaths", range(TRIES))
def test_a_call_whose_replica_dies_is_asked_again(deaths: int) -> None:
    handle = Dying(deaths)
    assert encoded(handle) == "vectors"
    assert handle.calls == [("run", ["a"])] * (deaths + 1)


def test_where_replicas_die_again_and_again_it_fails() -> None:
    handle = Dying(TRIES)
    with pytest.raises(RayActorError):
        encoded(handle)
    assert len(handle.calls) == TRIES


def test_places_are_looked_at_while_they_are_written_from() -> None:
    begun = list[str]()

    def part(name: str) -> Any:
        async def call(*_: Any) -> str:
            begun.append(name)
            while len(begun) < 2:
                await asyncio.sleep(0)
            return name

        return SimpleNamespace(remote=call)

    hands = Hands(
        SimpleNamespace(rewrite=part("texts")), SimpleNamespace(settled=part("spots")), None, "run"
    )
    points_nD = np.zeros((1, 2), np.float32)
    both = asyncio.run(asyncio.wait_for(hands.both(Where(topic="soup"), points_nD), 5))
    assert both == ("spots", "texts")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own, as it is imported
def test_of_replicas_the_first_few_by_name_are_compared() -> None:
    from serve.routing import COMPARED, Steady

    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "ecabd"]

    def rank(some: list[Any]) -> str:
        (one,) = asyncio.run(Steady.choose_replicas(None, some))  # type: ignore[arg-type]
        return "".join(replica.replica_id.unique_id for replica in one)

    assert rank(replicas[:3]) == "ace"
    assert len({rank(replicas) for _ in range(50)}) > 1
    assert all(len(rank(replicas)) == COMPARED for _ in range(5))
