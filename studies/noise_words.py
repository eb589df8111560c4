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

from studies.noise_keys import DIGITS, Digits, Ids, Keys, moved, noise_to, numbers
from studies.noise_texts import nearest_of

Mask = NDArray[np.bool_]
STOP, CUT, JOIN = 0, 1, 2  # tokens before the characters
DEPTH = 4  # digits that the search for a graph token tries
LONGEST = 60  # graph tokens in a row
PATIENCE = 10  # steps that find nothing
FREQUENT = 15  # characters that graph tokens count, or look for


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
    """Windows' means, their middle characters, and the noise that maps these to CUT or JOIN."""

    keys: Keys
    before: int
    after: int
    mean_E: Ids  # sum of a window's keys, rising; examples with the same one stand together
    middle_E: Ids
    noise_EP: Digits
    cut_E: Mask  # what the noise was found for

    @classmethod
    def learnt(cls, letters: Letters, keys: Keys, before: int, after: int) -> Cutter:
        """Windows of the same mean and middle are one example, and map as most of them do."""
        pair_N2 = np.stack([_sums(keys, letters.windows(before, after)), letters.ids_N], 1)
        pair_E2, which_N = np.unique(pair_N2, axis=0, return_inverse=True)
        cut_E = 2 * np.bincount(which_N, letters.cut_N) > np.bincount(which_N)
        target_E = np.where(cut_E, CUT, JOIN)
        noise_EP, _ = noise_to(keys, keys.digits_VP[pair_E2[:, 1]], target_E)
        return cls(keys, before, after, pair_E2[:, 0], pair_E2[:, 1], noise_EP, cut_E)

    def cuts(self, letters: Letters) -> Mask:
        """Where the nearest example's noise lands on CUT, (N,)."""
        noise_NP = self.noise_EP[self.nearest(letters)]
        landed_N = self.keys.nearest(moved(self.keys.digits_VP[letters.ids_N], noise_NP))
        return np.asarray(landed_N == CUT)

    def nearest(self, letters: Letters) -> Ids:
        """The example whose mean is nearest; of several that with the same middle, if any."""
        mean_N = _sums(self.keys, letters.windows(self.before, self.after))
        nearest_N = self.mean_E[nearest_of(self.mean_E, mean_N)]
        found_N = first_N = np.searchsorted(self.mean_E, nearest_N)
        last_N = np.searchsorted(self.mean_E, nearest_N, side="right")
        for step in range(int((last_N - first_N).max())):
            at_N = np.minimum(first_N + step, last_N - 1)
            found_N = np.where(self.middle_E[at_N] == letters.ids_N, at_N, found_N)
        return found_N

    def known(self, letters: Letters) -> float:
        """Share of windows whose mean an example has: they hold the same characters."""
        mean_N = _sums(self.keys, letters.windows(self.before, self.after))
        return float(np.isin(mean_N, self.mean_E).mean())


def _sums(keys: Keys, windows_NW: Ids) -> Ids:
    """Of a window's keys, whatever their order: its mean, times its length."""
    return np.asarray(numbers(keys.digits_VP)[windows_NW].sum(1))


def pairs_cut(letters: Letters, size: int) -> tuple[Ids, Mask]:
    """How often each pair of characters stands in a row, and whether it is mostly cut, (V, V)."""
    inside_M = letters.text_N[1:] == letters.text_N[:-1]
    pairs_M = (letters.ids_N[:-1] * size + letters.ids_N[1:])[inside_M]
    all_F = np.bincount(pairs_M, minlength=size**2)
    cuts_F = np.bincount(pairs_M, letters.cut_N[:-1][inside_M], minlength=size**2)
    return all_F.reshape(size, size), (2 * cuts_F > all_F).reshape(size, size)


