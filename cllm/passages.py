"""Texts in passages of some words, cut between sentences where that can be.

passages("One. Two three. Four.", words=3)   # ["One. Two three.", "Four."]
"""

from __future__ import annotations

import re

from cllm.corpus import Corpus

ENDS = re.compile(r"(?<=[.!?;])\s+|\n+")  # of sentences, of items of a list, of lines


def passages(text: str, words: int) -> list[str]:
    """The text's words in order, at most so many a passage; a sentence is cut only if longer.

    None of an empty text. What stood between words is one space.
    """
    found: list[list[str]] = []
    for sentence in ENDS.split(text):
        said = sentence.split()
        if found and len(found[-1]) + len(said) <= words:
            found[-1] += said
            continue
        found += [said[first : first + words] for first in range(0, len(said), words)]
    return [" ".join(passage) for passage in found]


def passages_of(corpus: Corpus, words: int) -> Corpus:
    """All passages of a corpus, each in its text's split and group."""
    rows = [
        (f"{name}/{number}", passage, title, group, split)
        for name, text, title, group, split in zip(
            corpus.ids, corpus.texts, corpus.titles, corpus.groups, corpus.splits, strict=True
        )
        for number, passage in enumerate(passages(text, words))
    ]
    ids, texts, titles, groups, splits = (tuple(row[column] for row in rows) for column in range(5))
    info = {"source": f"passages of {corpus.info.get('source', 'texts')}"}
    return Corpus(ids, texts, titles, groups, splits, info)
