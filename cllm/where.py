"""Where a request looks for places to write from, and what such a place is like.

Where(void=3), Where(near="a text"), Where(between=("a", "b")), Where(topic="soup"), Where()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cllm.errors import InputError

if TYPE_CHECKING:
    from cllm.subjects import Kind

MOST_NAMED: dict[str | None, int] = {
    "within": 1,
    "between": 2,
}  # groups that can be asked for at once
BLOCK = 16  # candidates that are drawn together


class NoSuchPlace(InputError):
    """What was asked for is not there: a void, a topic, two places at once."""


@dataclass(frozen=True)
class Where:
    """Where to look; of void, near, between and topic at most one, none of them: in any void."""

    void: int | None = None
    near: str | None = None
    between: tuple[str, str] | None = None
    topic: str | None = None  # words that texts have
    groups: Kind | None = None  # of texts around the place: one, two or more
    group: tuple[str, ...] = ()  # that have to be among them
    least_radius: float = 0.0  # radians from the place to the nearest text
    least_score: float = 0.0  # void score of the place

    def __post_init__(self) -> None:
        given = [self.void, self.near, self.between, self.topic]
        if sum(one is not None for one in given) > 1:
            raise NoSuchPlace("give one of void, near, between and topic, or none for any void")
        named, most = len(set(self.group)), MOST_NAMED.get(self.groups)
        if most is not None and named > most:
            raise NoSuchPlace(f"groups is {self.groups!r}, and {named} are named: {most} at most")

    @property
    def anchors(self) -> list[str]:
        """The texts whose vectors say where."""
        return [self.near] if self.near is not None else list(self.between or ())

    @property
    def in_voids(self) -> bool:
        """Whether only places in voids count."""
        return not self.anchors and self.topic is None

    @property
    def takes_all(self) -> bool:
        """Whether any place is good enough, wherever it settles."""
        asks = self.in_voids or self.of_groups or self.least_radius > 0 or self.least_score > 0
        return not asks

    @property
    def of_groups(self) -> bool:
        """Whether it matters what texts around are about."""
        return self.groups is not None or bool(self.group)


@dataclass(frozen=True)
class Spot:
    """What a place is like: its void score and empty radius, and the void it lies in, if any."""

    score: float
    radius: float  # radians
    in_void: bool
    void_id: int | None  # of the run's list, which does not have all there are
    groups: tuple[str, ...] = ()  # of the texts on the rim around it, where that was asked
