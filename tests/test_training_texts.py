from __future__ import annotations

import numpy as np
import pytest

from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import Corpus, built_in_corpus
from cllm.settings import overridden
from cllm.training_texts import TrainingTexts, swapped_copies, with_copies


def test_swapped_copies_join_the_real_texts(tiny_base: BaseLM, corpus: Corpus) -> None:
    texts = TokenTexts.of(corpus.ids, tiny_base.tokenize(corpus.texts), tiny_base.pad, 80)
    settings = overridden("quick", changes=["train.swaps=0.25"]).train
    copies = swapped_copies(corpus, settings)
    assert sum(text in corpus.texts for text in copies) < len(copies) / 2
    assert swapped_copies(corpus, settings) == copies
    both = with_copies(tiny_base, texts, copies, 80)
    assert len(both) == pytest.approx(len(texts) / 0.75, abs=1)
    assert both.names[: len(texts)] == texts.names
    assert len(set(both.names)) == len(both)
    more = tiny_base.to_text([row.tolist()[:-1] for row in both.rows[len(texts) :]])
    assert more[0] == copies[0]
    none = overridden("quick", changes=["train.swaps=0"]).train
    assert swapped_copies(corpus, none) == []


def test_withheld_combinations_that_copies_name_are_found() -> None:
    train = built_in_corpus("plain", 2000, 0).select("train")
    settings = overridden("quick", changes=["train.swaps=0.5"]).train
    named = train.withheld_in(swapped_copies(train, settings))
    assert named
    assert named <= {tuple(pair) for pair in train.info["withheld"]}
    assert not train.withheld_in(train.texts)


def test_what_is_trained_on_and_what_scores_do_not_meet(tiny_base: BaseLM, corpus: Corpus) -> None:
    settings = overridden("quick", changes=["train.swaps=0.25"]).train
    texts = TrainingTexts.of(tiny_base, corpus, settings, 128)
    assert texts.real.names == corpus.select("train").ids
    assert len(texts.both) == len(texts.real) + len(texts.copies)
    assert set(texts.held_out.names) <= set(corpus.select("validation").ids)
    assert max(map(len, texts.both.rows)) <= texts.context <= 128
    assert texts.edits is None


def test_without_copies_other_texts_alone_are_negatives(tiny_base: BaseLM, corpus: Corpus) -> None:
    how = ["train.negative_weight=0.1", "train.negative_copies=false"]
    settings = overridden("quick", changes=how).train
    assert TrainingTexts.of(tiny_base, corpus, settings, 128).edits is None


def test_the_negative_term_gets_a_nearly_real_copy_of_each_text(
    tiny_base: BaseLM, corpus: Corpus
) -> None:
    how = ["train.negative_weight=0.1", "train.token_noise=0.1", "train.swaps=0.25"]
    settings = overridden("quick", changes=how).train
    texts = TrainingTexts.of(tiny_base, corpus, settings, 128)
    assert texts.edits is not None
    assert set(texts.edits.names) <= set(texts.both.names)
    assert len(texts.edits) > 0.9 * len(texts.both)
    real = dict(zip(texts.both.names, texts.both.rows, strict=True))
    pairs = [(real[name].tolist(), row.tolist())
             for name, row in zip(texts.edits.names, texts.edits.rows, strict=True)]  # fmt: skip
    assert all(a != b for a, b in pairs)
    assert np.median([len(set(a) ^ set(b)) for a, b in pairs]) <= 4, "one edit away"
