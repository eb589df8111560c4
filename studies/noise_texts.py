"""Texts written as noise on keys: a code that gives each back, and a map from examples to new ones.

chain = Chain.learnt(sequences, keys); chain.decode(chain.encode(ids)) == ids
"""

# Shapes: T tokens of a text, V of the vocabulary, E examples, P digits.
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from studies.noise_keys import DIGITS, PLACES, Digits, Ids, Keys, costs, moved, noise_to

PIECE = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\w\s]|_|\s")
STOP = 0
By = Literal["mean", "mean and variance", "noise"]


@dataclass(frozen=True)
class Vocabulary:
    """Words with the space before them, and single characters for those that are new."""

    pieces: tuple[str, ...]  # the first one is the stop

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """All that occur."""
        pieces = dict.fromkeys(piece for text in texts for piece in PIECE.findall(text))
        letters = dict.fromkeys(letter for text in texts for letter in text)
        return cls(tuple(dict.fromkeys(["", *letters, *pieces])))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Of each piece."""
        return {piece: place for place, piece in enumerate(self.pieces)}

    def read(self, text: str) -> list[int]:
        """Its tokens; a character that never occurred is left out."""
        known = self.ids
        return [
            known[part]
            for piece in PIECE.findall(text)
            for part in ([piece] if piece in known else piece) if part in known
        ]  # fmt: skip

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say."""
        return "".join(self.pieces[token] for token in ids)


def followers(sequences: Sequence[Sequence[int]], vocabulary: int) -> list[Counter[int]]:
    """How often each token comes after each, stops included."""
    follow = [Counter[int]() for _ in range(vocabulary)]
    for ids in sequences:
        for before, after in zip([STOP, *ids], [*ids, STOP], strict=True):
            follow[before][after] += 1
    return follow


@dataclass(frozen=True)
class Code:
    """A text as a chain stores it: which of two states each step starts from, and its noise."""

    own_T: NDArray[np.bool_]  # what followed the last token before, in this text; else the usual
    used_T: NDArray[np.int64]  # digits of noise
    noise_TP: Digits

    @property
    def symbols_T(self) -> NDArray[np.int64]:
        """State and number of digits, as one."""
        return self.used_T + (DIGITS + 1) * self.own_T


@dataclass(frozen=True)
class Chain:
    """Two states: the usual next token of each, learnt by counting, or its next one in the text."""

    keys: Keys
    usual_V: Ids  # what follows a token most often
    bits_S: NDArray[np.float64]  # of each symbol of a code, from the training's

    @classmethod
    def learnt(cls, sequences: Sequence[Sequence[int]], keys: Keys) -> Chain:
        """From training texts' tokens."""
        follow = followers(sequences, len(keys.digits_VP))
        usual = [count.most_common(1)[0][0] if count else STOP for count in follow]
        chain = cls(keys, np.array(usual), np.zeros(2 * (DIGITS + 1)))
        counts_S = np.ones(2 * (DIGITS + 1))
        for ids in sequences:
            np.add.at(counts_S, chain.encode(ids).symbols_T, 1)
        return cls(keys, chain.usual_V, -np.log2(counts_S / counts_S.sum()))

    def encode(self, ids: Sequence[int]) -> Code:
        """At each step the state that lies nearer to the token, and noise where it is not there."""
        target_T = np.array([*ids, STOP])
        before_T = np.array([STOP, *ids])
        usual_T, own_T = self.usual_V[before_T], np.empty_like(target_T)
        seen: dict[int, int] = {}
        for step, (before, after) in enumerate(
            zip(before_T.tolist(), target_T.tolist(), strict=True)
        ):
            own_T[step] = seen.get(before, usual_T[step])
            seen[before] = after
        digits_VP = self.keys.digits_VP
        aim_TP = digits_VP[target_T][:, None]
        states_T2P = digits_VP[np.stack([usual_T, own_T], 1)]
        nearer_T = costs(states_T2P, aim_TP).argmin(1)
        start_TP = states_T2P[np.arange(len(nearer_T)), nearer_T]
        noise_TP, used_T = noise_to(self.keys, start_TP, target_T)
        return Code(nearer_T.astype(bool), used_T, noise_TP)

    def decode(self, code: Code) -> list[int]:
        """The tokens again, each by a look-up."""
        found: list[int] = []
        seen: dict[int, int] = {}
        before = STOP
        for own, noise_P in zip(code.own_T.tolist(), code.noise_TP, strict=True):
            usual = int(self.usual_V[before])
            start_P = self.keys.digits_VP[seen.get(before, usual) if own else usual]
            after = int(self.keys.nearest(moved(start_P, noise_P)[None])[0])
            if after == STOP:
                break
            found.append(after)
            seen[before] = before = after
        return found

    def bits(self, code: Code) -> float:
        """What it takes to store: states and lengths by how often they come, and digits plain.

        Of a digit's nineteen values ten land on a digit, and which these are the decoder knows.
        """
        return float(self.bits_S[code.symbols_T].sum() + code.used_T.sum() * np.log2(10))


