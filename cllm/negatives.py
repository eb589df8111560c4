"""Texts that are nearly real: one small edit away from a real one, for a critic to tell apart.

What a model learns from is the boundary: a text with one thing wrong says more than rubbish does.
`corrupted` makes the rubbish that the edits are to be compared with.

    maker = Negatives.of(texts, rng)
    wrong, kind = maker.edited(texts[0], rng, KINDS)
"""

# Shapes: N training texts.
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from cllm.retrieval import TfidfIndex
from cllm.swaps import SwapTable, words

# methods of `Negatives`
KINDS = ("swap", "same", "far", "number", "order", "repeat", "span", "negation")
CHANGED = 0.15  # share of a text's words that `corrupted` changes
PHRASE = (3, 7)  # words of a phrase that is repeated, or taken from a neighbour: least and most
TRIES = 20  # draws of a word that stands for another's likes
NEAREST = 20  # a neighbour is one of that many
REMEMBERED = 4096  # texts whose neighbours are kept: a text may stand there many times
TIMES = (10, 0.1)  # what a number is multiplied by
VERBS = "is|are|was|were|do|does|did|can|could|will|would|should|has|have"
AUXILIARY, NOT = re.compile(rf"\b({VERBS})\b"), re.compile(rf"\b({VERBS}) not\b")
SENTENCE = re.compile(r"(?<=\.)\s+")


@dataclass(frozen=True)
class Negatives:
    """Makes them from texts of one corpus; every edit needs something of the text it changes."""

    texts: Sequence[str]
    near: TfidfIndex
    table: SwapTable
    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str], rng: np.random.Generator) -> Negatives:
        """Learn which words stand for each other; InputError where no text holds a word."""
        known = sorted({word for text in texts for word in words(text) if word.isalnum()})
        return cls(texts, TfidfIndex(texts), SwapTable.learn(texts, rng), tuple(known))

    @cached_property
    def neighbours(self) -> Callable[[str], NDArray[np.int64]]:
        """Rows of the texts that are nearest to one."""
        return lru_cache(REMEMBERED)(lambda text: self.near.nearest([text], NEAREST)[1][0])

    def edited(
        self, text: str, rng: np.random.Generator, kinds: Sequence[str]
    ) -> tuple[str, str] | None:
        """The text with one edit, of a random kind among those that it allows, and the kind.

        None where it allows none of them.
        """
        for kind in rng.permutation(list(kinds)).tolist():
            wrong: str | None = getattr(self, kind)(text, rng)
            if wrong is not None and wrong != text:
                return wrong, kind
        return None

    def wrong(
        self, text: str, rng: np.random.Generator, edits: float = 1.0, kinds: Sequence[str] = KINDS
    ) -> str:
        """The text made wrong: with chance `edits` by an edit, where it allows one, else corrupted.

        The rest is rubbish, by which critics of edits are compared with critics of that.
        """
        edit = self.edited(text, rng, kinds) if rng.random() < edits else None
        return self.corrupted(text, rng) if edit is None else edit[0]

    def corrupted(self, text: str, rng: np.random.Generator) -> str:
        """The text with a share of its words replaced by any others of the corpus, or left out."""
        parts = words(text)
        rows = [row for row, part in enumerate(parts) if part.isalnum()]
        for row in rng.permutation(rows)[: max(1, round(CHANGED * len(rows)))]:
            other = self.vocabulary[int(rng.integers(len(self.vocabulary)))]
            parts[row] = other if rng.random() < 0.5 else ""
        return "".join(parts)

    def swap(self, text: str, rng: np.random.Generator) -> str | None:
        """A word that stands there twice is changed once: the parts of the text disagree."""
        parts = words(text)
        twice = [row for row, part in enumerate(parts)
                 if part in self.table.others and parts.count(part) > 1]  # fmt: skip
        if not twice:
            return None
        row = twice[int(rng.integers(len(twice)))]
        parts[row] = self.table.other(parts[row], rng)
        return "".join(parts)

    def same(self, text: str, rng: np.random.Generator) -> str | None:
        """A word gives way, wherever it stands, to one of the text that stands for it elsewhere."""
        parts = words(text)
        there = set(parts)
        pairs = [(part, other) for part in dict.fromkeys(parts) if part in self.table.others
                 for other in self.table.others[part][0] if other in there]  # fmt: skip
        if not pairs:
            return None
        old, new = pairs[int(rng.integers(len(pairs)))]
        return "".join(new if part == old else part for part in parts)

    def far(self, text: str, rng: np.random.Generator) -> str | None:
        """A word gives way, wherever it stands, to one that stands for its likes, never for it."""
        parts = words(text)
        known = [part for part in dict.fromkeys(parts) if part in self.table.others]
        for _ in range(TRIES if known else 0):
            old = known[int(rng.integers(len(known)))]
            new = self.table.other(self.table.other(old, rng), rng)
            if new not in self.table.others[old][0] and new not in parts:
                return "".join(new if part == old else part for part in parts)
        return None

    def number(self, text: str, rng: np.random.Generator) -> str | None:
        """A number is ten times what it was, or a tenth."""
        found = list(re.finditer(r"(?<![\w.])\d{1,15}(?![\w.])", text))
        if not found:
            return None
        one = found[int(rng.integers(len(found)))]
        changed = max(1, round(int(one[0]) * TIMES[int(rng.integers(2))]))
        return f"{text[: one.start()]}{changed}{text[one.end() :]}"

    def order(self, text: str, rng: np.random.Generator) -> str | None:
        """Two sentences after the last heading change places."""
        head, mark, rest = text.rpartition(": ")
        said = SENTENCE.split(rest)
        if len(said) < 3:  # the last one ends the text: it stays
            return None
        a, b = rng.choice(len(said) - 1, 2, replace=False)
        said[a], said[b] = said[b], said[a]
        return f"{head}{mark}{' '.join(said)}"

    def repeat(self, text: str, rng: np.random.Generator) -> str | None:
        """A phrase stands there twice, one after the other."""
        said = text.split(" ")
        length = int(rng.integers(*PHRASE))
        if len(said) < 2 * length:
            return None
        start = int(rng.integers(len(said) - length))
        end = start + length
        return " ".join([*said[:end], *said[start:end], *said[end:]])

    def span(self, text: str, rng: np.random.Generator) -> str | None:
        """A phrase gives way to that which stands at its place in a near text."""
        said = text.split(" ")
        length = int(rng.integers(*PHRASE))
        rows = self.neighbours(text)
        other = self.texts[int(rows[int(rng.integers(len(rows)))])].split(" ")
        least = min(len(said), len(other))
        if least < 2 * length:
            return None
        start = int(rng.integers(least - length))
        return " ".join([*said[:start], *other[start : start + length], *said[start + length :]])

    def negation(self, text: str, rng: np.random.Generator) -> str | None:
        """What is said becomes what is not, or the other way round."""
        denied = list(NOT.finditer(text))
        said = denied or list(AUXILIARY.finditer(text))
        if not said:
            return None
        one = said[int(rng.integers(len(said)))]
        return f"{text[: one.start()]}{one[1]}{'' if denied else ' not'}{text[one.end() :]}"
