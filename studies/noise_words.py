"""Where words end, from characters alone: by noise on keys, and by graph tokens after that.

A window of characters is an example; a new one is cut as the example whose mean is nearest says.
Graph tokens are functions over what was written: their sequence is found by the same search, noise
on keys, and runs after the tokens.
"""

# Shapes: N characters of all texts, W of a window, G graph tokens, S steps.
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from studies.noise_keys import DIGITS, Digits, Ids, Keys, moved, noise_to
from studies.noise_texts import nearest_of

Mask = NDArray[np.bool_]
STOP, CUT, JOIN = 0, 1, 2  # tokens before the characters
TRIED = 64  # noises a step of the search for graph tokens
LONGEST = 40  # graph tokens in a row
PATIENCE = 3  # steps that find nothing


@dataclass(frozen=True)
class Letters:
    """Texts without their spaces, one after the other, and where spaces were."""

    ids_N: Ids
    cut_N: Mask  # after this character
    text_N: Ids  # which text it is of

    @classmethod
    def of(cls, texts: Sequence[str], alphabet: str) -> Letters:
        """Of characters of the alphabet; others are left out. The end of a text is no cut."""
        known = {letter: place for place, letter in enumerate(alphabet, JOIN + 1)}
        ids, cuts, numbers = [], [], []
        for number, text in enumerate(texts):
            words = [[known[c] for c in word if c in known] for word in text.split()]
            words = [word for word in words if word]
            for place, word in enumerate(words):
                ids += word
                cuts += [False] * (len(word) - 1) + [place + 1 < len(words)]
                numbers += [number] * len(word)
        return cls(np.array(ids), np.array(cuts, bool), np.array(numbers))

    def windows(self, before: int, after: int) -> Ids:
        """Characters around each, stops beyond its text, (N, W)."""
        reach, count = range(-before, after + 1), len(self.ids_N)
        at_NW = np.arange(count)[:, None] + np.array(reach)
        inside_NW = (at_NW >= 0) & (at_NW < count)
        at_NW = at_NW.clip(0, count - 1)
        inside_NW &= self.text_N[at_NW] == self.text_N[:, None]
        return np.where(inside_NW, self.ids_N[at_NW], STOP)


@dataclass(frozen=True)
class Cutter:
    """Windows' means and the noise that maps their middle character to CUT or JOIN."""

    keys: Keys
    before: int
    after: int
    means_E: NDArray[np.float64]
    noise_EP: Digits

    @classmethod
    def learnt(cls, letters: Letters, keys: Keys, before: int, after: int) -> Cutter:
        """Windows with the same mean are one example, and map as most of them do."""
        means_N = _means(keys, letters.windows(before, after))
        means_E, which_N = np.unique(means_N, return_inverse=True)
        cuts_E, all_E = np.bincount(which_N, letters.cut_N), np.bincount(which_N)
        middle_E = np.empty(len(means_E), np.int64)
        middle_E[which_N] = letters.ids_N
        target_E = np.where(2 * cuts_E > all_E, CUT, JOIN)
        noise_EP, _ = noise_to(keys, keys.digits_VP[middle_E], target_E)
        return cls(keys, before, after, means_E, noise_EP)

    def cuts(self, letters: Letters) -> Mask:
        """Where the nearest example's noise lands on CUT, (N,)."""
        means_N = _means(self.keys, letters.windows(self.before, self.after))
        noise_NP = self.noise_EP[nearest_of(self.means_E, means_N)]
        return self.keys.nearest(moved(self.keys.digits_VP[letters.ids_N], noise_NP)) == CUT


def _means(keys: Keys, windows_NW: Ids) -> NDArray[np.float64]:
    """Of a window's keys, whatever their order."""
    values_V = np.round(keys.digits_VP @ 10.0 ** np.arange(DIGITS - 1, -1, -1)).astype(np.int64)
    return values_V[windows_NW].sum(1) / windows_NW.shape[1]


def f1_counts(cut_N: Mask, letters: Letters) -> NDArray[np.int64]:
    """Right cuts, cuts, and cuts there are, of each text, (n, 3)."""
    inside_N = np.ones(len(cut_N), bool)
    inside_N[np.flatnonzero(np.diff(letters.text_N, append=-1))] = False  # a text's end is given
    cut_N = cut_N & inside_N
    each = (cut_N & letters.cut_N, cut_N, letters.cut_N)
    return np.stack([np.bincount(letters.text_N, one) for one in each], 1).astype(np.int64)


def f1(counts_n3: NDArray[np.int64]) -> float:
    """Of all texts together."""
    right, said, there = counts_n3.sum(0)
    return float(2 * right / max(1, said + there))


@dataclass(frozen=True)
class GraphToken:
    """A function over a finished output: what it does is apart from the key that stands for it."""

    does: str  # substitute, match, presence, count, continue
    letters: tuple[int, ...] = ()
    cut: bool = True
    limit: int = 0

    def run(self, letters: Letters, cut_N: Mask, usual: Mask) -> Mask:
        """The cuts after it, (N,); `usual`: pairs of characters that are mostly cut, (V, V)."""
        ids_N, found_N = letters.ids_N, cut_N.copy()
        follows_N = np.append(letters.text_N[1:] == letters.text_N[:-1], False)
        next_N = np.where(follows_N, np.append(ids_N[1:], STOP), STOP)
        if self.does == "substitute":  # what stands between two characters
            found_N[(ids_N == self.letters[0]) & (next_N == self.letters[1])] = self.cut
        elif self.does == "presence":  # of a character: what comes after it
            found_N[ids_N == self.letters[0]] = self.cut
        elif self.does == "match":  # a word: cut around it, and nowhere in it
            start_M = _places(letters, self.letters)
            size = len(self.letters)
            for inner in range(size - 1):
                found_N[start_M + inner] = False
            found_N[start_M + size - 1] = True
            before_M = start_M[start_M > 0] - 1
            found_N[before_M[letters.text_N[before_M] == letters.text_N[before_M + 1]]] = True
        else:
            since_N = _since(letters, found_N)
            if self.does == "count":  # of characters since the last cut: too few to cut
                found_N &= since_N > self.limit
            else:  # goes on past a default length, as pairs of characters usually are
                found_N |= (since_N > self.limit) & usual[ids_N, next_N]
        return found_N

    def named(self, alphabet: str) -> str:
        """In words."""
        told = "".join(alphabet[letter - JOIN - 1] for letter in self.letters)
        if self.does == "substitute":
            return f"{'cut' if self.cut else 'join'} {told[0]}·{told[1]}"
        if self.does == "presence":
            return f"{'cut' if self.cut else 'join'} after {told}"
        return f"{self.does} {told or self.limit}"


