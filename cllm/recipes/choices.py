"""The choices that make a recipe: for each dish and main ingredient, its slots and menus.

Sampling, log-probability, entropy, counting and checking all walk these same menus,
so that they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Any, Literal, get_args

from cllm.recipes.pantry import (
    CLASS_OF,
    DISHES,
    FAT_QUANTITIES,
    GARNISHES,
    MAIN_QUANTITIES,
    MINUTES,
    OCCASIONS,
    VEGETABLES,
    Dish,
)
from cllm.recipes.phrases import forms

Richness = Literal["plain", "rich"]
RICHNESSES: tuple[Richness, ...] = get_args(Richness)
DISH_OF = {dish.name: dish for dish in DISHES}


@dataclass(frozen=True, order=True)
class Item:
    """One line of the ingredient list; spices have no quantity."""

    name: str
    quantity: str = ""

    def __str__(self) -> str:
        return f"{self.quantity} {self.name}".strip()


@dataclass(frozen=True)
class Recipe:
    """Every choice behind one text; pairs are in alphabetical order, times in minutes.

    `occasion`, `garnish` and `wording` (the number of the picked sentence forms) vary in
    rich recipes only.
    """

    dish: str
    main: Item
    vegetables: tuple[Item, Item]
    binder: Item
    staple: Item
    fat: Item
    spices: tuple[Item, Item]
    minutes: int
    heat: str
    rest: int
    occasion: str | None = None
    garnish: Item | None = None
    wording: int = 0

    @property
    def richness(self) -> Richness:
        """Only rich recipes have a garnish."""
        return "plain" if self.garnish is None else "rich"

    @property
    def items(self) -> tuple[Item, ...]:
        """The ingredient list in its fixed order."""
        plain = (self.main, *self.vegetables, self.binder, self.staple, self.fat, *self.spices)
        return plain if self.garnish is None else (*plain, self.garnish)


def _items(name: str, quantities: str) -> tuple[Item, ...]:
    return tuple(Item(name, quantity) for quantity in quantities.split("|"))


def _staple(text: str) -> Item:
    quantity, name = text.rsplit(" ", 1)
    return Item(name, quantity)


@cache
def single_menus(dish_name: str, richness: Richness) -> dict[str, tuple[Item, ...]]:
    """Every item each role of a dish may hold, mains included, one entry a quantity."""
    dish = DISH_OF[dish_name]
    scale = MAIN_QUANTITIES[dish.main_scale]
    menus: dict[str, list[tuple[Item, ...]]] = {
        "main": [_items(m, scale[CLASS_OF[m]]) for m in dish.mains.split()],
        "vegetables": [
            _items(v, VEGETABLES[v][dish.vegetable_scale]) for v in dish.vegetables.split()
        ],
        "binder": [_items(b, dish.binder_quantities) for b in dish.binders.split()],
        "staple": [(_staple(s),) for s in dish.staples.split("|")],
        "fat": [_items(f, FAT_QUANTITIES[f]) for f in dish.fats.split()],
        "spices": [(Item(s),) for s in dish.spices.split()],
    }
    if richness == "rich":
        menus["garnish"] = [(Item(g),) for g in GARNISHES[dish.name].split()]
    return {role: tuple(item for row in rows for item in row) for role, rows in menus.items()}


def minutes_menu(dish: Dish, main: str) -> tuple[int, ...]:
    """Cooking times in minutes that suit the main ingredient."""
    table = MINUTES[dish.method]
    return table[CLASS_OF[main]] if CLASS_OF[main] in table else table["any"]


def _pairs(items: tuple[Item, ...]) -> tuple[tuple[Item, Item], ...]:
    """Unordered pairs of different ingredients, alphabetical, with every quantity."""
    by_name: dict[str, list[Item]] = {}
    for item in items:
        by_name.setdefault(item.name, []).append(item)
    names = combinations(sorted(by_name), 2)
    return tuple(pair for a, b in names for pair in product(by_name[a], by_name[b]))


@cache
def menus(dish_name: str, main: str, richness: Richness) -> dict[str, Sequence[Any]]:
    """Slot name to its equally likely options, for one valid (dish, main)."""
    dish, single = DISH_OF[dish_name], single_menus(dish_name, richness)
    plain: dict[str, Sequence[Any]] = {
        "main": tuple(item for item in single["main"] if item.name == main),
        "vegetables": _pairs(single["vegetables"]),
        "binder": single["binder"],
        "staple": single["staple"],
        "fat": single["fat"],
        "spices": _pairs(single["spices"]),
        "minutes": minutes_menu(dish, main),
        "heat": tuple(dish.heats.split("|")),
        "rest": dish.rests,
    }
    if richness == "plain":
        return plain
    wordings = range(math.prod(map(len, forms(dish_name, rich=True))))
    return plain | {"occasion": OCCASIONS, "garnish": single["garnish"], "wording": wordings}
