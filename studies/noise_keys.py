"""Random keys of tokens, nearest-key look-up without a scan, and noise found by search.

keys = Keys.drawn(5000, rng); keys.nearest(keys.digits_VP[[7]])  # array([7])

A key is P random digits behind the point. How far apart two are is told digit by digit from the
left, each weighing FACTOR of the one before: 1 where they differ, and a tenth of the difference.
Keys with the same first digits share a bucket, or lie in the one after it (two choices, as in
cuckoo hashing: Pagh and Rodler 2004): a look-up reads two, and eleven where these hold none.
"""

# Shapes: V keys, N values, P digits, B buckets, S slots of a bucket, C candidates.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Digits = NDArray[np.int8]  # (N, P): of keys 0 to 9, of noise -9 to 9
Ids = NDArray[np.int64]

DIGITS = 9
FACTOR = 0.3  # below 0.36 a digit outweighs all behind it, so that buckets miss nothing
SLOTS = 4
LOAD = 2.0  # keys of a bucket on average, at most
CHUNK = 20_000  # values at a time
_WEIGHTS = FACTOR ** np.arange(DIGITS)
_COSTS = _WEIGHTS[:, None] * np.where(  # of a digit by place and difference
    np.arange(10) == 0, 0.0, 1 + np.arange(10) / 10
)
_TENS = 10 ** np.arange(DIGITS - 1, -1, -1)
PLACES = 0.1 ** np.arange(1, DIGITS + 1)  # what digits behind the point count
TRIED = np.arange(-9, 10, dtype=np.int8)  # digits of noise


def costs(a_NCP: Digits, b_NCP: Digits) -> NDArray[np.float64]:
    """How far apart, (N, C)."""
    differences = np.abs(a_NCP - b_NCP)
    found = np.take(_COSTS[0], differences[..., 0])
    for place in range(1, DIGITS):
        found += np.take(_COSTS[place], differences[..., place])
    return found


def moved(digits_NP: Digits, noise_NP: Digits) -> Digits:
    """Keys with noise added, kept between 0 and 1."""
    return _digits((numbers(digits_NP) + numbers(noise_NP)).clip(0, 10**DIGITS - 1))


def numbers(digits_NP: Digits) -> Ids:
    """Keys or noise as whole numbers, in units of the last digit, (N,)."""
    return np.asarray(digits_NP.astype(np.int64) @ _TENS)


