"""Read a recipe back from its text, and list everything that is wrong with it.

The patterns are compiled from the very templates that `wording` fills in, and the
menus are those that `grammar` draws from: `check("title: pizza with ham ...")`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from cllm.recipes.choices import (
    DISH_OF,
    Item,
    Recipe,
    Richness,
    minutes_menu,
    single_menus,
)
from cllm.recipes.pantry import CLASS_OF, OCCASIONS
from cllm.recipes.phrases import forms
from cllm.recipes.wording import preparation, wording_number

SECTIONS = re.compile(
    r"title: (?P<title>[^.:;]+)\.(?: occasion: (?P<occasion>[a-z]+)\.)? "
    r"ingredients: (?P<items>[^.:]+)\. steps: (?P<steps>[^:;]+)\."
)
ITEM = re.compile(r"(?:(?P<quantity>[0-9]+(?: (?:g|ml|tbsp))?) )?(?P<name>[a-z]+)")
ROLE_SIZES = {"main": 1, "vegetables": 2, "binder": 1, "staple": 1, "fat": 1, "spices": 2}
ROLE_OF_PLACE = {"v1": "vegetables", "v2": "vegetables", "s1": "spices", "s2": "spices"}
ROLE_OF_PLACE |= {role: role for role in ("main", "binder", "staple", "fat", "garnish")}

Captures = list[tuple[str, str]]


@dataclass(frozen=True, order=True)
class Violation:
    """One thing wrong with a text: the rule it breaks, and where."""

    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@cache
def _roles(dish: str, richness: Richness) -> dict[str, str]:
    menus = single_menus(dish, richness)
    return {item.name: role for role, menu in menus.items() for item in menu}


@dataclass
class Reading:
    """What could be read of a text with a known dish; filled in section by section."""

    dish: str
    richness: Richness
    occasion: str | None
    title: Captures = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    steps: Captures = field(default_factory=list)
    picks: list[int] = field(default_factory=list)

    @property
    def role_of(self) -> dict[str, str]:
        """The role of each ingredient name within the dish."""
        return _roles(self.dish, self.richness)

    @property
    def role_sizes(self) -> dict[str, int]:
        """How many ingredients each role takes, in the order of the list."""
        return ROLE_SIZES | ({"garnish": 1} if self.richness == "rich" else {})

    @property
    def main(self) -> str | None:
        """The first main ingredient of the list, whether or not it suits the dish."""
        return next((item.name for item in self.items if item.name in CLASS_OF), None)

    def of_role(self, role: str) -> tuple[Item, ...]:
        """The listed items of a role."""
        return tuple(item for item in self.items if self.role_of.get(item.name) == role)

    def expected(self) -> dict[str, str]:
        """Placeholder to the listed name that belongs there, where the list has it."""
        places = {"v1": 0, "v2": 1, "s1": 0, "s2": 1}
        found = {place: self.of_role(role) for place, role in ROLE_OF_PLACE.items()}
        index = {place: places.get(place, 0) for place in found}
        return {p: items[index[p]].name for p, items in found.items() if len(items) > index[p]}


@cache
def _pattern(template: str, dish: str) -> re.Pattern[str]:
    """The expression matching every filling of a template with one word a placeholder."""
    kinds = {"minutes": "[0-9]+", "rest": "[0-9]+", "heat": "(?:[0-9]+ c|[a-z]+)"}
    parts = re.split(r"\{(\w+)\}", template)
    for i in range(1, len(parts), 2):
        name = parts[i]
        parts[i] = dish if name == "dish" else f"(?P<{name}>{kinds.get(name, '[a-z]+')})"
    return re.compile("".join(parts))


def _match(alternatives: tuple[str, ...], dish: str, text: str) -> tuple[int, Captures] | None:
    """Which alternative the text is, and the words in its places."""
    for pick, template in enumerate(alternatives):
        if found := _pattern(template, dish).fullmatch(text):
            return pick, list(found.groupdict().items())
    return None


def _titled(title: str) -> tuple[str, Captures] | None:
    """The dish a title names, and the words in its places."""
    for dish in DISH_OF:
        if found := _match(forms(dish, rich=True)[0], dish, title):
            return dish, found[1]
    return None


def _read_title(reading: Reading, title: str) -> Iterator[Violation]:
    found = _match(forms(reading.dish, reading.richness == "rich")[0], reading.dish, title)
    if found is None:
        yield Violation("title", f"{title!r} is no title of a {reading.richness} recipe")
    else:
        reading.picks.append(found[0])
        reading.title = found[1]


def _read_items(reading: Reading, text: str) -> Iterator[Violation]:
    for line in text.split("; "):
        if found := ITEM.fullmatch(line):
            reading.items.append(Item(found["name"], found["quantity"] or ""))
        else:
            yield Violation("form", f"cannot read the ingredient {line!r}")


def _read_steps(reading: Reading, text: str) -> Iterator[Violation]:
    left = dict(enumerate(text.split(". ")))
    positions = []
    for number, alternatives in enumerate(forms(reading.dish, reading.richness == "rich")[1:]):
        matches = ((at, _match(alternatives, reading.dish, said)) for at, said in left.items())
        position, found = next(((at, match) for at, match in matches if match), (None, None))
        if position is None or found is None:
            yield Violation("step", f"step {number + 1} of the {reading.dish} is missing")
            continue
        del left[position]
        positions.append(position)
        reading.picks.append(found[0])
        reading.steps += found[1]
    if positions != sorted(positions):
        yield Violation("step order", "the steps are not in the order they are done")
    for sentence in left.values():
        yield Violation("step", f"{sentence!r} is no step of the {reading.dish}")


def _check_list(reading: Reading) -> Iterator[Violation]:
    """Who is in the ingredient list, how often, and in which order."""
    known = []
    for name, times in Counter(item.name for item in reading.items).items():
        if times > 1:
            yield Violation("repeated", f"{name} is listed {times} times")
        if (role := reading.role_of.get(name)) is not None:
            known.append((list(reading.role_sizes).index(role), name))
        elif name in CLASS_OF:
            yield Violation("main", f"{name} is no main ingredient of the {reading.dish}")
        else:
            yield Violation("ingredient", f"{name} does not go into the {reading.dish}")
    for role, size in reading.role_sizes.items():
        count = len({item.name for item in reading.of_role(role)})
        if count < size:
            yield Violation("missing", f"{count} of {size} {role} listed")
        elif count > size:
            yield Violation("surplus", f"{count} instead of {size} {role} listed")
    if known != sorted(known):
        yield Violation("order", "the ingredients are not in the usual order")


def _check_quantities(reading: Reading) -> Iterator[Violation]:
    menus = single_menus(reading.dish, reading.richness)
    for item in reading.items:
        role = reading.role_of.get(item.name)
        if role is not None and item not in menus[role]:
            yield Violation("quantity", f"{item} is not a usual quantity in the {reading.dish}")


def _check_agreement(reading: Reading) -> Iterator[Violation]:
    """Title, ingredient list and steps speak of the same things."""
    expected = reading.expected()
    listed = {item.name for item in reading.items}
    used = {word for place, word in reading.steps if place in ROLE_OF_PLACE}
    for place, word in reading.title:
        if word not in listed:
            yield Violation("title", f"{word} is in the title but not listed")
        elif word != expected.get(place, word):
            yield Violation("title", f"the title has {word} where {expected[place]} belongs")
    for word in sorted(used - listed):
        yield Violation("unlisted", f"{word} is used but not listed")
    for word in sorted(listed - used):
        yield Violation("unused", f"{word} is listed but not used")
    for place, word in reading.steps:
        if place in ROLE_OF_PLACE and word in listed and word != expected.get(place, word):
            yield Violation("place", f"{word} is used where {expected[place]} belongs")


def _check_cooking(reading: Reading) -> Iterator[Violation]:
    """Technique, times and heat suit the dish and the class of its main ingredient."""
    dish, main = DISH_OF[reading.dish], reading.main
    allowed: dict[str, tuple[str, tuple[str, ...]]] = {
        "heat": ("temperature", tuple(dish.heats.split("|"))),
        "rest": ("rest", tuple(map(str, dish.rests))),
    }
    if main is not None and main in dish.mains.split():
        allowed["minutes"] = ("time", tuple(map(str, minutes_menu(dish, main))))
        allowed["prep"] = ("technique", (preparation(reading.dish, main) or "",))
    for place, word in reading.steps:
        rule, menu = allowed.get(place, ("", (word,)))
        if word not in menu:
            yield Violation(rule, f"{word} instead of {'/'.join(menu)} ({reading.dish}, {main})")
    if reading.richness == "rich" and reading.occasion not in OCCASIONS:
        yield Violation("occasion", f"{reading.occasion} is no occasion")


def _recipe(reading: Reading) -> Recipe:
    """The recipe of a reading without violations."""
    word = dict(reading.steps)
    vegetables, spices = reading.of_role("vegetables"), reading.of_role("spices")
    return Recipe(
        dish=reading.dish,
        main=reading.of_role("main")[0],
        vegetables=(vegetables[0], vegetables[1]),
        binder=reading.of_role("binder")[0],
        staple=reading.of_role("staple")[0],
        fat=reading.of_role("fat")[0],
        spices=(spices[0], spices[1]),
        minutes=int(word["minutes"]),
        heat=word["heat"],
        rest=int(word["rest"]),
        occasion=reading.occasion,
        garnish=next(iter(reading.of_role("garnish")), None),
        wording=wording_number(reading.dish, reading.richness, reading.picks),
    )


def _read(text: str) -> tuple[Recipe | None, tuple[Violation, ...]]:
    """The recipe, or else every violation."""
    sections = SECTIONS.fullmatch(text)
    if sections is None:
        return None, (Violation("form", "no title, ingredients and steps, each ended by a stop"),)
    titled = _titled(sections["title"])
    if titled is None:
        return None, (Violation("title", f"{sections['title']!r} names no known dish"),)
    richness: Richness = "plain" if sections["occasion"] is None else "rich"
    reading = Reading(titled[0], richness, sections["occasion"])
    violations = [
        *_read_title(reading, sections["title"]),
        *_read_items(reading, sections["items"]),
        *_read_steps(reading, sections["steps"]),
        *_check_list(reading),
        *_check_quantities(reading),
        *_check_agreement(reading),
        *_check_cooking(reading),
    ]
    if violations:
        return None, tuple(dict.fromkeys(violations))
    return _recipe(reading), ()


def check(text: str) -> tuple[Violation, ...]:
    """Every violation of a text, plain or rich; none means that it is a valid recipe."""
    return _read(text)[1]


def parse(text: str) -> Recipe:
    """The choices behind a valid text; ValueError lists the violations of any other."""
    recipe, violations = _read(text)
    if recipe is None:
        reasons = "; ".join(f"{v.rule}: {v.detail}" for v in violations)
        raise ValueError(f"not a valid recipe ({reasons}): {text[:80]!r}")
    return recipe


def combination(text: str) -> tuple[str, str] | None:
    """The (dish, main ingredient) a title names, valid or not; None if it cannot be read."""
    title = re.match(r"title: ([^.:;]+)\.", text)
    titled = _titled(title[1]) if title else None
    if titled is None:
        return None
    main = dict(titled[1])["main"]
    return (titled[0], main) if main in CLASS_OF else None


def ingredients(text: str) -> frozenset[str]:
    """The names in the ingredient list, as far as they can be read, even in a broken recipe."""
    section = re.search(r"ingredients:([^.:]*)", text)
    lines = section[1].split(";") if section else []
    found = (re.search(r"([a-z]+)\s*$", line) for line in lines)
    return frozenset(name[1] for name in found if name)
