"""What the built-in recipes are made of: ingredients, techniques, times, dishes.

Tables only; `grammar` turns them into choices, `wording` into sentences. Every
ingredient name is one lower-case word, and no main ingredient is ever a vegetable
elsewhere, so a word tells its role within a dish. A change here changes the
corpus, and so voids every model trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass

CLASSES: dict[str, str] = {
    "fish": "salmon cod trout tuna",
    "shellfish": "shrimp scallops",
    "poultry": "chicken turkey duck",
    "meat": "beef lamb pork",
    "cured": "ham bacon chorizo",
    "legume": "chickpeas lentils beans",
    "soy": "tofu tempeh",
    "cheese": "halloumi paneer",
    "vegetable": "mushrooms eggplant",
}
CLASS_OF = {name: kind for kind, names in CLASSES.items() for name in names.split()}

# Quantities of a main ingredient by class: as the body of a dish, as a topping or filling.
MAIN_QUANTITIES: dict[str, dict[str, str]] = {
    "body": {
        "fish": "400 g|500 g|600 g|700 g",
        "shellfish": "300 g|400 g|500 g|600 g",
        "poultry": "500 g|600 g|700 g|800 g",
        "meat": "500 g|600 g|700 g|800 g",
        "cured": "200 g|250 g|300 g|350 g",
        "legume": "250 g|300 g|350 g|400 g",
        "soy": "300 g|350 g|400 g|450 g",
        "cheese": "250 g|300 g|350 g|400 g",
        "vegetable": "400 g|500 g|600 g|700 g",
    },
    "topping": {
        "fish": "150 g|180 g|200 g|250 g",
        "shellfish": "150 g|180 g|200 g|250 g",
        "poultry": "200 g|250 g|300 g|350 g",
        "meat": "200 g|250 g|300 g|350 g",
        "cured": "80 g|100 g|120 g|150 g",
        "legume": "200 g|250 g|300 g|350 g",
        "soy": "150 g|200 g|250 g|300 g",
        "cheese": "120 g|150 g|180 g|200 g",
        "vegetable": "150 g|200 g|250 g|300 g",
    },
}

# Quantities of a vegetable: in a pot for four, and where only a little goes in.
VEGETABLES: dict[str, tuple[str, str]] = {
    "artichokes": ("4|5|6", "80 g|100 g|120 g"),
    "arugula": ("80 g|100 g|120 g", "40 g|50 g|60 g"),
    "asparagus": ("200 g|250 g|300 g", "100 g|120 g|150 g"),
    "avocados": ("2|3|4", "100 g|120 g|150 g"),
    "beets": ("2|3|4", "80 g|100 g|120 g"),
    "broccoli": ("250 g|300 g|350 g", "100 g|120 g|150 g"),
    "cabbage": ("250 g|300 g|350 g", "100 g|120 g|150 g"),
    "carrots": ("2|3|4", "80 g|100 g|120 g"),
    "cauliflower": ("300 g|350 g|400 g", "120 g|150 g|180 g"),
    "celery": ("100 g|150 g|200 g", "50 g|60 g|80 g"),
    "chard": ("200 g|250 g|300 g", "80 g|100 g|120 g"),
    "corn": ("150 g|200 g|250 g", "80 g|100 g|120 g"),
    "cucumbers": ("2|3|4", "80 g|100 g|120 g"),
    "fennel": ("200 g|250 g|300 g", "80 g|100 g|120 g"),
    "kale": ("150 g|200 g|250 g", "60 g|80 g|100 g"),
    "leeks": ("2|3|4", "100 g|120 g|150 g"),
    "lettuce": ("100 g|120 g|150 g", "50 g|60 g|80 g"),
    "olives": ("60 g|80 g|100 g", "40 g|50 g|60 g"),
    "onions": ("2|3|4", "80 g|100 g|120 g"),
    "parsnips": ("2|3|4", "80 g|100 g|120 g"),
    "peas": ("150 g|200 g|250 g", "80 g|100 g|120 g"),
    "peppers": ("2|3|4", "80 g|100 g|120 g"),
    "potatoes": ("400 g|500 g|600 g", "150 g|200 g|250 g"),
    "radishes": ("6|8|10", "50 g|60 g|80 g"),
    "scallions": ("4|5|6", "4|5|6"),
    "shallots": ("4|5|6", "2|3|4"),
    "spinach": ("200 g|250 g|300 g", "80 g|100 g|120 g"),
    "sprouts": ("150 g|200 g|250 g", "80 g|100 g|120 g"),
    "squash": ("300 g|350 g|400 g", "120 g|150 g|180 g"),
    "tomatoes": ("3|4|5", "100 g|120 g|150 g"),
    "turnips": ("2|3|4", "80 g|100 g|120 g"),
    "zucchini": ("200 g|250 g|300 g", "80 g|100 g|120 g"),
}

# The word for what is first done to a main ingredient, by way of working and class.
PREPARATION: dict[str, dict[str, str]] = {
    "pan": {
        "fish": "sear", "shellfish": "sear", "poultry": "brown", "meat": "brown",
        "cured": "crisp", "legume": "warm", "soy": "fry", "cheese": "fry",
        "vegetable": "saute",
    },
    "cut": {
        "fish": "flake", "shellfish": "clean", "poultry": "shred", "meat": "dice",
        "cured": "chop", "legume": "rinse", "soy": "cube", "cheese": "cube",
        "vegetable": "slice",
    },
    "shape": {
        "fish": "mince", "poultry": "mince", "meat": "mince", "legume": "mash",
        "soy": "crumble", "cheese": "slice",
    },
}  # fmt: skip

# Minutes of the main cooking, by method and class of the main ingredient; "any" is the rest.
MINUTES: dict[str, dict[str, tuple[int, ...]]] = {
    "simmer": {
        "fish": (12, 14, 15, 16), "shellfish": (8, 9, 10, 12), "poultry": (30, 35, 40, 45),
        "meat": (75, 80, 85, 90), "cured": (40, 45, 50, 55), "legume": (25, 30, 35, 40),
        "soy": (10, 12, 14, 16), "cheese": (10, 12, 14, 16), "vegetable": (20, 25, 30, 35),
    },
    "stew": {
        "fish": (14, 15, 16, 18), "meat": (90, 100, 110, 120), "cured": (40, 45, 50, 55),
        "poultry": (50, 55, 60, 65), "legume": (35, 40, 45, 50),
    },
    "wok": {
        "shellfish": (3, 4, 5, 6), "poultry": (8, 9, 10, 12), "meat": (6, 7, 8, 9),
        "any": (4, 5, 6, 7),
    },
    "sear": {
        "fish": (5, 6, 7, 8), "shellfish": (3, 4, 5, 6), "poultry": (12, 14, 15, 16),
        "meat": (10, 12, 14, 15), "legume": (4, 5, 6, 7), "soy": (8, 9, 10, 12),
        "cheese": (4, 5, 6, 7), "vegetable": (8, 9, 10, 12),
    },
    "grill": {
        "fish": (6, 7, 8, 9), "shellfish": (4, 5, 6, 7), "poultry": (12, 14, 15, 16),
        "meat": (8, 9, 10, 12), "any": (7, 8, 9, 10),
    },
    "oven": {
        "fish": (20, 22, 24, 25), "shellfish": (16, 18, 20, 22), "poultry": (35, 40, 45, 50),
        "meat": (45, 50, 55, 60), "any": (30, 35, 40, 45),
    },
    "rice": {"any": (16, 18, 20, 22)},
    "eggs": {"any": (4, 5, 6, 7)},
    "pizza": {"any": (10, 12, 14, 15)},
    "custard": {"any": (30, 35, 40, 45)},
}  # fmt: skip

FAT_QUANTITIES: dict[str, str] = {
    "oil": "2 tbsp|3 tbsp|4 tbsp",
    "ghee": "2 tbsp|3 tbsp|4 tbsp",
    "butter": "20 g|30 g|40 g",
    "lard": "20 g|30 g|40 g",
    "margarine": "20 g|30 g|40 g",
    "passata": "100 ml|120 ml|150 ml",
    "pesto": "80 g|100 g|120 g",
    "pastry": "200 g|250 g|300 g",
}


@dataclass(frozen=True)
class Dish:
    """A dish family: what may go into it, how it is cooked, for how long and how hot.

    `fats` names what is spread or fried in first (the sauce of a pizza, the pastry of a
    quiche take that place); `binders` what brings it together: liquid, sauce, cheese or
    grain; `staples` lists whole items, quantity and name.
    """

    name: str
    main_scale: str
    vegetable_scale: int
    preparation: str
    method: str
    mains: str
    vegetables: str
    spices: str
    fats: str
    binders: str
    binder_quantities: str
    staples: str
    heats: str
    rests: tuple[int, ...]


DISHES: tuple[Dish, ...] = (
    Dish("pizza", "topping", 1, "cut", "pizza",
         "chicken tuna ham bacon chorizo shrimp mushrooms eggplant",
         "onions tomatoes peppers olives artichokes spinach zucchini corn",
         "basil oregano garlic thyme rosemary chili marjoram parsley",
         "passata pesto", "mozzarella provolone gorgonzola ricotta fontina",
         "150 g|200 g|250 g", "400 g dough|450 g dough|500 g dough",
         "230 c|240 c|250 c", (2, 3, 4)),
    Dish("curry", "body", 0, "pan", "simmer",
         "chicken lamb cod shrimp chickpeas lentils tofu paneer eggplant",
         "onions tomatoes spinach peas potatoes cauliflower carrots squash",
         "cumin turmeric ginger garlic chili coriander cardamom cinnamon",
         "oil ghee butter", "stock passata yogurt cream buttermilk",
         "300 ml|350 ml|400 ml", "300 g rice|300 g couscous|300 g quinoa",
         "gentle|low|medium", (5, 10, 15)),
    Dish("soup", "body", 0, "cut", "simmer",
         "chicken turkey ham salmon cod lentils beans chickpeas",
         "onions carrots celery leeks potatoes kale turnips squash",
         "thyme bay parsley garlic paprika nutmeg marjoram sage",
         "oil butter", "stock broth bouillon passata",
         "800 ml|900 ml|1000 ml", "200 g bread|250 g bread|100 g croutons",
         "gentle|low|medium", (2, 3, 4, 5)),
    Dish("stew", "body", 0, "pan", "stew",
         "beef lamb pork duck cod chorizo beans lentils",
         "onions carrots celery potatoes parsnips turnips tomatoes fennel",
         "thyme bay rosemary garlic paprika sage juniper allspice",
         "oil butter lard", "stock wine beer cider passata",
         "400 ml|500 ml|600 ml", "250 g polenta|300 g dumplings|300 g bread",
         "gentle|low|medium", (5, 10, 15)),
    Dish("pie", "body", 0, "pan", "oven",
         "beef lamb pork chicken turkey cod salmon mushrooms",
         "onions carrots leeks peas celery parsnips spinach shallots",
         "thyme rosemary sage parsley nutmeg tarragon bay marjoram",
         "oil butter lard", "stock cream milk cider wine",
         "200 ml|250 ml|300 ml", "300 g pastry|350 g pastry|400 g pastry",
         "180 c|190 c|200 c", (5, 10, 15)),
    Dish("risotto", "topping", 0, "pan", "rice",
         "salmon trout shrimp scallops duck bacon chorizo mushrooms",
         "peas asparagus leeks shallots spinach squash fennel zucchini",
         "saffron thyme parsley garlic basil sage chives nutmeg",
         "oil butter", "stock broth bouillon",
         "800 ml|850 ml|900 ml|1000 ml", "250 g rice|300 g rice|350 g rice",
         "gentle|low|medium", (2, 3, 4)),
    Dish("stir fry", "body", 0, "pan", "wok",
         "chicken duck beef pork shrimp scallops tofu tempeh",
         "peppers broccoli carrots cabbage scallions corn asparagus sprouts",
         "ginger garlic chili coriander lemongrass sesame basil anise",
         "oil lard", "teriyaki hoisin tamari ponzu sriracha",
         "2 tbsp|3 tbsp|4 tbsp", "250 g rice|300 g rice|250 g noodles|300 g noodles",
         "high|full|fierce", (2, 3, 4)),
    Dish("omelette", "topping", 1, "pan", "eggs",
         "ham bacon chorizo salmon trout tuna shrimp mushrooms",
         "onions peppers spinach tomatoes scallions zucchini potatoes asparagus",
         "chives dill parsley tarragon chervil basil paprika nutmeg",
         "oil butter margarine", "cheddar gruyere feta parmesan gouda",
         "50 g|60 g|80 g", "6 eggs|8 eggs|10 eggs",
         "gentle|low|medium", (2, 3, 4)),
    Dish("salad", "topping", 1, "pan", "sear",
         "tuna trout duck scallops halloumi lentils beans chickpeas",
         "tomatoes cucumbers radishes olives avocados carrots beets shallots",
         "basil mint parsley dill coriander chives tarragon sumac",
         "oil butter", "vinegar mustard yogurt mayonnaise tahini",
         "2 tbsp|3 tbsp|4 tbsp", "200 g couscous|200 g quinoa|200 g bulgur",
         "low|medium|high", (10, 15, 20)),
    Dish("tacos", "body", 1, "pan", "sear",
         "beef pork turkey duck cod beans tempeh halloumi",
         "onions tomatoes peppers corn cabbage avocados radishes lettuce",
         "cumin chili coriander oregano paprika garlic lime cayenne",
         "oil lard", "salsa guacamole yogurt chutney relish",
         "100 g|120 g|150 g", "8 tortillas|10 tortillas|12 tortillas",
         "medium|high|full", (2, 3, 4)),
    Dish("pasta bake", "topping", 0, "pan", "oven",
         "chicken turkey tuna ham bacon chorizo lentils eggplant",
         "onions tomatoes peppers zucchini spinach broccoli peas leeks",
         "basil oregano garlic thyme parsley sage nutmeg chili",
         "oil butter", "passata cream ricotta mascarpone bechamel",
         "250 g|300 g|350 g", "400 g penne|400 g rigatoni|400 g fusilli|400 g macaroni",
         "180 c|190 c|200 c", (5, 10, 15)),
    Dish("burger", "body", 1, "shape", "grill",
         "beef lamb turkey tuna tempeh halloumi paneer chickpeas",
         "onions tomatoes lettuce cucumbers beets avocados arugula carrots",
         "paprika cumin garlic parsley thyme mint cayenne coriander",
         "oil butter", "mayonnaise ketchup mustard relish chutney",
         "2 tbsp|3 tbsp|4 tbsp", "4 buns|4 rolls|4 ciabattas",
         "medium|high|full", (10, 15, 20)),
    Dish("gratin", "body", 0, "pan", "oven",
         "cod trout tuna scallops ham bacon eggplant mushrooms",
         "leeks potatoes onions cauliflower broccoli spinach fennel chard",
         "nutmeg thyme garlic parsley dill chives rosemary tarragon",
         "oil butter margarine", "cream milk bechamel stock",
         "250 ml|300 ml|350 ml", "100 g gruyere|100 g cheddar|100 g parmesan",
         "190 c|200 c|210 c", (5, 10, 15)),
    Dish("noodle soup", "body", 0, "pan", "simmer",
         "chicken duck beef pork scallops tofu tempeh mushrooms",
         "scallions cabbage carrots spinach sprouts corn leeks broccoli",
         "ginger garlic anise lemongrass chili coriander basil mint",
         "oil lard", "stock broth dashi bouillon",
         "1000 ml|1100 ml|1200 ml", "250 g noodles|250 g udon|250 g vermicelli",
         "gentle|low|medium", (3, 4, 5)),
    Dish("skewers", "body", 1, "cut", "grill",
         "lamb pork shrimp scallops tofu tempeh halloumi paneer",
         "onions peppers zucchini tomatoes corn fennel shallots scallions",
         "cumin paprika garlic oregano mint sumac coriander ginger",
         "oil butter", "yogurt tamari honey harissa vinegar",
         "3 tbsp|4 tbsp|5 tbsp", "4 pitas|6 pitas|4 flatbreads|6 flatbreads",
         "medium|high|full", (20, 30, 60)),
    Dish("fried rice", "topping", 1, "pan", "wok",
         "chicken pork shrimp ham bacon chorizo tofu tempeh",
         "peas carrots corn scallions peppers cabbage broccoli sprouts",
         "ginger garlic chili coriander turmeric sesame basil lime",
         "oil lard", "teriyaki hoisin tamari sriracha",
         "2 tbsp|3 tbsp|4 tbsp", "400 g rice|450 g rice|500 g rice",
         "high|full|fierce", (2, 3, 4)),
    Dish("stuffed peppers", "topping", 1, "pan", "oven",
         "beef lamb turkey lentils beans chickpeas halloumi paneer",
         "onions tomatoes zucchini spinach corn carrots peas kale",
         "cumin paprika oregano garlic parsley mint allspice dill",
         "oil butter", "rice couscous quinoa bulgur orzo",
         "100 g|120 g|150 g", "4 peppers|6 peppers|8 peppers",
         "180 c|190 c|200 c", (5, 10, 15)),
    Dish("quiche", "topping", 1, "cut", "custard",
         "ham bacon salmon trout tuna turkey mushrooms eggplant",
         "leeks onions spinach asparagus tomatoes broccoli shallots peas",
         "nutmeg thyme chives parsley dill tarragon chervil basil",
         "pastry", "cream milk ricotta yogurt mascarpone",
         "150 g|200 g|250 g", "4 eggs|5 eggs|6 eggs",
         "170 c|180 c|190 c", (5, 10, 15)),
)  # fmt: skip

# Rich recipes only: the occasion they suit, and what is scattered over at the end.
OCCASIONS = ("lunch", "dinner", "supper", "weekend", "holiday")
_WESTERN = "capers cress lemon pepper walnuts almonds"
_EASTERN = "peanuts cashews almonds nori kimchi cress"
_STREET = "pickles jalapenos cress lemon pepper capers"
_SPICED = "almonds cashews pistachios raisins pomegranate lemon"
GARNISHES: dict[str, str] = {
    "pizza": "capers cress pepper walnuts anchovies jalapenos",
    "curry": _SPICED,
    "soup": _WESTERN,
    "stew": _WESTERN,
    "pie": _WESTERN,
    "risotto": _WESTERN,
    "stir fry": _EASTERN,
    "omelette": "capers cress pepper lemon pickles jalapenos",
    "salad": _SPICED,
    "tacos": _STREET,
    "pasta bake": _WESTERN,
    "burger": _STREET,
    "gratin": _WESTERN,
    "noodle soup": _EASTERN,
    "skewers": _SPICED,
    "fried rice": _EASTERN,
    "stuffed peppers": _SPICED,
    "quiche": _WESTERN,
}
