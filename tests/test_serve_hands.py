"""Calls from part to part: asked again where the replica that had one died."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

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
