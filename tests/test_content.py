"""Content items: the ingredient names of recipes, the content lemmas of other texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllm.content import content_f1, content_items

WORDS = st.frozensets(st.sampled_from(["leek", "salt", "egg", "rice", "dill"]))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("300 g chicken", "chicken"),
        ("2 leeks", "leek"),
        ("1 tbsp thyme", "thyme"),
        ("250g flour", "flour"),
        ("1-1/2 cups plain yogurt", "plain yogurt"),
        ("1 1/2 cups all-purpose flour", "all-purpose flour"),
        ("2 cups all purpose flour", "all-purpose flour"),
        ("½ cup olive oil", "olive oil"),
        ("1½ cups olive oil", "olive oil"),
        ("2-3 large carrots, peeled and diced", "carrot"),
        ("2 to 3 tomatoes", "tomato"),
        ("1 (14.5 ounce) can crushed tomatoes", "tomato"),
        ("1 5-ounce can tuna, drained", "tuna"),
        ("2 cloves garlic, minced", "garlic"),
        ("12 whole cloves", "clove"),
        ("1/4 teaspoon ground cloves", "clove"),
        ("2 teaspoons freshly ground black pepper", "black pepper"),
        ("1 pound lean ground beef", "ground beef"),
        ("4 skinless, boneless chicken breast halves", "chicken breast"),
        ("1 cup sugar, or more as needed", "sugar"),
        ("dill to taste", "dill"),
        ("1/2 cup plus 2 tablespoons milk", "milk"),
        ("1 (12 fluid ounce) can or bottle beer", "beer"),
        ("1 package (8 oz) cream cheese, softened", "cream cheese"),
        ("1 pinch of nutmeg", "nutmeg"),
        ("1 can cream of mushroom soup", "cream of mushroom soup"),
        ("2 bay leaves", "bay leaf"),
        ("1/2 cup fresh basil leaves", "basil"),
        ("1 cup 2% milk", "milk"),
        ("3 tablespoons molasses", "molasses"),
        ("1 1/2-inch-thick sirloin steak", "sirloin steak"),
        ("1 cup half and half", "half-and-half"),
        ("Garnish: parsley", "parsley"),
    ],
)
def test_ingredient_name(line: str, name: str) -> None:
    assert content_items(f"title: A dish. ingredients: {line}") == {name}
    assert content_items(f"title: A dish. ingredients: {line}. steps: boil the water.") == {name}


def test_recipe_is_the_set_of_its_ingredients() -> None:
    text = "title: Leek soup. ingredients: 2 leeks; 1 leek, sliced; 1 l water;; steps: cook rice."
    assert content_items(text) == {"leek", "water"}


def test_salt_and_pepper_are_two() -> None:
    for line in ("salt and ground black pepper to taste", "Salt, freshly ground black pepper"):
        assert content_items(f"ingredients: 1 egg; {line}; 1 tsp chili") == {
            "egg", "salt", "black pepper", "chili",
        }  # fmt: skip


def test_equipment_is_no_ingredient() -> None:
    assert content_items("ingredients: 2 eggs; Special equipment: a 9-inch pan") == {"egg"}


def test_lemmas_elsewhere() -> None:
    items = content_items("The dogs were running to the boxes; a dog stopped and studies glass.")
    assert items == {"dog", "run", "box", "stop", "study", "glass"}
    assert content_items("training trained trains") == {"train"}
    assert content_items("red bus, this class, being king") == {"red", "bus", "class", "king"}
    assert content_items("") == frozenset()


@given(st.text(alphabet=st.sampled_from("abc019 ;:,.()[]-/½’'%or to"), max_size=60))
def test_any_list_gives_names_without_figures(text: str) -> None:
    for name in content_items("ingredients: " + text):
        assert name
        assert name == name.strip()
        assert not any(sign.isdigit() for sign in name)


@given(WORDS, WORDS)
def test_f1_laws(left: frozenset[str], right: frozenset[str]) -> None:
    f1 = content_f1(left, right)
    assert 0 <= f1 <= 1
    assert f1 == content_f1(right, left)
    assert (f1 == 1) == (left == right)
    assert (f1 == 0) == (not left & right and bool(left | right))


def test_f1_value() -> None:
    # precision 2/4, recall 2/3
    assert content_f1(frozenset("abc"), frozenset("abxy")) == pytest.approx(4 / 7)


def test_all_recipes_of_a_text_count_and_what_steps_say_does_not() -> None:
    menu = (
        "title: a. ingredients: 2 eggs. steps: mix dry ingredients: all of them. "
        "title: b. ingredients: 1 leek; 2 eggs. steps: boil."
    )
    assert content_items(menu) == {"egg", "leek"}