def _digits(value_N: Ids) -> Digits:
    """Of numbers below 10**P, (..., P)."""
    return (value_N[..., None] // _TENS % 10).astype(np.int8)


@dataclass(frozen=True)
class Keys:
    """Tokens' keys, in buckets by their first digits."""

    digits_VP: Digits
    buckets_BS: Ids  # -1 where a slot is free; a key lies in its own bucket, or in the next
    leading: int  # digits that say which bucket

    @classmethod
    def drawn(cls, count: int, rng: np.random.Generator) -> Keys:
        """Random keys, no two alike."""
        values_V = np.unique(rng.integers(10**DIGITS, size=count))
        while len(values_V) < count:
            more = rng.integers(10**DIGITS, size=count - len(values_V))
            values_V = np.unique(np.concatenate([values_V, more]))
        values_V = rng.permutation(values_V)
        return cls.of(_digits(values_V))

    @classmethod
    def of(cls, digits_VP: Digits) -> Keys:
        """Their buckets: as few leading digits as fit, more where some key finds no place."""
        leading = 0
        while len(digits_VP) > LOAD * 10**leading:
            leading += 1
        while (buckets_BS := _placed(_prefixes(digits_VP, leading), leading)) is None:
            leading += 1
        return cls(digits_VP, buckets_BS, leading)

    def nearest(self, values_NP: Digits) -> Ids:
        """The nearest key of each, (N,), by two buckets; by ten times more where none is near."""
        if len(values_NP) > CHUNK:
            parts = np.array_split(values_NP, -(-len(values_NP) // CHUNK))
            return np.concatenate([self.nearest(part_NP) for part_NP in parts])
        found_N = np.full(len(values_NP), -1)
        for leading in range(self.leading, -1, -1):
            missing = np.flatnonzero(found_N < 0)
            if not len(missing):
                break
            some_NP = values_NP[missing]
            found_N[missing] = self._nearest_that_begin_alike(some_NP, leading)
        return found_N

    def _nearest_that_begin_alike(self, values_NP: Digits, leading: int) -> Ids:
        """Among keys of the same first digits; -1 where there is none, (N,)."""
        wide = 10 ** (self.leading - leading)
        first_N = _prefixes(values_NP, leading) * wide
        ids_NC = self.buckets_BS[first_N[:, None] + np.arange(wide + 1)].reshape(len(first_N), -1)
        keys_NCP = self.digits_VP[ids_NC]
        alike_NC = (keys_NCP[..., :leading] == values_NP[:, None, :leading]).all(-1)
        cost_NC = np.where(alike_NC & (ids_NC >= 0), costs(keys_NCP, values_NP[:, None]), np.inf)
        best_N = cost_NC.argmin(1)
        rows = np.arange(len(best_N))
        return np.where(np.isfinite(cost_NC[rows, best_N]), ids_NC[rows, best_N], -1)

    def scanned(self, values_NP: Digits) -> Ids:
        """The same by looking at every key, (N,): what `nearest` is held against."""
        return np.array([costs(self.digits_VP, value_P[None]).argmin() for value_P in values_NP])


def _prefixes(digits_NP: Digits, leading: int) -> Ids:
    """The first digits, read as a number, (N,)."""
    return digits_NP[:, :leading].astype(np.int64) @ _TENS[DIGITS - leading :]


def _placed(home_V: Ids, leading: int) -> Ids | None:
    """Each key in its bucket or the next; one that finds both full sends another one on.

    None if some find no place.
    """
    buckets_BS = np.full((10**leading + 1, SLOTS), -1, np.int64)
    order = np.argsort(home_V, kind="stable")
    sorted_V = home_V[order]
    rank_V = np.arange(len(order)) - np.searchsorted(sorted_V, sorted_V)
    fits_V = rank_V < SLOTS
    buckets_BS[sorted_V[fits_V], rank_V[fits_V]] = order[fits_V]
    for key in order[~fits_V].tolist():
        at, moves = int(home_V[key]) + 1, 0  # its home is full
        while (free := np.flatnonzero(buckets_BS[at] < 0)).size == 0:
            at_home_S = home_V[buckets_BS[at]] == at
            moves += 1
            if not at_home_S.any() or at + 1 == len(buckets_BS) or moves > 10**leading:
                return None
            slot = int(at_home_S.argmax())
            buckets_BS[at, slot], key = key, int(buckets_BS[at, slot])
            at += 1
        buckets_BS[at, int(free[0])] = key
    return buckets_BS


def noise_to(keys: Keys, from_NP: Digits, target_N: Ids) -> tuple[Digits, NDArray[np.int64]]:
    """Noise (N, P) with which values land on their targets, and its digits that are used, (N,).

    Found by trial, digit by digit from the left: each from -9 to 9 is added, and what brings the
    value nearest to the target's key is kept, until the look-up finds the target. As a digit that
    fits is always among them, this is the difference of the digits, found without subtracting.
    """
    noise_NP, used_N = np.zeros_like(from_NP), np.zeros(len(from_NP), np.int64)
    aim_NP, away = keys.digits_VP[target_N], np.arange(len(from_NP))
    for place in range(DIGITS + 1):
        away = away[keys.nearest(moved(from_NP[away], noise_NP[away])) != target_N[away]]
        if not len(away) or place == DIGITS:
            break
        for some in np.array_split(away, -(-len(away) // CHUNK)):
            trial_NCP = np.repeat(noise_NP[some, None], len(TRIED), 1)
            trial_NCP[..., place] = TRIED
            landed_NCP = moved(from_NP[some, None], trial_NCP)
            digit_NC = from_NP[some, place, None] + TRIED
            carries_NC = (digit_NC < 0) | (digit_NC > 9)  # would undo the digits before
            cost_NC = np.where(carries_NC, np.inf, costs(landed_NCP, aim_NP[some, None]))
            noise_NP[some, place] = TRIED[cost_NC.argmin(1)]
        used_N[away] = place + 1
    return noise_NP, used_N
