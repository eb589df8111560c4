"""The recipe grammar and its checker: known entropy, exact inversion, every violation found."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllm.errors import InputError
from cllm.recipes import (
    RICHNESSES,
    Grammar,
    Richness,
    check,
    combination,
    ingredients,
    parse,
)
from cllm.recipes.choices import DISH_OF, menus, single_menus
from cllm.recipes.grammar import COMBINATIONS
from cllm.recipes.pantry import DISHES
from cllm.recipes.phrases import SENTENCES, TITLE_RICH, forms
from cllm.recipes.wording import render, wording_number

seeds = st.integers(0, 2**32 - 1)
richnesses = st.sampled_from(RICHNESSES)

PLAIN = (
    "title: curry with lamb and onions. ingredients: 600 g lamb; 2 onions; 250 g spinach; "
    "300 ml stock; 300 g rice; 2 tbsp oil; cumin; turmeric. steps: brown lamb in oil with cumin "
    "and turmeric. add onions and spinach with stock. simmer 75 minutes on low heat. rest 5 "
    "minutes and serve with rice."
)
RICH = (
    "title: easy curry with lamb, onions and spinach. occasion: supper. ingredients: 600 g lamb; "
    "2 onions; 250 g spinach; 300 ml stock; 300 g rice; 2 tbsp oil; cumin; turmeric; almonds. "
    "steps: brown the lamb in the oil with the cumin and turmeric. follow with the onions, the "
    "spinach and the stock. let it bubble over low heat for 75 minutes. rest 5 minutes, spoon "
    "over the rice and finish with almonds."
)


@cache
def corpus(richness: Richness) -> tuple[str, ...]:
    return tuple(Grammar(richness).generate(20_000, seed=0))


def draw(richness: Richness, seed: int, withheld: bool = False) -> str:
    return Grammar(richness).sample(np.random.default_rng(seed), withheld)


def test_examples_are_valid() -> None:
    assert check(PLAIN) == ()
    assert check(RICH) == ()


def test_size_of_the_grammar() -> None:
    assert len(DISHES) >= 16
    assert "pizza" in DISH_OF
    for richness, low, high in (("plain", 22, 30), ("rich", 35, 45)):
        grammar = Grammar(richness)
        assert grammar.count_valid() > 10**9
        assert low <= grammar.entropy_nats <= high


@pytest.mark.parametrize(("richness", "low", "high"), [("plain", 50, 60), ("rich", 40, 90)])
def test_length(richness: Richness, low: int, high: int) -> None:
    lengths = {len(text.split()) for text in corpus(richness)}
    assert low <= min(lengths)
    assert max(lengths) <= high


def test_plain_has_few_tokens() -> None:
    assert max(len(re.findall(r"\w+|[^\w\s]", text)) for text in corpus("plain")) <= 72


@pytest.mark.parametrize("richness", RICHNESSES)
def test_entropy_is_the_mean_of_minus_log_prob(richness: Richness) -> None:
    grammar, rng = Grammar(richness), np.random.default_rng(1)
    costs = np.array([-grammar.log_prob(grammar.sample(rng)) for _ in range(2_000)])
    assert abs(costs.mean() - grammar.entropy_nats) < 4 * costs.std() / math.sqrt(len(costs))


@pytest.mark.parametrize("richness", RICHNESSES)
def test_probabilities_add_up_to_one(richness: Richness) -> None:
    """All recipes of a pair are alike, so one of each pair stands for its menus' product."""
    grammar, total = Grammar(richness), 0.0
    for pair in set(COMBINATIONS) - grammar.withheld:
        sizes = [len(menu) for menu in menus(*pair, richness).values()]
        total += math.prod(sizes) * math.exp(grammar._log_prob_of_pair(pair))
    assert total == pytest.approx(1)


def test_every_wording_is_another_text() -> None:
    """Distinct wordings give distinct texts, over all of one dish's."""
    grammar, rng = Grammar("rich"), np.random.default_rng(0)
    recipe = next(r for r in iter(lambda: grammar.recipe(rng), None) if r.dish == "burger")
    options = menus(recipe.dish, recipe.main.name, "rich")
    texts = {
        render(recipe.__class__(**{**recipe.__dict__, "wording": n})) for n in options["wording"]
    }
    assert len(texts) == len(options["wording"])


@pytest.mark.parametrize("richness", RICHNESSES)
def test_no_sentence_reads_two_ways(richness: Richness) -> None:
    """Each alternative of each sentence is read back as itself."""
    rng = np.random.default_rng(0)
    grammar = Grammar(richness)
    for dish in DISH_OF:
        recipe = next(r for r in iter(lambda: grammar.recipe(rng), None) if r.dish == dish)
        alternatives = forms(dish, richness == "rich")
        for place, row in enumerate(alternatives):
            for pick in range(len(row)):
                picks = [pick if p == place else 0 for p in range(len(alternatives))]
                number = wording_number(dish, richness, picks)
                chosen = recipe.__class__(**{**recipe.__dict__, "wording": number})
                assert parse(render(chosen)) == chosen


