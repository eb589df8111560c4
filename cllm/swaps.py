"""Swap a word of a text for one that stands in its place in like texts.

Aligning near texts shows which words stand for each other. A text with one of them swapped
throughout is nearly real: a control that voids must beat, and, in training, a combination that
the corpus may not hold, so that a decoder learns to combine rather than to look up.

    table = SwapTable.learn(texts, rng)
    text = table.swap(texts[0], rng)
"""

# Shapes: P pairs of texts, W words.
from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from cllm.retrieval import TfidfIndex

PAIRS, SEARCHED = 6_000, 8_000  # pairs aligned, and texts they are taken from, at most
NEAREST = 60  # a text is aligned with one of that many nearest
FRONT, FLOOR = 8.0, 0.05  # a word's chance: e^(-its place / FRONT) + FLOOR
TRIES = 5  # draws until the new word is not in the text already


@dataclass(frozen=True)
class SwapTable:
    """For each word, those that stood in its place, and how often."""

    others: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]]

    @classmethod
    def learn(cls, texts: Sequence[str], rng: np.random.Generator) -> SwapTable:
        """Align random texts with near ones, word by word; count single words replaced."""
        chosen = rng.permutation(len(texts))[:SEARCHED]
        near = TfidfIndex([texts[row] for row in chosen])
        asked = chosen[:PAIRS]
        found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        rows_PK = near.nearest([texts[row] for row in asked], NEAREST)[1]
        picked_P = rows_PK[np.arange(len(asked)), rng.integers(rows_PK.shape[1], size=len(asked))]
        for row, other in zip(asked, chosen[picked_P], strict=True):
            for a, b in _replaced(words(texts[row]), words(texts[other])):
                found[a][b] += 1
                found[b][a] += 1
        return cls({word: _shares(counts) for word, counts in found.items()})

    def other(self, word: str, rng: np.random.Generator) -> str:
        """One that stood in the word's place, as often as it did; KeyError where none did."""
        others, share_W = self.others[word]
        return others[int(rng.choice(len(others), p=share_W))]

    def swap(self, text: str, rng: np.random.Generator) -> str:
        """The text with one word replaced wherever it stands, rather an early one.

        A text without a word of the table comes back as it is.
        """
        spelled = words(text)
        known = [word for word in dict.fromkeys(spelled) if word in self.others]
        if not known:
            return text
        chance_W = np.exp([-spelled.index(word) / (2 * FRONT) for word in known]) + FLOOR
        for _ in range(TRIES):
            word = known[int(rng.choice(len(known), p=chance_W / chance_W.sum()))]
            new = self.other(word, rng)
            if new not in spelled:
                return "".join(new if part == word else part for part in spelled)
        return text

    def copies(self, texts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        """`count` random ones of the texts, each with a word swapped."""
        return [self.swap(texts[row], rng) for row in rng.integers(len(texts), size=count)]


def swapped_texts(texts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` texts of the corpus, in random order, with one or two words swapped; all in turn."""
    table = SwapTable.learn(texts, rng)
    found: list[str] = []
    for row in islice(cycle(rng.permutation(len(texts)).tolist()), count):
        text = texts[row]
        for _ in range(int(rng.integers(1, 3))):
            text = table.swap(text, rng)
        found.append(text)
    return found


def words(text: str) -> list[str]:
    """Words, marks and the spaces between them; joined they are the text again."""
    return re.findall(r"\w+|[^\w\s]|\s+", text)


def _replaced(a: list[str], b: list[str]) -> list[tuple[str, str]]:
    """Words that stand in each other's place."""
    steps = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    pairs = [
        (a[i], b[k]) for what, i, j, k, m in steps if what == "replace" and j - i == m - k == 1
    ]
    return [(x, y) for x, y in pairs if x.isalpha() and y.isalpha()]


def _shares(counts: Counter[str]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    return tuple(counts), np.array(list(counts.values())) / counts.total()
