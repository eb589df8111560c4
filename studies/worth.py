"""What a text is worth beside its verdict, by texts that no arm has seen; for VoidBench.

rows = Worth.of(corpus).rows(ideas)
"""

# Shapes: n texts of an arm.
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cllm.content import content_items
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.ideas import Idea
from cllm.judge import Judge
from cllm.retrieval import TfidfIndex
from studies.pooling import Row


@dataclass(frozen=True)
class Worth:
    """What a text is worth beside its verdict: facts of the corpus that no arm has seen."""

    corpus: Corpus
    both: TfidfIndex  # of training and test texts
    trained: int  # rows of it that are training texts
    pairs: PairCounts

    @classmethod
    def of(cls, corpus: Corpus) -> Worth:
        """Held-out texts are those of the test split; there must be some."""
        train, test = corpus.select("train").texts, corpus.select("test").texts
        if not test:
            raise InputError("the corpus has no test texts: nothing says what comes later")
        return cls(corpus, TfidfIndex([*train, *test]), len(train), PairCounts.of(test))

    def later(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which texts are nearer to a held-out text than to any training text, (n,)."""
        return np.asarray(self.both.nearest(list(texts))[1][:, 0] >= self.trained)

    def later_by_chance(self, judge: Judge) -> float | None:
        """The share of real texts, of the validation split, that are.

        Of those that would count if they were written: valid, and no duplicates. None without any.
        """
        texts = self.corpus.select("validation").texts
        verdicts = judge.judge(texts)
        counted = [t for t, v in zip(texts, verdicts, strict=True) if v.valid and not v.duplicate]
        return float(self.later(counted).mean()) if counted else None

    def rows(self, ideas: Sequence[Idea]) -> list[Row]:
        """The texts of an arm, as JSON."""
        if not ideas:
            return []
        later_n = self.later([idea.text for idea in ideas])
        return [self._row(idea, bool(later)) for idea, later in zip(ideas, later_n, strict=True)]

    def _row(self, idea: Idea, later: bool) -> Row:
        row: Row = {
            "arm": idea.arm, "text": idea.text, "valid": idea.verdict.valid,
            "duplicate": idea.verdict.duplicate, "hit": idea.hit, "yields": idea.yields,
            "later": idea.yields and later,
        }  # fmt: skip
        if "withheld" in self.corpus.info:
            pair = self.corpus.withheld_pair(idea.text) if idea.yields else None
            row |= {"withheld": pair is not None, "combination": list(pair) if pair else None}
        items = content_items(idea.text)
        if items:
            row["unknown_items"] = len(items - self.pairs.single.keys()) / len(items)
        pmi = self.pairs.pmi(items)
        return row if pmi is None else row | {"pmi": pmi}


@dataclass(frozen=True)
class PairCounts:
    """In how many texts each content item and each pair of them stands."""

    texts: int
    single: Counter[str]
    double: Counter[tuple[str, str]]

    @classmethod
    def of(cls, texts: Sequence[str]) -> PairCounts:
        """Counted over these texts."""
        items = [sorted(content_items(text)) for text in texts]
        double = Counter(pair for each in items for pair in combinations(each, 2))
        return cls(len(texts), Counter(item for each in items for item in each), double)

    def pmi(self, items: frozenset[str]) -> float | None:
        """Mean over pairs of log p(a, b) / p(a) p(b), half a text added to each count.

        Of items that stand in some text; None for fewer than two.
        """
        known = sorted(items & self.single.keys())
        found = [
            np.log((self.double[a, b] + 0.5) * (self.texts + 0.5))
            - np.log((self.single[a] + 0.5) * (self.single[b] + 0.5))
            for a, b in combinations(known, 2)
        ]
        return float(np.mean(found)) if found else None
