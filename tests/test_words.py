"""Texts by their words."""

from __future__ import annotations

import pytest

from cllm.words import WordIndex

TEXTS = ["Leek soup, with 2 leeks", "pea soup", "Leek pie", "süße Suppe", ""]


@pytest.mark.parametrize(
    ("query", "rows"),
    [("leek", [0, 2]), ("SOUP, leek!", [0]), ("soup", [0, 1]), ("lee", []), ("süße", [3]),
     ("2", [0]), ("leeks", [0, 2]), ("soups", [0, 1]),
     ("soup pie", []), ("", []), ("?!", []), ("leek leek", [0, 2])],
)  # fmt: skip
def test_texts_that_have_all_words(query: str, rows: list[int]) -> None:
    assert WordIndex.of(TEXTS).rows(query).tolist() == rows
