"""What a CLLM is trained on and scored by: token rows of a corpus, and of copies of its texts.

texts = TrainingTexts.of(base, corpus, settings.train, limit=128)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.negatives import KINDS, Negatives
from cllm.pretrain import fitted_texts, held_out_texts, token_texts
from cllm.settings import TrainSettings
from cllm.swaps import swapped_texts

log = logging.getLogger(__name__)

LEARNT_FROM = 5000  # texts that edits take words and phrases from, at most


@dataclass(frozen=True)
class TrainingTexts:
    """Real training texts, swapped copies of some, and held-out texts, cut to one context."""

    real: TokenTexts
    copies: tuple[str, ...]
    both: TokenTexts  # real ones, then copies
    held_out: TokenTexts
    context: int
    edits: TokenTexts | None  # nearly real copies of both, by their names, where a term asks

    @classmethod
    def of(
        cls, base: BaseLM, corpus: Corpus, settings: TrainSettings, limit: int, *,
        fitted: bool = True,
    ) -> TrainingTexts:  # fmt: skip
        """Of a corpus; the context is the one that fits it, `limit` tokens at most, or `limit`."""
        train = corpus.select("train")
        if fitted:
            real, context = fitted_texts(base, train, limit)
        else:
            real, context = token_texts(base, train, limit), limit
        copies = swapped_copies(train, settings)
        both = with_copies(base, real, copies, context) if copies else real
        held_out = held_out_texts(base, corpus, context)
        edits = None
        if settings.negative_weight and settings.negative_copies:
            texts = [*train.texts, *copies]
            edits = edited_texts(base, both, texts, context, settings.loop.seed)
        return cls(real, tuple(copies), both, held_out, context, edits)


def swapped_copies(corpus: Corpus, settings: TrainSettings) -> list[str]:
    """Copies of training texts with words swapped, to make up the share of `settings.swaps`.

    Blind to what a corpus withholds: a copy may name a combination that no text has.
    """
    if not settings.swaps:
        return []
    count = round(len(corpus) * settings.swaps / (1 - settings.swaps))
    return swapped_texts(corpus.texts, count, np.random.default_rng([settings.loop.seed, 4]))


def with_copies(base: BaseLM, texts: TokenTexts, copies: Sequence[str], context: int) -> TokenTexts:
    """The texts and the copies, as one."""
    log.info("%d texts with words swapped join %d real ones", len(copies), len(texts))
    names = (*texts.names, *(f"swap-{number}" for number in range(len(copies))))
    rows = [row.tolist() for row in texts.rows] + base.tokenize(list(copies))
    return base.texts(names, rows, context)


def edited_texts(
    base: BaseLM, real: TokenTexts, texts: Sequence[str], context: int, seed: int
) -> TokenTexts:
    """A nearly real copy, named as the text, of each that allows one within the context."""
    log.info("making a nearly real copy of each of %d texts", len(texts))
    rng = np.random.default_rng([seed, 5])
    some = rng.permutation(len(texts))[:LEARNT_FROM]
    maker = Negatives.of([texts[row] for row in some], rng)
    found = [maker.edited(text, rng, KINDS) for text in texts]
    made = [(name, edit[0]) for name, edit in zip(real.names, found, strict=True) if edit]
    rows = base.tokenize([text for _, text in made])
    edits = base.texts([name for name, _ in made], rows, context)
    row_of = dict(zip(real.names, real.rows, strict=True))
    return edits.at(
        place for place, (name, row) in enumerate(zip(edits.names, edits.rows, strict=True))
        if not np.array_equal(row, row_of[name])  # nor was the edit beyond the context
    )  # fmt: skip