def test_alternatives_hold_the_same_content() -> None:
    for name, row in SENTENCES.items():
        assert len({frozenset(re.findall(r"{(\w+)}", form)) for form in row}) == 1, name
    assert all({"dish", "main"} <= set(re.findall(r"{(\w+)}", form)) for form in TITLE_RICH)


@pytest.mark.parametrize("richness", RICHNESSES)
def test_one_name_has_one_role_in_a_dish(richness: Richness) -> None:
    for dish in DISH_OF:
        roles = single_menus(dish, richness).values()
        names = [name for menu in roles for name in {item.name for item in menu}]
        assert len(names) == len(set(names)), dish


@settings(max_examples=150, deadline=None, derandomize=True)
@given(richnesses, seeds, st.booleans())
def test_parse_inverts_render(richness: Richness, seed: int, withheld: bool) -> None:
    grammar = Grammar(richness)
    recipe = grammar.recipe(np.random.default_rng(seed), withheld)
    text = render(recipe)
    assert parse(text) == recipe
    assert check(text) == ()
    assert recipe.richness == richness
    assert combination(text) == (recipe.dish, recipe.main.name)
    assert ingredients(text) == {item.name for item in recipe.items}


@pytest.mark.parametrize("richness", RICHNESSES)
def test_withheld_is_a_fifth_and_never_emitted(richness: Richness) -> None:
    grammar = Grammar(richness)
    emitted = Counter(combination(text) for text in corpus(richness))
    assert set(emitted) == set(COMBINATIONS) - grammar.withheld
    assert len(grammar.withheld) == len(COMBINATIONS) // 5
    mains = Counter(main for _, main in emitted)
    assert min(mains.values()) >= 3
    kept = Counter(dish for dish, _ in emitted)
    assert all(kept[dish.name] >= len(dish.mains.split()) * 2 / 3 for dish in DISHES)


@pytest.mark.parametrize("richness", RICHNESSES)
def test_every_item_of_every_menu_is_emitted(richness: Richness) -> None:
    grammar = Grammar(richness)
    seen = set()
    for text in corpus(richness):
        dish, _ = combination(text) or ("", "")
        items = text.split("ingredients: ")[1].split(". ")[0].split("; ")
        seen |= {(dish, item) for item in items}
    for dish in DISH_OF:
        for menu in single_menus(dish, richness).values():
            kept = {(dish, str(i)) for i in menu if (dish, i.name) not in grammar.withheld}
            assert kept <= seen


@settings(max_examples=30, deadline=None, derandomize=True)
@given(richnesses, seeds)
def test_withheld_samples(richness: Richness, seed: int) -> None:
    text = draw(richness, seed, withheld=True)
    assert combination(text) in Grammar(richness).withheld
    assert Grammar(richness).log_prob(text) == -math.inf


def test_generate_is_distinct_and_repeatable() -> None:
    grammar = Grammar("plain")
    assert len(set(corpus("plain"))) == 20_000
    assert grammar.generate(50, seed=0) == list(corpus("plain")[:50])
    assert grammar.generate(50, seed=1) != grammar.generate(50, seed=0)


@pytest.mark.parametrize(("richness", "sha"), [("plain", "14e71109"), ("rich", "365b1a1f")])
def test_the_corpus_has_not_changed(richness: Richness, sha: str) -> None:
    """A change of any text voids every trained model: if it is meant, train them again."""
    text = "\n".join(corpus(richness)[:200])
    assert hashlib.sha256(text.encode()).hexdigest().startswith(sha)


def test_log_prob_refuses_other_texts() -> None:
    with pytest.raises(ValueError, match="quantity"):
        Grammar("plain").log_prob(PLAIN.replace("600 g", "60 g"))
    with pytest.raises(ValueError, match="not a plain one"):
        Grammar("plain").log_prob(RICH)


# rule, what is changed in the plain example, and into what
CORRUPTIONS = [
    ("form", "ingredients:", "ingredient:"),
    ("form", "2 onions;", "two onions;"),
    ("form", "2 onions;", " 2 onions;"),
    ("title", "curry with", "cake with"),
    ("title", "curry with lamb", "curry with cod"),
    ("title", "and onions. ingr", "and peas. ingr"),
    ("title", "title: curry", "title: nice curry"),
    ("main", "600 g lamb", "600 g bacon"),
    ("ingredient", "2 onions", "2 bananas"),
    ("ingredient", "2 onions", "2 beets"),
    ("quantity", "600 g lamb", "50 g lamb"),
    ("quantity", "2 onions", "2 g onions"),
    ("quantity", "cumin;", "5 g cumin;"),
    ("repeated", "cumin;", "cumin; cumin;"),
    ("missing", "2 tbsp oil; ", ""),
    ("surplus", "cumin;", "chili; cumin;"),
    ("order", "2 onions; 250 g spinach", "250 g spinach; 2 onions"),
    ("order", "600 g lamb; 2 onions", "2 onions; 600 g lamb"),
    ("unlisted", "in oil", "in ghee"),
    ("unused", "in oil", "in ghee"),
    ("place", "onions and spinach with", "spinach and onions with"),
    ("place", "serve with rice", "serve with oil"),
    ("step", "simmer 75 minutes on low heat. ", ""),
    ("step", "rest 5", "dance a while. rest 5"),
    ("step", "simmer 75", "freeze 75"),
    ("technique", "brown lamb", "sear lamb"),
    ("time", "75 minutes", "12 minutes"),
    ("time", "75 minutes", "075 minutes"),
    ("temperature", "low heat", "full heat"),
    ("rest", "rest 5", "rest 50"),
    (
        "step order",
        "add onions and spinach with stock. simmer 75 minutes on low heat",
        "simmer 75 minutes on low heat. add onions and spinach with stock",
    ),
]


