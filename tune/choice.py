"""How large the vector has to be: the shortest prefix that carries nearly all there is.

The rule: the smallest d with G(d) >= 0.95 G(d_max) whose texts, written and encoded again, come
back within a quarter of the distance between neighbours. d_max is fixed beforehand.

    told = choose(curves, np.random.default_rng(0))
"""

# Shapes: S seeds, N texts, L lengths, B draws.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.curve import Curve
from cllm.errors import InputError
from cllm.metrics import few, stretched

Floats = NDArray[np.float64]
SHARE = 0.95  # of the gain at d_max
NEAR = 0.25  # the largest round trip: a quarter of the angle between neighbours
BENT = 0.9  # of d_max: a d above it says no more than where the curve was cut off
DRAWS = 1000


@dataclass(frozen=True)
class Choice:
    """The dimension that the rule gives, and how sure it is; d is None where none is enough."""

    d: int | None
    d_ci: tuple[int, int] | None  # of the draws in which some d is enough
    gain_d: int  # by the gain alone, between measured lengths
    gain_ci: tuple[int, int]
    d_max: int
    lengths: tuple[int, ...]
    gain_L: tuple[float, ...]  # nats, mean over seeds and texts
    round_trip_L: tuple[float, ...]
    undecided: float  # share of draws in which no d is enough, or nothing is gained
    seeds: int
    texts: int

    def json(self) -> dict[str, Any]:
        """For the report and `--json`."""
        return asdict(self) | {"share": SHARE, "round_trip_limit": NEAR}


def choose(curves: Sequence[Curve], rng: np.random.Generator) -> Choice:
    """By the curves of one or several seeds over the same texts and lengths.

    Intervals are over seeds and texts, as in `metrics.bootstrap`. InputError: no gain at all.
    """
    lengths = curves[0].lengths
    gain_LSN = np.stack([curve.gain_LN for curve in curves], axis=1)
    moved_LSN = np.stack([curve.moved_LN for curve in curves], axis=1)
    gain_L, trip_L = gain_LSN.mean((1, 2)), np.median(moved_LSN, axis=2).mean(1)
    if not gain_L[-1] > 0:
        raise InputError(
            f"a vector of {lengths[-1]} coordinates gains {gain_L[-1]:.2f} nats on held-out "
            "texts: nothing to choose from; train longer, or give more texts"
        )
    drawn = [_one(lengths, *draw) for draw in _draws(gain_LSN, moved_LSN, rng) if draw[0][-1] > 0]
    d, gain_d = _one(lengths, gain_L, trip_L)
    enough = [one for one, _ in drawn if one is not None]
    return Choice(
        d=d, d_ci=bounds(enough) if enough else None,
        gain_d=gain_d, gain_ci=bounds([gain for _, gain in drawn]),
        d_max=lengths[-1], lengths=lengths, gain_L=tuple(map(float, gain_L)),
        round_trip_L=tuple(map(float, trip_L)), undecided=1 - len(enough) / DRAWS,
        seeds=len(curves), texts=gain_LSN.shape[2],
    )  # fmt: skip


def enough_gain(lengths: Sequence[int], gain_L: Floats, share: float = SHARE) -> int:
    """The smallest d whose gain is that share of the last one's, between lengths by its logarithm.

    A curve that falls again counts as level: more coordinates cannot carry less.
    """
    risen_L = np.maximum.accumulate(gain_L)
    wanted = share * gain_L[-1]
    row = int(np.argmax(risen_L >= wanted))
    if row == 0:
        return int(lengths[0])
    below, above = risen_L[row - 1], risen_L[row]
    part = (wanted - below) / (above - below)
    low, high = np.log(lengths[row - 1]), np.log(lengths[row])
    return int(np.ceil(np.exp(low + part * (high - low)) - 1e-9))


def _one(lengths: Sequence[int], gain_L: Floats, trip_L: Floats) -> tuple[int | None, int]:
    """The choice by gain and round trip, and by the gain alone.

    Gains are interpolated, round trips taken as measured: those of a d that lies between two
    lengths are those of the lower one.
    """
    gain_d, back_L = enough_gain(lengths, gain_L), trip_L <= NEAR
    below = sum(length <= gain_d for length in lengths) - 1
    if back_L[below]:
        return gain_d, gain_d
    later = (int(d) for d, back in zip(lengths, back_L, strict=True) if back and d > gain_d)
    return next(later, None), gain_d


def _draws(gain_LSN: Floats, moved_LSN: Floats, rng: np.random.Generator) -> Any:  # noqa: ANN401
    """Means of gains and medians of moves, by length, over the same seeds and texts drawn anew."""
    _, seeds, texts = gain_LSN.shape
    wide_LSN = np.stack([stretched(gain_SN) for gain_SN in gain_LSN])
    moved = moved_LSN.shape[2]  # those of the first texts
    for _ in range(DRAWS):
        seeds_S, texts_N = rng.integers(seeds, size=seeds), rng.integers(texts, size=texts)
        gain_L = wide_LSN[:, seeds_S[:, None], texts_N].mean((1, 2))
        median_LS = np.median(moved_LSN[:, :, texts_N[texts_N < moved]], axis=2)
        centre_L = median_LS.mean(1)
        yield gain_L, centre_L + few(seeds) * (median_LS[:, seeds_S].mean(1) - centre_L)


def bounds(values: Sequence[int]) -> tuple[int, int]:
    """The 95 % interval of drawn sizes, which are among them."""
    low = np.quantile(values, 0.025, method="lower")
    return int(low), int(np.quantile(values, 0.975, method="higher"))
