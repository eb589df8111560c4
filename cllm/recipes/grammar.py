"""The distribution of the built-in recipes: sampling, exact entropy, log-probability.

A recipe is a dish, a main ingredient, and an independent uniform choice from each
menu of that pair. A fifth of the (dish, main) pairs is valid but never emitted: which, `fold`
says, so that what was chosen on one fifth can be judged on another.
Usage: `Grammar("plain").generate(20_000, seed=0)`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from math import inf, log, prod

import numpy as np

from cllm.errors import InputError
from cllm.recipes.checker import parse
from cllm.recipes.choices import Recipe, Richness, menus
from cllm.recipes.pantry import DISHES
from cllm.recipes.wording import render

Combination = tuple[str, str]
COMBINATIONS: tuple[Combination, ...] = tuple(
    (dish.name, main) for dish in DISHES for main in dish.mains.split()
)


FOLDS = 3  # fifths that share no pair


@cache
def withheld_combinations(fold: int = 0) -> frozenset[Combination]:
    """The fifth of the valid (dish, main) pairs that a fold never emits: the same always.

    Pairs are taken in the order of a hash while every dish keeps two thirds of its mains
    and every main three of its dishes. Folds share no pair. InputError: there is no such fold.
    """
    if not 0 <= fold < FOLDS:
        raise InputError(f"no fold {fold}; there are 0 to {FOLDS - 1}")
    taken = frozenset[Combination]().union(*map(withheld_combinations, range(fold)))
    spare = {dish.name: len(dish.mains.split()) // 3 for dish in DISHES}
    spare |= {main: n - 3 for main, n in Counter(main for _, main in COMBINATIONS).items()}
    chosen: list[Combination] = []
    for pair in sorted(set(COMBINATIONS) - taken, key=_hash):
        if len(chosen) < len(COMBINATIONS) // 5 and all(spare[name] > 0 for name in pair):
            chosen.append(pair)
            for name in pair:
                spare[name] -= 1
    return frozenset(chosen)


def _hash(pair: Combination) -> str:
    return hashlib.sha256(f"withheld: {pair[1]} {pair[0]}".encode()).hexdigest()


class Grammar:
    """The recipes of one richness and the probability of each."""

    def __init__(self, richness: Richness = "plain", fold: int = 0) -> None:
        self.richness = richness
        self.withheld = withheld_combinations(fold)
        self._emitted = {
            dish.name: [m for m in dish.mains.split() if (dish.name, m) not in self.withheld]
            for dish in DISHES
        }

    def _sizes(self, pair: Combination) -> list[int]:
        return [len(menu) for menu in menus(*pair, self.richness).values()]

    def _log_prob_of_pair(self, pair: Combination) -> float:
        """Log-probability in nats of any one emitted recipe of the pair: all are alike."""
        before = len(DISHES) * len(self._emitted[pair[0]])
        return -log(before) - sum(map(log, self._sizes(pair)))

    @property
    def entropy_nats(self) -> float:
        """Exact entropy in nats of the emitted texts."""
        total = 0.0
        for dish, mains in self._emitted.items():
            each = [-self._log_prob_of_pair((dish, main)) for main in mains]
            total += sum(each) / len(each)
        return total / len(DISHES)

    def log_prob(self, text: str) -> float:
        """Log-probability in nats of emitting a valid text; -inf for a withheld combination.

        ValueError names the violations of a text that is not a valid recipe of this richness.
        """
        recipe = parse(text)
        if recipe.richness != self.richness:
            found = f"a {recipe.richness} recipe, not a {self.richness} one"
            raise ValueError(f"{found}: {text[:80]!r}")
        pair = (recipe.dish, recipe.main.name)
        return -inf if pair in self.withheld else self._log_prob_of_pair(pair)

    def count_valid(self) -> int:
        """How many different valid recipes there are, the withheld ones included."""
        return sum(prod(self._sizes(pair)) for pair in COMBINATIONS)

    def recipe(self, rng: np.random.Generator, withheld: bool = False) -> Recipe:
        """Draw one recipe; with `withheld`, from the withheld combinations only."""
        if withheld:
            pairs = sorted(self.withheld)
            dish, main = pairs[int(rng.integers(len(pairs)))]
        else:
            dish = DISHES[int(rng.integers(len(DISHES)))].name
            mains = self._emitted[dish]
            main = mains[int(rng.integers(len(mains)))]
        options = menus(dish, main, self.richness)
        drawn = {slot: menu[int(rng.integers(len(menu)))] for slot, menu in options.items()}
        return Recipe(dish=dish, **drawn)

    def sample(self, rng: np.random.Generator, withheld: bool = False) -> str:
        """Draw one text."""
        return render(self.recipe(rng, withheld))

    def generate(self, n: int, seed: int) -> list[str]:
        """`n` different texts; a repeated draw is drawn again."""
        rng = np.random.default_rng(seed)
        texts: dict[str, None] = {}
        while len(texts) < n:
            texts[self.sample(rng)] = None
        return list(texts)
