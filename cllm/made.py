"""Texts that a model wrote, among the real ones of a corpus: told by their ids.

corpus = with_made(corpus, texts)              # they join the training texts
taught = mixed(corpus, share=0.3, repeats=10)  # what is trained on, real texts once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cllm.corpus import Corpus, title_in

MADE = "cllm-made-"  # how their ids begin


def with_made(corpus: Corpus, texts: Sequence[str]) -> Corpus:
    """The corpus with texts that a model wrote at its end, for training."""
    first = len(made_part(corpus))
    ids = tuple(f"{MADE}{first + number:06d}" for number in range(len(texts)))
    return _joined(corpus, Corpus(ids, tuple(texts), tuple(map(title_in, texts)), ids,
                                  ("train",) * len(texts)))  # fmt: skip


def real_part(corpus: Corpus) -> Corpus:
    """Without texts that a model wrote."""
    return corpus.only([not name.startswith(MADE) for name in corpus.ids])


def made_part(corpus: Corpus) -> Corpus:
    """The texts that a model wrote."""
    return corpus.only([name.startswith(MADE) for name in corpus.ids])


def room_for(corpus: Corpus, share: float, most: int = 0) -> int:
    """How many more texts of a model's the corpus takes before they are more than that share.

    `most`: real texts that are trained on (0: all).
    """
    if share >= 1:
        return len(corpus)
    real = len(_real_train(corpus, most))
    return max(0, int(share / (1 - share) * real) - len(made_part(corpus)))


def _real_train(corpus: Corpus, most: int) -> Corpus:
    train = real_part(corpus).select("train")
    return train.sample(most) if most else train


def mixed(corpus: Corpus, share: float, repeats: int = 0, most: int = 0) -> Corpus:
    """What is trained on: real texts once, a model's in turn until they are `share` of all.

    Each stands there `repeats` times at most (0: no limit), so that few of them stay fewer; with
    a share of 1 no real text does, else `most` of them (0: all). Held-out texts stay as they are.
    """
    real, made = real_part(corpus), made_part(corpus)
    held_out = real.only([split != "train" for split in real.splits])
    train = _real_train(corpus, most)
    if share >= 1 and len(made):
        return _joined(made, held_out)
    wanted = round(share / (1 - share) * len(train)) if share < 1 else 0
    rows = min(wanted, repeats * len(made)) if repeats else wanted
    return _joined(train, _repeated(made, rows), held_out)


def _repeated(corpus: Corpus, rows: int) -> Corpus:
    """Its texts in turn until there are so many rows, under names of their own."""
    if not len(corpus):
        return corpus
    chosen = [row % len(corpus) for row in range(rows)]
    ids = tuple(f"{corpus.ids[row]}/{turn // len(corpus)}" for turn, row in enumerate(chosen))
    return replace(corpus.at(chosen), ids=ids)


def _joined(first: Corpus, *others: Corpus) -> Corpus:
    parts = (first, *others)
    return Corpus(
        tuple(name for part in parts for name in part.ids),
        tuple(text for part in parts for text in part.texts),
        tuple(title for part in parts for title in part.titles),
        tuple(group for part in parts for group in part.groups),
        tuple(split for part in parts for split in part.splits), first.info,
        tuple(name for part in parts for name in part.subjects or ("",) * len(part))
        if any(part.subjects for part in parts) else (),
    )  # fmt: skip