@pytest.mark.parametrize(("rule", "old", "new"), CORRUPTIONS)
def test_each_corruption_is_named(rule: str, old: str, new: str) -> None:
    assert old in PLAIN
    broken = PLAIN.replace(old, new)
    assert rule in {violation.rule for violation in check(broken)}
    with pytest.raises(ValueError, match=rule):
        parse(broken)


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("occasion", "supper", "winter"),
        ("missing", "; almonds", ""),
        ("unlisted", "finish with almonds", "finish with raisins"),
        ("ingredient", "; almonds", "; kimchi"),
        ("step", "let it bubble", "let it boil"),
        ("title", "easy curry", "quick curry"),
        ("title", "onions and spinach. occ", "spinach and onions. occ"),
    ],
)
def test_each_corruption_of_a_rich_text_is_named(rule: str, old: str, new: str) -> None:
    assert old in RICH
    assert rule in {violation.rule for violation in check(RICH.replace(old, new))}


def test_all_violations_are_listed() -> None:
    broken = PLAIN.replace("75 minutes", "3 minutes").replace("2 onions", "9 onions")
    broken = broken.replace("brown", "sear").replace("rest 5", "rest 1")
    assert {v.rule for v in check(broken)} == {"time", "quantity", "technique", "rest"}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(richnesses, seeds, st.data())
def test_changing_one_mention_of_an_ingredient_is_flagged(
    richness: Richness, seed: int, data: st.DataObject
) -> None:
    text = draw(richness, seed)
    names = "|".join(sorted(ingredients(text)))
    places = [m.span() for m in re.finditer(rf"\b(?:{names})\b", text)]
    start, end = data.draw(st.sampled_from(places))
    others = sorted(
        {i.name for dish in DISH_OF for menu in single_menus(dish, "rich").values() for i in menu}
    )
    word = data.draw(st.sampled_from(others).filter(lambda other: other != text[start:end]))
    assert check(text[:start] + word + text[end:]) != ()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(richnesses, seeds, st.data())
def test_losing_or_swapping_words_is_flagged(
    richness: Richness, seed: int, data: st.DataObject
) -> None:
    words = draw(richness, seed).split()
    at = data.draw(st.integers(0, len(words) - 1))
    lost = " ".join(words[:at] + words[at + 1 :])
    if check(lost) == ():  # a rich text may become another wording ("the oil", "oil")
        assert words[at] == "the"
        assert render(parse(lost)) == lost
    if at and words[at - 1] != words[at]:
        swapped = [*words[: at - 1], words[at], words[at - 1], *words[at + 1 :]]
        assert check(" ".join(swapped)) != ()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text() | st.text("abc .:;0123456789").map(lambda s: f"title: {s}. ingredients: {s}."))
def test_rubbish_is_a_violation_and_never_a_crash(text: str) -> None:
    assert check(text) != ()
    combination(text)
    ingredients(text)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(richnesses, seeds, st.text(max_size=8), st.integers(0, 10**6))
def test_inserted_rubbish_is_a_violation(
    richness: Richness, seed: int, noise: str, at: int
) -> None:
    text = draw(richness, seed)
    at %= len(text)
    broken = text[:at] + noise + text[at:]
    if not set(noise) <= set("0123456789"):
        assert check(broken) != ()
    else:
        check(broken)


def test_broken_recipes_still_give_their_ingredients() -> None:
    broken = "title: cake of stone. ingredients: 3 kg lamb; onions; two peas and"
    assert ingredients(broken) == {"lamb", "onions", "and"}
    assert ingredients("no recipe") == frozenset()
    assert combination(broken) is None
    assert combination("title: omelette with lamb and peas. and more") == ("omelette", "lamb")


def test_folds_withhold_fifths_that_share_no_pair() -> None:
    folds = [Grammar("plain", fold).withheld for fold in range(3)]
    assert [len(fold) for fold in folds] == [29, 29, 29]
    assert len(frozenset().union(*folds)) == 87
    assert combination(Grammar("rich", 2).generate(1, 5)[0]) not in folds[2]
    with pytest.raises(InputError, match="no fold 3; there are 0 to 2"):
        Grammar("plain", 3)
