"""Which texts have all words of a query: an inverted index.

rows = WordIndex.of(texts).rows("leek soup")
"""

# Shapes: n texts that have a word.
from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from cllm.content import singular

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class WordIndex:
    """Rows of texts by word, ascending: four bytes for each word of each text."""

    rows_of: dict[str, array[int]]

    @classmethod
    def of(cls, texts: Sequence[str]) -> WordIndex:
        """Words are letters and digits, whatever their case and number: a leek is leeks."""
        rows_of: dict[str, array[int]] = {}
        for row, text in enumerate(texts):
            for word in words_of(text):
                rows_of.setdefault(word, array("I")).append(row)
        return cls(rows_of)

    def rows(self, query: str) -> NDArray[np.int64]:
        """Texts that have all words of a query, in their order; none for a query without any."""
        found = [np.array(self.rows_of.get(word, ()), np.int64) for word in words_of(query)]
        found.sort(key=len)
        return reduce(np.intersect1d, found) if found else np.empty(0, np.int64)


def words_of(text: str) -> set[str]:
    """Words in lower case and singular, each once."""
    return {singular(word) for word in WORD.findall(text.lower())}
