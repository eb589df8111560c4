from __future__ import annotations

import numpy as np
import pytest

from cllm.corpus import built_in_corpus
from cllm.negatives import KINDS, Negatives
from cllm.recipes import check
from cllm.swaps import words

TEXTS = list(built_in_corpus("plain", 1500, 0).texts)
PLAIN = [
    f"The {a} is near the {b}. It has {n} doors. They are not open. Nobody will come to the {a}."
    for a in ("house", "mill", "tower", "barn") for b in ("river", "road", "wood", "lake")
    for n in (2, 3, 12)
]  # fmt: skip


@pytest.fixture(scope="module")
def of_recipes() -> Negatives:
    return Negatives.of(TEXTS, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("kind", "least"),
    [("swap", 0.95), ("same", 0.95), ("far", 0.95), ("number", 0.95), ("order", 0.95),
     ("repeat", 0.95), ("span", 0.7)],
)  # fmt: skip
def test_one_edit_makes_a_recipe_wrong_and_leaves_most_of_it(
    of_recipes: Negatives, kind: str, least: float
) -> None:
    rng = np.random.default_rng(1)
    made = [(text, of_recipes.edited(text, rng, [kind])) for text in TEXTS[:150]]
    found = [(text, edit) for text, edit in made if edit is not None]
    assert len(found) > 60
    wrong = [bool(check(edit[0])) for _, edit in found]
    assert np.mean(wrong) > least
    for text, (changed, name) in found:
        assert name == kind
        assert changed != text
        kept = set(words(text)) & set(words(changed))
        assert len(kept) > 0.7 * len(set(words(text)))


def test_texts_of_any_kind_can_be_edited() -> None:
    maker, rng = Negatives.of(PLAIN, np.random.default_rng(0)), np.random.default_rng(2)
    seen = {maker.edited(text, rng, KINDS)[1] for text in PLAIN * 5}  # type: ignore[index]
    assert {"number", "negation", "repeat", "order"} <= seen
    denied = maker.edited(PLAIN[0], rng, ["negation"])
    assert denied is not None
    assert "They are open" in denied[0]
    said = maker.edited("It is so.", rng, ["negation"])
    assert said == ("It is not so.", "negation")
    assert maker.edited("word", rng, KINDS) is None


def test_what_is_corrupted_is_no_small_edit(of_recipes: Negatives) -> None:
    rng = np.random.default_rng(3)
    for text in TEXTS[:50]:
        wrong = of_recipes.corrupted(text, rng)
        assert check(wrong)
        assert wrong != text
    again = of_recipes.corrupted(TEXTS[0], np.random.default_rng(4))
    assert again == of_recipes.corrupted(TEXTS[0], np.random.default_rng(4))
