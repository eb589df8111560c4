"""Random numbers that belong to a text, not to a batch.

Every draw is a hash of (seed, step, text, stream, position), so training gives
the same noise however a batch is split over workers or ordered within one.
    uniform(seed=0, step=12, keys_B=keys, shape=(64,), stream=1)
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

# Shapes: B texts, n draws a text.
UInts = NDArray[np.uint64]
Floats = NDArray[np.float32]

TOKEN_STREAM, RATE_STREAM, VECTOR_STREAM, PREFIX_STREAM = 1, 2, 3, 4
PASSAGE_STREAM = 5

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def text_keys(ids: list[str] | tuple[str, ...]) -> UInts:
    """A 64-bit key for each text id, (N,), the same on every machine."""
    digests = [hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def uniform(seed: int, step: int, keys_B: UInts, n: int, stream: int) -> Floats:
    """Uniform draws in (0, 1), (B, n), by SplitMix64 (Steele et al., 2014) used as a hash."""
    with np.errstate(over="ignore"):
        salt = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ np.uint64(step)) + np.uint64(stream)
        row_B1 = _mix(keys_B ^ _mix(salt))[:, None]
        bits_Bn = _mix(row_B1 + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64))
    # 23 bits, so that neither 0 nor 1 comes out of the rounding
    draws_Bn: Floats = ((bits_Bn >> np.uint64(41)).astype(np.float32) + 0.5) / np.float32(1 << 23)
    return draws_Bn


def normal(seed: int, step: int, keys_B: UInts, n: int, stream: int) -> Floats:
    """Standard normal draws, (B, n)."""
    draws_Bn: Floats = ndtri(uniform(seed, step, keys_B, n, stream)).astype(np.float32)
    return draws_Bn


def _mix(x: Any) -> Any:  # noqa: ANN401 - one number or an array of them
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
