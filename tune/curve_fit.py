"""The shape of the curve G(d), fitted by least squares: G_inf (1 - exp(-d / d0)).

Beside it the straight one, min(slope * d, G_inf): each coordinate carries as much, up to all there
is. Which of the two a curve has is for its data to say.

    fit = fitted(lengths, gain_L); fit.d0, fit.enough(64), fit.straight.r2
"""

# Shapes: L lengths.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Straight:
    """min(slope * d, limit), in nats: what one coordinate carries, and the most there is."""

    slope: float
    limit: float
    r2: float


@dataclass(frozen=True)
class Fit:
    """Of one curve: the gain it tends to (nats), the size d0 on which it does, and what is left."""

    limit: float
    d0: float
    r2: float
    lengths: tuple[int, ...]
    straight: Straight

    def gain(self, d: Floats | float) -> Any:  # noqa: ANN401 - as d is
        """G(d)."""
        return self.limit * (1 - np.exp(-np.asarray(d, float) / self.d0))

    def enough(self, d_max: int, share: float = 0.95) -> float:
        """The d at which it has that share of G(d_max)."""
        return float(-self.d0 * np.log(1 - share * (1 - np.exp(-d_max / self.d0))))

    def json(self) -> dict[str, Any]:
        """For the report; with points to draw."""
        xs = np.geomspace(self.lengths[0], self.lengths[-1], 60)
        return {"limit": self.limit, "d0": self.d0, "r2": self.r2,
                "straight": asdict(self.straight),
                "points": [xs.tolist(), self.gain(xs).tolist()]}  # fmt: skip


def fitted(lengths: Sequence[int], gain_L: Floats) -> Fit:
    """The fit with the least squared error, in nats."""
    d_L, gain_L = np.array(lengths, float), np.asarray(gain_L, float)
    start = [np.log(max(gain_L.max(), 1e-3)), np.log(np.median(d_L))]

    limit, d0, r2 = _least(gain_L, start, lambda limit, d0: limit * (1 - np.exp(-d_L / d0)))
    knee = np.log(max(gain_L.max(), 1e-3) / np.median(d_L))
    slope, top, straight_r2 = _least(
        gain_L, [knee, start[0]], lambda slope, top: np.minimum(slope * d_L, top)
    )
    return Fit(limit, d0, r2, tuple(lengths), Straight(slope, top, straight_r2))


def _least(
    gain_L: Floats, start: list[float], shape: Callable[[float, float], Floats]
) -> tuple[float, float, float]:
    """The two parameters, both above 0, and the share of the variance that is explained."""

    def error(logs: Floats) -> Floats:
        return np.asarray(shape(*np.exp(logs)) - gain_L)

    found = least_squares(error, start, bounds=([-20.0, -20.0], [20.0, 20.0]))
    spread = float(((gain_L - gain_L.mean()) ** 2).sum())
    r2 = 1 - float((found.fun**2).sum()) / spread if spread else 1.0
    first, second = map(float, np.exp(found.x))
    return first, second, r2
