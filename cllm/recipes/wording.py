"""A recipe as text: the choices filled into its sentence templates."""

from __future__ import annotations

from cllm.recipes.choices import DISH_OF, Recipe, Richness
from cllm.recipes.pantry import CLASS_OF, PREPARATION
from cllm.recipes.phrases import forms


def preparation(dish: str, main: str) -> str | None:
    """The technique word that follows from the dish and the class of its main ingredient."""
    return PREPARATION[DISH_OF[dish].preparation].get(CLASS_OF[main])


def words(recipe: Recipe) -> dict[str, str]:
    """What each placeholder of a template stands for."""
    (v1, v2), (s1, s2) = recipe.vegetables, recipe.spices
    items = {"main": recipe.main, "v1": v1, "v2": v2, "s1": s1, "s2": s2, "fat": recipe.fat}
    items |= {"binder": recipe.binder, "staple": recipe.staple}
    if recipe.garnish is not None:
        items["garnish"] = recipe.garnish
    return {place: item.name for place, item in items.items()} | {
        "dish": recipe.dish,
        "prep": preparation(recipe.dish, recipe.main.name) or "",
        "minutes": str(recipe.minutes),
        "heat": recipe.heat,
        "rest": str(recipe.rest),
    }


def wording_number(dish: str, richness: Richness, picks: list[int]) -> int:
    """The number of the wording with these alternatives of title and steps."""
    number = 0
    for alternatives, pick in zip(forms(dish, richness == "rich"), picks, strict=True):
        number = number * len(alternatives) + pick
    return number


def _templates(recipe: Recipe) -> list[str]:
    """The templates of title and steps that the recipe's wording number picks."""
    number, picked = recipe.wording, []
    for alternatives in reversed(forms(recipe.dish, recipe.richness == "rich")):
        number, pick = divmod(number, len(alternatives))
        picked.append(alternatives[pick])
    return picked[::-1]


def render(recipe: Recipe) -> str:
    """The text of a recipe; different recipes have different texts."""
    filled = words(recipe)
    title, *steps = (template.format_map(filled) for template in _templates(recipe))
    occasion = "" if recipe.occasion is None else f" occasion: {recipe.occasion}."
    items = "; ".join(map(str, recipe.items))
    return f"title: {title}.{occasion} ingredients: {items}. steps: {'. '.join(steps)}."