@dataclass(frozen=True)
class Examples:
    """Context and target of examples as noise, with means and variances to find them by."""

    keys: Keys
    noise_ETP: Digits
    of_context_E2: NDArray[np.float64]  # mean and variance of the context's keys
    of_noise_E2: NDArray[np.float64]  # and of the noise

    @classmethod
    def learnt(
        cls, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], keys: Keys
    ) -> Examples:
        """Contexts and targets are filled up with stops to one more than the longest."""
        length = 1 + max(len(ids) for ids in (*contexts, *targets))
        context_ET, target_ET = filled_up(contexts, length), filled_up(targets, length)
        noise_NP, _ = noise_to(keys, keys.digits_VP[context_ET.ravel()], target_ET.ravel())
        noise_ETP = noise_NP.reshape(*target_ET.shape, DIGITS)
        noise_ET = noise_ETP @ PLACES
        of_noise_E2 = np.stack([noise_ET.mean(1), noise_ET.var(1)], 1)
        return cls(keys, noise_ETP, mean_and_variance(keys, contexts), of_noise_E2)

    def nearest(self, contexts: Sequence[Sequence[int]], by: By) -> Ids:
        """The example of each, (N,).

        By the mean of the context's keys, by their variance as well, or by the examples' mean
        noise: what a new text's mean is taken over, its noise not being known, is not said.
        """
        asked_N2 = mean_and_variance(self.keys, contexts)
        known_E2 = self.of_noise_E2 if by == "noise" else self.of_context_E2
        count = 2 if by == "mean and variance" else 1
        return np.asarray(KDTree(known_E2[:, :count]).query(asked_N2[:, :count])[1])

    def written(self, contexts: Sequence[Sequence[int]], rows: Ids) -> list[list[int]]:
        """What these examples' noise makes of contexts, up to the stop."""
        length = self.noise_ETP.shape[1]
        context_NT = filled_up([ids[:length] for ids in contexts], length)
        landed = moved(self.keys.digits_VP[context_NT], self.noise_ETP[rows])
        ids_NT = self.keys.nearest(landed.reshape(-1, DIGITS)).reshape(context_NT.shape)
        return [ids[: ids.index(STOP)] if STOP in ids else ids for ids in ids_NT.tolist()]


def filled_up(sequences: Sequence[Sequence[int]], length: int) -> Ids:
    """With stops, (N, T)."""
    return np.array([[*ids, *[STOP] * (length - len(ids))] for ids in sequences])


def mean_and_variance(keys: Keys, sequences: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Of each sequence's keys, whatever their order, (N, 2)."""
    values_V = keys.digits_VP @ PLACES
    sorted_ = [np.sort(values_V[list(ids)]) if ids else np.zeros(1) for ids in sequences]
    return np.array([(some.mean(), some.var()) for some in sorted_])


def nearest_of(sorted_E: NDArray[np.float64], values_N: NDArray[np.float64]) -> Ids:
    """Places of the nearest among sorted numbers, (N,)."""
    right_N = np.searchsorted(sorted_E, values_N).clip(1, max(1, len(sorted_E) - 1))
    left_N = right_N - 1
    right_N = right_N.clip(max=len(sorted_E) - 1)
    nearer = np.abs(sorted_E[left_N] - values_N) <= np.abs(sorted_E[right_N] - values_N)
    return np.where(nearer, left_N, right_N)
