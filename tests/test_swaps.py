"""Words swapped for those that stand in their place in like texts."""

from __future__ import annotations

import numpy as np
import pytest

from cllm.recipes.grammar import Grammar
from cllm.swaps import SwapTable, swapped_texts, words

TEXTS = [
    f"title: {dish} with {main}. fry the {main} until done."
    for dish in ("soup", "stew", "curry", "salad")
    for main in ("leek", "cod", "beans", "tofu")
]


def table() -> SwapTable:
    return SwapTable.learn(TEXTS, np.random.default_rng(0))


def test_words_joined_are_the_text_again() -> None:
    text = "title: leek soup;  2 tbsp oil, 1/2 l stock."
    assert "".join(words(text)) == text


def test_words_that_stand_for_each_other_are_learnt() -> None:
    others = table().others
    assert set(others["cod"][0]) == {"leek", "beans", "tofu"}
    assert set(others["soup"][0]) == {"stew", "curry", "salad"}
    assert "title" not in others
    for _, share_W in others.values():
        assert share_W.sum() == pytest.approx(1)


def test_a_word_is_swapped_wherever_it_stands() -> None:
    rng = np.random.default_rng(1)
    for text in TEXTS * 3:
        new = table().swap(text, rng)
        assert new != text
        dish, main = new.split()[1], new.split()[3].rstrip(".")
        assert new == f"title: {dish} with {main}. fry the {main} until done."


def test_a_text_without_known_words_comes_back_as_it_is() -> None:
    assert table().swap("nothing known here", np.random.default_rng(0)) == "nothing known here"


def test_swapped_recipes_hold_combinations_that_the_corpus_does_not() -> None:
    grammar, rng = Grammar("plain"), np.random.default_rng(2)
    texts = [grammar.sample(rng) for _ in range(400)]
    swapped = swapped_texts(texts, 200, rng)
    assert len(swapped) == 200
    titles = {text.split(".")[0] for text in texts}
    assert sum(text.split(".")[0] not in titles for text in swapped) > 50


def test_a_corpus_ordered_by_subject_gets_copies_of_all_of_it() -> None:
    texts = [f"title: soup with leek {n}. boil." for n in range(50)]
    texts += [f"title: pie with pork {n}. bake." for n in range(50)]
    swapped = swapped_texts(texts, 40, np.random.default_rng(0))
    assert 8 < sum("boil" in text for text in swapped) < 32