def next_of(letters: Letters) -> Ids:
    """The character after each in its text, else STOP, (N,)."""
    follows_N = np.append(letters.text_N[1:] == letters.text_N[:-1], False)
    return np.where(follows_N, np.append(letters.ids_N[1:], STOP), STOP)


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
        if self.does == "substitute":  # what stands between two characters
            found_N[_pair(letters, *self.letters)] = self.cut
        elif self.does == "presence":  # the same, in words that hold a third one
            word_N = _word(letters, cut_N)
            holds = np.zeros(word_N[-1] + 1, bool)
            holds[word_N[ids_N == self.letters[0]]] = True
            found_N[holds[word_N] & _pair(letters, *self.letters[1:])] = self.cut
        elif self.does == "match":  # a word: cut around it, and nowhere in it
            start_M = _places(letters, self.letters)
            size = len(self.letters)
            for inner in range(size - 1):
                found_N[start_M + inner] = False
            found_N[start_M + size - 1] = True
            before_M = start_M[start_M > 0] - 1
            found_N[before_M[letters.text_N[before_M] == letters.text_N[before_M + 1]]] = True
        elif self.does == "count":  # of a character in a word: cut after so many of it
            counted_N = np.cumsum(ids_N == self.letters[0])
            word_N = _word(letters, cut_N)
            first_N = np.searchsorted(word_N, word_N)
            since_N = counted_N - (counted_N - (ids_N == self.letters[0]))[first_N]
            found_N |= (ids_N == self.letters[0]) & (since_N == self.limit)
        else:  # goes on past a default length, as pairs of characters usually are
            word_N = _word(letters, cut_N)
            since_N = np.arange(len(word_N)) - np.searchsorted(word_N, word_N) + 1
            found_N |= (since_N > self.limit) & usual[ids_N, next_of(letters)]
        return found_N

    def named(self, alphabet: str) -> str:
        """In words."""
        told = [alphabet[letter - JOIN - 1] for letter in self.letters]
        how = "cut" if self.cut else "join"
        if self.does == "substitute":
            return f"{how} {told[0]}·{told[1]}"
        if self.does == "presence":
            return f"{how} {told[1]}·{told[2]} in words with {told[0]}"
        if self.does == "count":
            return f"cut after {self.limit} {told[0]}"
        return f"{self.does} {''.join(told) or self.limit}"


def _pair(letters: Letters, left: int, right: int) -> Mask:
    """Where two characters stand in a row, (N,)."""
    return np.asarray((letters.ids_N == left) & (next_of(letters) == right))


def _word(letters: Letters, cut_N: Mask) -> Ids:
    """Which word of the output each character is of, rising from 0, (N,)."""
    begins_N = cut_N[:-1] | (letters.text_N[1:] != letters.text_N[:-1])
    return np.concatenate([[0], np.cumsum(begins_N)])


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
        all_VV, usual = pairs_cut(letters, size)
        ends = np.flatnonzero(letters.cut_N).tolist()
        spelt = Counter(
            tuple(letters.ids_N[start + 1 : end + 1].tolist())
            for start, end in pairwise(ends)
            if letters.text_N[start] == letters.text_N[end]
        )
        common = [word for word, _ in spelt.most_common(words) if len(word) > 1]
        found = [GraphToken("match", word) for word in common]
        frequent = np.bincount(letters.ids_N, minlength=size).argsort()[::-1][:FREQUENT].tolist()
        for flat in np.argsort(-all_VV, axis=None)[:words].tolist():
            pair = divmod(flat, size)
            found += [GraphToken("substitute", pair, cut) for cut in (True, False)]
            some = rng.choice(frequent, 2, replace=False).tolist()
            found += [GraphToken("presence", (one, *pair), not usual[pair]) for one in some]
        found += [GraphToken("count", (one,), limit=n) for one in frequent for n in (1, 2, 3)]
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

    def searched(self, letters: Letters, cut_N: Mask) -> Graphs:
        """The sequence that brings an output nearest to the truth, found as noise is: by trial.

        Token by token, and of each digit by digit: what brings the output nearer is kept. Ends
        where some tokens in a row, from other keys, bring it no nearer.
        """
        best, at, found, failed = f1(f1_counts(cut_N, letters)), 0, self, 0
        while failed < PATIENCE and len(found.noise_SP) < LONGEST:
            landed_P = self.keys.digits_VP[(at + failed) % len(self.tokens)].copy()
            nearest, better = at, best
            for place in range(DEPTH):
                trial_CP = np.repeat(landed_P[None], 10, 0)
                trial_CP[:, place] = np.arange(10)
                token_C = self.keys.nearest(trial_CP)
                scores = [self._score(token, letters, cut_N) for token in token_C.tolist()]
                chosen = int(np.argmax(scores))
                landed_P = trial_CP[chosen]
                if scores[chosen] > better:
                    nearest, better, kept_P = int(token_C[chosen]), scores[chosen], landed_P
            failed += 1
            if better > best:
                noise_P = kept_P - self.keys.digits_VP[at]
                cut_N = self.tokens[nearest].run(letters, cut_N, self.usual)
                best, at, failed = better, nearest, 0
                found = replace(found, noise_SP=np.concatenate([found.noise_SP, noise_P[None]]))
        return found

    def _score(self, token: int, letters: Letters, cut_N: Mask) -> float:
        return f1(f1_counts(self.tokens[token].run(letters, cut_N, self.usual), letters))
