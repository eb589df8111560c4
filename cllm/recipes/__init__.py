"""The built-in corpus: a grammar of recipes with known entropy, and its checker.

Usage: `Grammar("plain").generate(20_000, seed=0)`, `check(text)`, `parse(text)`.
"""

from cllm.recipes.checker import Violation, check, combination, ingredients, parse
from cllm.recipes.choices import RICHNESSES, Item, Recipe, Richness
from cllm.recipes.grammar import Grammar

__all__ = [
    "RICHNESSES",
    "Grammar",
    "Item",
    "Recipe",
    "Richness",
    "Violation",
    "check",
    "combination",
    "ingredients",
    "parse",
]
