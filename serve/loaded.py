"""What a replica holds of runs, by their names: the one served, and the one before or after it.

So a service goes over to a new run while requests to the old one are still answered by the old one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
KEPT = 2


class Loaded(Generic[T]):
    """Loads on first use, once however many ask; the run that was asked for last stays longest."""

    def __init__(self, load: Callable[[str], T]) -> None:
        self._load, self._lock = load, asyncio.Lock()
        self._kept: OrderedDict[str, T] = OrderedDict()

    async def get(self, name: str) -> T:
        """What was loaded of a run."""
        if name not in self._kept:
            async with self._lock:
                if name not in self._kept:
                    self._kept[name] = await asyncio.to_thread(self._load, name)
        self._kept.move_to_end(name)
        found = self._kept[name]
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found
