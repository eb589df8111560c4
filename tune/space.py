"""What a sweep searches: names, choices and ranges, and the settings that a point comes to.

    space = Space.parse(["dim=8,16,32", "lr=1e-3..4e-3:log"])

A list is a choice, `low..high` a range, evenly or, with `:log`, evenly by ratio.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cllm.errors import InputError
from cllm.settings import Aim, RunSettings, overridden

Value = float | int | str | bool
Point = dict[str, Value]

SHORT = {  # what is searched by a short name; anything else by its place, as in --set
    "dim": "model.dim",
    "void_dim": "void_dim",
    "cluster_weight": "train.cluster_weight",
    "cluster_floor": "train.cluster_floor",
    "vector_noise": "train.vector_noise",
    "prefix_weight": "train.prefix_weight",
    "full_length": "train.full_length",
    "lr": "train.loop.lr",
}
SEED = "seed"
WEIGHT, FLOOR = "cluster_weight", "cluster_floor"  # what controls vary
DEFAULT = (
    "dim=8,16,32,64", "void_dim=4,8", "cluster_weight=0,0.01,0.1", "vector_noise=0..0.3",
    "prefix_weight=0.1..1:log", "lr=1e-3..4e-3:log",
)  # fmt: skip


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones where both are."""

    low: float
    high: float
    log: bool

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Space:
    """By name, the values that are tried."""

    axes: dict[str, tuple[Value, ...] | Range]

    @classmethod
    def parse(cls, lines: Sequence[str]) -> Space:
        """From lines like `dim=8,16`; InputError names the line that says nothing."""
        axes: dict[str, tuple[Value, ...] | Range] = {}
        for line in lines:
            name, equals, values = line.partition("=")
            if not equals or not name.strip() or not values.strip():
                raise InputError(
                    f"--space {line!r} has no values; write it like dim=8,16,32 or "
                    "lr=1e-3..4e-3:log"
                )
            axes[_short(name.strip())] = _values(line, values.strip())
        return cls(axes)

    def grid(self) -> list[Point]:
        """Every combination; InputError where an axis is a range."""
        for name, axis in self.axes.items():
            if isinstance(axis, Range):
                raise InputError(
                    f"{name} is a range and a grid needs single values; write --space "
                    f"{name}={axis.low:g},{axis.high:g}, or search by --search optuna"
                )
        names = list(self.axes)
        return [dict(zip(names, values, strict=True)) for values in product(*self.axes.values())]

    def ends(self) -> dict[str, tuple[Value, ...]]:
        """Of each axis its values, or of a range both ends."""
        return {
            name: (axis.low, axis.high) if isinstance(axis, Range) else axis
            for name, axis in self.axes.items()
        }

    def corners(self) -> list[Point]:
        """One point for each value of each axis, all others at their first: to try what fits."""
        ends = self.ends()
        first = {name: values[0] for name, values in ends.items()}
        return [first | {name: value} for name, values in ends.items() for value in values]


@dataclass(frozen=True)
class Budget:
    """What every trial is trained with, before its point changes it; as in `cllm train`."""

    preset: str = "quick"
    aim: Aim = "text"
    seed: int = 0
    seconds: float | None = None
    steps: int | None = None
    changes: tuple[str, ...] = ()

    def settings(self, point: Mapping[str, Value]) -> RunSettings:
        """The settings of a trial; InputError names what does not fit.

        Voids are sought in all coordinates where `void_dim` is more than `dim`; trained for
        voids, a vector has just that prefix.
        """
        point = dict(point)
        dim, seed, void_dim = (_whole(point.pop(n, None), n) for n in ("dim", SEED, "void_dim"))
        changes = list(self.changes)
        if void_dim:
            size = dim or overridden(self.preset, changes=changes).model.dim
            changes.append(f"void_dim={min(void_dim, size)}")
            if self.aim == "voids" and void_dim < size:
                changes.append(f"train.prefixes=[{void_dim}]")
        changes += [f"{SHORT.get(name, name)}={json.dumps(v)}" for name, v in point.items()]
        told = overridden(
            self.preset, dim=dim, seed=self.seed if seed is None else seed, aim=self.aim,
            seconds=self.seconds, steps=self.steps, changes=changes,
        )  # fmt: skip
        if told.passage or told.editor:
            raise InputError(
                "trials share one base and its arrays: passages and an editor are not searched for "
                "so far; train them with `cllm train`"
            )
        return told


def _short(name: str) -> str:
    return next((short for short, place in SHORT.items() if place == name), name)


def _whole(value: object, name: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(f"--space {name} has {value!r}; it takes whole numbers")


def _values(line: str, written: str) -> tuple[Value, ...] | Range:
    low, dots, rest = written.partition("..")
    if not dots:
        return tuple(map(_value, written.split(",")))
    high, _, how = rest.partition(":")
    ends = _value(low), _value(high)
    numbers = all(isinstance(end, int | float) for end in ends)
    if not numbers or how not in ("", "log") or not ends[0] < ends[1]:
        raise InputError(f"--space {line!r} is no range; write it like lr=1e-3..4e-3:log")
    if how and not ends[0] > 0:
        raise InputError(f"--space {line!r}: a range by ratio begins above 0")
    return Range(ends[0], ends[1], how == "log")


def _value(written: str) -> Any:  # noqa: ANN401 - any JSON scalar
    try:
        value = json.loads(written)
    except ValueError:
        return written.strip()
    if isinstance(value, list | dict) or value is None:
        raise InputError(f"--space: {written!r} is no single value; write it like dim=8,16,32")
    return value