def _places(letters: Letters, word: Sequence[int]) -> Ids:
    """Where a word's letters stand in a row in one text."""
    ids_N = letters.ids_N
    count = len(ids_N) - len(word) + 1
    alike = np.ones(max(0, count), bool)
    for inner, letter in enumerate(word):
        alike &= ids_N[inner : inner + count] == letter
    start_M = np.flatnonzero(alike)
    last_M = start_M + len(word) - 1
    return start_M[letters.text_N[start_M] == letters.text_N[last_M]]


def _since(letters: Letters, cut_N: Mask) -> Ids:
    """Characters since the last cut or the text's beginning, this one included, (N,)."""
    at_N = np.arange(len(cut_N))
    begins_N = np.concatenate([[True], cut_N[:-1] | (letters.text_N[1:] != letters.text_N[:-1])])
    return at_N - np.maximum.accumulate(np.where(begins_N, at_N, 0)) + 1


@dataclass(frozen=True)
class Graphs:
    """A small dictionary of graph tokens, their keys, and a sequence of them as noise."""

    tokens: tuple[GraphToken, ...]
    keys: Keys
    usual: Mask  # (V, V)
    noise_SP: Digits

    @classmethod
    def dictionary(
        cls, letters: Letters, alphabet: str, rng: np.random.Generator, words: int = 200
    ) -> Graphs:
        """Common words, pairs and characters of training texts; no sequence yet."""
        size = len(alphabet) + JOIN + 1
        ids_N, cut_N = letters.ids_N, letters.cut_N
        inside_N = np.append(letters.text_N[1:] == letters.text_N[:-1], False)[:-1]
        pairs_M = (ids_N[:-1] * size + ids_N[1:])[inside_N]
        all_VV = np.bincount(pairs_M, minlength=size**2).reshape(size, size)
        cuts_VV = np.bincount(
            pairs_M, cut_N[:-1][inside_N], minlength=size**2
        ).reshape(size, size)  # fmt: skip
        usual = 2 * cuts_VV > all_VV
        ends = np.flatnonzero(cut_N)
        spelt = Counter(
            tuple(ids_N[start + 1 : end + 1].tolist())
            for start, end in pairwise(ends.tolist())
            if letters.text_N[start] == letters.text_N[end]
        )
        common = [word for word, _ in spelt.most_common(words) if len(word) > 1]
        found = [GraphToken("match", word) for word in common]
        for flat in np.argsort(-all_VV, axis=None)[:words].tolist():
            pair = divmod(flat, size)
            found += [GraphToken("substitute", pair, cut) for cut in (True, False)]
        for letter in range(JOIN + 1, size):
            found += [GraphToken("presence", (letter,), cut) for cut in (True, False)]
        found += [GraphToken("count", limit=n) for n in range(1, 5)]
        found += [GraphToken("continue", limit=n) for n in range(1, 16)]
        none = np.zeros((0, DIGITS), np.int8)
        return cls(tuple(found), Keys.drawn(len(found), rng), usual, none)

    @property
    def sequence(self) -> list[GraphToken]:
        """Each step's noise moves the last one's key, and the look-up says which token it is."""
        at, found = 0, []
        for noise_P in self.noise_SP:
            at = int(self.keys.nearest(moved(self.keys.digits_VP[at], noise_P)[None])[0])
            found.append(self.tokens[at])
        return found

    def run(self, letters: Letters, cut_N: Mask) -> Mask:
        """All of the sequence, after the tokens, (N,)."""
        for token in self.sequence:
            cut_N = token.run(letters, cut_N, self.usual)
        return cut_N

    def searched(self, letters: Letters, cut_N: Mask, rng: np.random.Generator) -> Graphs:
        """Step by step: of noises drawn, that whose token brings the output nearest to the truth.

        Ends where some steps in a row found nothing that does.
        """
        best, at, found, failed = f1(f1_counts(cut_N, letters)), 0, self, 0
        while failed < PATIENCE and len(found.noise_SP) < LONGEST:
            noise_CP = rng.integers(0, 10, (TRIED, DIGITS)).astype(np.int8)
            landed_C = self.keys.nearest(moved(self.keys.digits_VP[at][None], noise_CP))
            runs = [self.tokens[token].run(letters, cut_N, self.usual) for token in landed_C]
            scores = [f1(f1_counts(run, letters)) for run in runs]
            chosen = int(np.argmax(scores))
            failed += 1
            if scores[chosen] > best:
                best, cut_N, at, failed = scores[chosen], runs[chosen], int(landed_C[chosen]), 0
                noise_SP = np.concatenate([found.noise_SP, noise_CP[chosen][None]])
                found = replace(found, noise_SP=noise_SP)
        return found
