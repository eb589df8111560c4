"""What a text is about, as a set: ingredient names for recipes, content lemmas otherwise.

`content_items("title: Soup. ingredients: 2 leeks, sliced; 300 g potatoes")` is
{"leek", "potato"}; `content_f1` compares two such sets.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Word lists for ingredient lines. They strip what tells how much and how cut, never what it is.
_UNITS = _words(
    """g gram kg kilogram mg ml millilitre milliliter cl dl l litre liter cup c tbsp tbsps tbs tbl
    tablespoon tablespoonful tsp tsps teaspoon teaspoonful oz ounce lb lbs pound pint pt quart qt
    gallon gal fluid fl inch cm mm pinch dash splash squeeze drop drizzle handful bunch sprig stalk
    rib head clove bulb knob slice piece chunk strip wedge cube sheet leaf stick can tin jar bottle
    box bag packet package pkg pack packaging envelope carton container tub tube roll loaf round
    rack tray scoop jigger shot serving portion recipe batch dozen part bar square block log ear
    fillet filet half halve quarter glass bowl sachet dollop length thumb sized-piece pat ball
    bundle wheel cluster bucket keg punnet pot stem segment spoonful cupful crown ring blade
    dessertspoonful pouch dice pod grind twist
    """
)
_STATES = _words(
    """fresh freshly dried dry frozen thawed canned chopped minced diced sliced shredded grated
    crushed ground melted softened beaten peeled seeded cored pitted trimmed halved quartered
    cubed crumbled packed firmly lightly loosely finely coarsely roughly thinly thickly very
    small medium large jumbo mini miniature big extra-large medium-sized small-to-medium baby
    thick thin long short ripe overripe firm raw cooked uncooked hot warm cold chilled lukewarm
    boiling cool room temperature washed rinsed drained divided optional prepared purchased
    store-bought homemade leftover boneless skinless bone-in skin-on skin unpeeled peel-on
    unsalted salted unsweetened sweetened low-sodium reduced-sodium low-fat reduced-fat nonfat
    non-fat fat-free lowfat fat sodium lean extra extra-lean organic natural good-quality
    best-quality fine-quality high-quality quality premium assorted mixed whole heaping heaped
    scant generous level rounded torn smashed mashed pressed squeezed toasted roasted blanched
    slivered flaked julienned sifted unbleached bleached quick-cooking ready-to-use refrigerated
    stale day-old cut deveined shelled hulled husked stemmed snipped scrubbed pounded popped
    squeezed strained cleaned thawed warmed separated lengthwise crosswise thin-sliced
    matchstick-size bite-size bite-sized inch-thick additional more plus about approximately
    low-salt lower-sodium reduced pureed jarred reserved tiny fresh-ground free
    link slightly tightly fully one two three four five six eight ten
    few some several each every all any coarse fine condensed only
    """
)
_LINK_WORDS = _words("a an the of in into for with without to from and or at on as per")
_NOT_NAMES = _UNITS | _STATES | _LINK_WORDS
# A state, unit or link word that is part of the name; "_" holds it together.
_NAMES_KEPT = {
    "all purpose": "all-purpose",
    "extra virgin": "extra-virgin",
    "red-wine": "red wine",
    "white-wine": "white wine",
    "half and half": "half-and-half",
    "half & half": "half-and-half",
    "bay leaves": "bay_leaf",
    "ice cubes": "ice",
    "spare ribs": "sparerib",
    "short ribs": "short_rib",
    "mixed nuts": "nut",
    "long-grain": "long_grain",
} | {
    name.replace("_", " "): name
    for name in _words(
        """active_dry_yeast bay_leaf bouillon_cube condensed_milk cream_of crescent_roll
        ground_beef ground_chicken ground_lamb ground_meat ground_pork ground_turkey hot_dog
        hot_sauce hot_pepper_sauce lady_finger long_grain mixed_greens short_rib whole_wheat
        whole_grain rice_cake egg_roll spring_roll"""
    )
}
_NUMBER = r"(?:\d+(?:[.,]\d+)?|[¼½¾⅐-⅞])"
_QUANTITY = re.compile(
    rf"(?<![\w-]){_NUMBER}(?:\s*(?:[/⁄–-]|to\s+(?={_NUMBER}))?\s*{_NUMBER})*%?"
    r"(?:-?\s?(?:g|kg|mg|ml|cl|dl|l|oz|lb|lbs|cm|mm)\b|-?(?:inch|ounce|pound|layer)(?:es|s)?\b)?"
    r"(?:-(?:pound|inch|ounce|long|thick|size|sized|wide|to|by)\w*)*(?:\s?['\"″x×](?=\s|$))?"
)
_REMARK = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_TAIL = re.compile(
    r",.*| - .*|\s(?:or|plus|such as|preferably|cut into|at room|at least|for (?:the|serving|"
    r"garnish\w*|dusting|greasing|frying|deep|brushing|sprinkling|drizzling|rolling|coating|bread)|"
    r"to taste|as needed|if (?:desired|needed)|with (?:juice|liquid|syrup)|in (?:juice|water|oil|"
    r"syrup))\b.*"
)
_NOT_FOOD = ("special equipment", "equipment:", "available ", "*")
_PREFIX = re.compile(r"^(?:accompaniments?|garnish|optional|for [^:,]*)\s?:")
_SALT_AND = re.compile(r"(?<=salt)(?:,| and| &) (?=[^;]*pepper)", re.IGNORECASE)
_TOKEN = re.compile(r"[^\W\d_]+(?:[-'’_][^\W\d_]+)*")

_STOP_WORDS = _words(
    """the and for are but not you all any can had her was one our out day get has him his how man
    new now old see two way who did its let put say she too use that with have this will your from
    they know want been good much some time very when come here just like long make many more only
    over such take than them well were what which while where would there their these those then
    also into about after again against because before being below between both could does doing
    down during each few further having hers herself himself itself might most must myself nor off
    once other ours ourselves own same should shan't through under until upon why won't yours
    yourself yourselves themselves whom whose within without however therefore thus hence may per
    via using used based can't cannot don't isn't aren't wasn't weren't title name description
    abstract show shows shown propose proposed present presented
    """
)
_IRREGULAR = {"leaves": "leaf", "halves": "half", "loaves": "loaf", "molasses": "molasses"}
_WORD = re.compile(r"[^\W\d_]{3,}")
_DOUBLED = re.compile(r"([bdgmnprt])\1$")


def content_items(text: str) -> frozenset[str]:
    """Ingredient names of a text with "ingredients:" parts, of all of them; else content lemmas."""
    recipes = [recipe.partition("ingredients:")[2] for recipe in text.split("title:")]
    parts = [recipe.partition("steps:")[0] for recipe in recipes if recipe]
    if not parts:
        return lemmas(text)
    lines = (line for part in parts for line in _SALT_AND.sub(";", part).split(";"))
    names = (_ingredient(line.strip().rstrip(".")) for line in lines)
    return frozenset(name for name in names if name)


def content_f1(reference: frozenset[str], hypothesis: frozenset[str]) -> float:
    """F1 of two sets, 0..1: 2 * shared / (size + size); 1.0 where both are empty."""
    total = len(reference) + len(hypothesis)
    return 2 * len(reference & hypothesis) / total if total else 1.0


def _ingredient(line: str) -> str:
    """The name in a line of an ingredient list: "2 cups onions, diced" gives "onion"."""
    line = _REMARK.sub(" ", _REMARK.sub(" ", line.lower()))  # twice: one remark inside another
    if line.startswith(_NOT_FOOD):
        return ""
    line = _PREFIX.sub("", line)
    for spelt, kept in _NAMES_KEPT.items():
        line = line.replace(spelt, kept)
    heads = _heads(_QUANTITY.sub(" ", line))
    for head in heads:
        if name := [word for word in _singulars(head) if word not in _NOT_NAMES]:
            return " ".join(name).replace("_", " ")
    # A unit word that stands alone is the ingredient: "12 whole cloves", "2 rolls".
    units = [word for word in _singulars(heads[0]) if word in _UNITS]
    return units[-1] if units else ""


def _singulars(head: str) -> list[str]:
    return [singular(word) for word in _TOKEN.findall(head)]


def _heads(line: str) -> list[str]:
    """The line up to its first comma, "or", "such as" …; the whole where that leaves no name.

    "skinless, boneless chicken breasts" has its name after the comma.
    """
    return [_TAIL.sub("", line, count=1), *line.split(",")[1:], line]


def lemmas(text: str) -> frozenset[str]:
    """Stems of its words that are no stop words."""
    words = _WORD.findall(text.lower())
    return frozenset(_stem(word) for word in words if word not in _STOP_WORDS)


def _stem(word: str) -> str:
    """Plural, -ing and -ed removed where a stem of at least four letters stays."""
    word = singular(word)
    for suffix in ("ing", "ed"):
        stem = word.removesuffix(suffix)
        if stem != word and len(stem) >= 4 and re.search("[aeiouy]", stem):
            return _DOUBLED.sub(r"\1", stem).removesuffix("e")
    return word.removesuffix("e") if len(word) > 4 else word


def singular(word: str) -> str:
    """A lower-case English word without its plural's ending."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or word.endswith(("ss", "us", "is", "'s", "’s")):
        return word
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    if word.endswith(("oes", "shes", "ches", "sses", "xes", "zzes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word
