"""Sentence templates of both richnesses; no logic but picking the row of a dish.

A placeholder stands for one word or number (`heat` may be "200 c"). All alternatives
of a sentence hold the same content, and no two of them can yield the same text.
"""

from __future__ import annotations

TITLE_PLAIN = "{dish} with {main} and {v1}"

PLAIN: dict[str, str] = {
    "pizza": "spread {fat} over {staple}. {prep} {main} and add {v1} and {v2}. top with {binder} "
    "and {s1} and {s2}. bake {minutes} minutes at {heat}. rest {rest} minutes",
    "curry": "{prep} {main} in {fat} with {s1} and {s2}. add {v1} and {v2} with {binder}. "
    "simmer {minutes} minutes on {heat} heat. rest {rest} minutes and serve with {staple}",
    "soup": "soften {v1} and {v2} in {fat}. {prep} {main} and add with {binder} and {s1} and {s2}. "
    "simmer {minutes} minutes on {heat} heat. ladle over {staple} after {rest} minutes",
    "stew": "{prep} {main} in {fat}. add {v1} and {v2} with {s1} and {s2}. pour in {binder} and "
    "stew {minutes} minutes on {heat} heat. serve with {staple} after {rest} minutes",
    "pie": "{prep} {main} in {fat} with {s1} and {s2}. stir in {v1} and {v2} and {binder}. "
    "cover with {staple} and bake {minutes} minutes at {heat}. rest {rest} minutes",
    "risotto": "{prep} {main} in {fat} with {v1} and {v2}. toast {staple} with {s1} and {s2}. "
    "add {binder} slowly and stir {minutes} minutes on {heat} heat. rest {rest} minutes",
    "stir fry": "heat {fat} with {s1} and {s2}. {prep} {main} {minutes} minutes on {heat} heat. "
    "toss in {v1} and {v2} with {binder}. cover {rest} minutes and serve over {staple}",
    "omelette": "{prep} {main} in {fat} with {v1} and {v2}. beat {staple} with {s1} and {s2} and "
    "add. cook {minutes} minutes on {heat} heat. fold over {binder} and rest {rest} minutes",
    "salad": "{prep} {main} in {fat} {minutes} minutes on {heat} heat. mix boiled {staple} with "
    "{v1} and {v2}. dress with {binder} and {s1} and {s2}. chill {rest} minutes and serve",
    "tacos": "season {main} with {s1} and {s2}. {prep} in {fat} for {minutes} minutes on {heat} "
    "heat. warm {staple} {rest} minutes and fill with {v1} and {v2}. top with {binder}",
    "pasta bake": "{prep} {main} in {fat} with {s1} and {s2}. boil {staple} and mix with {v1} and "
    "{v2} and {binder}. bake {minutes} minutes at {heat}. rest {rest} minutes",
    "burger": "{prep} {main} with {s1} and {s2}. rest {rest} minutes. grill with {fat} for "
    "{minutes} minutes on {heat} heat. fill {staple} with {v1} and {v2} and {binder}",
    "gratin": "{prep} {main} in {fat} with {v1} and {v2}. pour over {binder} with {s1} and {s2}. "
    "cover with {staple} and bake {minutes} minutes at {heat}. rest {rest} minutes",
    "noodle soup": "{prep} {main} in {fat} with {s1} and {s2}. add {v1} and {v2} with {binder}. "
    "simmer {minutes} minutes on {heat} heat. add {staple} and cook {rest} minutes",
    "skewers": "marinate {main} {rest} minutes in {binder} with {s1} and {s2}. thread with {v1} "
    "and {v2}. brush with {fat} and grill {minutes} minutes on {heat} heat. serve with {staple}",
    "fried rice": "{prep} {main} in {fat} with {s1} and {s2}. add {v1} and {v2} and {staple}. fry "
    "{minutes} minutes on {heat} heat. season with {binder} and rest {rest} minutes",
    "stuffed peppers": "{prep} {main} in {fat} with {s1} and {s2}. mix with {v1} and {v2} and "
    "boiled {binder}. fill {staple} and bake {minutes} minutes at {heat}. rest {rest} minutes",
    "quiche": "{prep} {main} and spread over {fat} with {v1} and {v2}. pour over {staple} beaten "
    "with {binder} and {s1} and {s2}. bake {minutes} minutes at {heat}. rest {rest} minutes",
}

TITLE_RICH: tuple[str, ...] = (
    "{dish} with {main} and {v1}",
    "easy {dish} with {main}, {v1} and {v2}",
    "our favourite {dish} with {main} and {v2}",
    "{dish} with {main}, scented with {s1}",
    "family {dish} with {main} and {s2}",
)

SENTENCES: dict[str, tuple[str, ...]] = {
    "brown": (
        "{prep} the {main} in the {fat} with the {s1} and {s2}",
        "in a wide pan, {prep} the {main} in {fat} together with {s1} and {s2}",
        "heat the {fat}, stir in the {s1} and {s2}, then {prep} the {main}",
        "warm the {fat} with a pinch of {s1} and {s2} and {prep} the {main}",
        "season the {main} with {s1} and {s2} and {prep} in hot {fat}",
        "once the {fat} is hot, {prep} the {main} and scatter over the {s1} and {s2}",
    ),
    "brown alone": (
        "{prep} the {main} in the {fat}",
        "heat the {fat} in a heavy pot and {prep} the {main}",
        "once the {fat} is hot, {prep} the {main} well",
        "in a large pot, {prep} the {main} in a little {fat}",
    ),
    "brown with vegetables": (
        "{prep} the {main} in the {fat} with the {v1} and {v2}",
        "heat the {fat} and {prep} the {main}, then add the {v1} and {v2}",
        "in hot {fat}, {prep} the {main} and soften the {v1} and {v2}",
        "add the {v1} and {v2} to hot {fat} and {prep} the {main} beside them",
        "cook the {v1} and {v2} in the {fat} until soft and {prep} the {main} alongside",
    ),
    "fry": (
        "{prep} the {main} in the {fat} for {minutes} minutes over {heat} heat",
        "heat the {fat} and {prep} the {main} over {heat} heat for {minutes} minutes",
        "in a pan on {heat} heat, {prep} the {main} in {fat} for about {minutes} minutes",
        "over {heat} heat, {prep} the {main} in a little {fat}, which takes {minutes} minutes",
    ),
    "add liquid": (
        "add the {v1} and {v2} and pour in the {binder}",
        "stir in the {binder}, then the {v1} and {v2}",
        "tip in the {v1} and {v2} and cover with the {binder}",
        "pour over the {binder} and add the {v1} and {v2}",
        "follow with the {v1}, the {v2} and the {binder}",
    ),
    "simmer": (
        "simmer for {minutes} minutes over {heat} heat",
        "let it bubble over {heat} heat for {minutes} minutes",
        "cook over {heat} heat for about {minutes} minutes",
        "cover and simmer {minutes} minutes on {heat} heat, stirring now and then",
        "turn to {heat} heat and leave to simmer for {minutes} minutes",
    ),
    "bake": (
        "bake at {heat} for {minutes} minutes",
        "bake for {minutes} minutes at {heat} until golden",
        "put into the oven at {heat} for {minutes} minutes",
        "slide into a hot oven and bake {minutes} minutes at {heat}",
        "cook in the oven at {heat} for {minutes} minutes",
    ),
    "rest": (
        "rest for {rest} minutes and finish with {garnish}",
        "leave to stand {rest} minutes, then scatter with {garnish}",
        "let cool for {rest} minutes before serving with {garnish}",
        "serve after {rest} minutes with some {garnish}",
        "wait {rest} minutes, top with {garnish} and serve",
    ),
    "rest and serve": (
        "let it stand for {rest} minutes and serve with {staple} and some {garnish}",
        "rest {rest} minutes, spoon over the {staple} and finish with {garnish}",
        "serve with the {staple} after {rest} minutes, topped with {garnish}",
        "leave for {rest} minutes, scatter with {garnish} and serve with {staple}",
        "after {rest} minutes of rest, sprinkle with {garnish} and add the {staple}",
    ),
    "spread dough": (
        "spread the {fat} over the {staple}",
        "roll out the {staple} and cover with {fat}",
        "stretch the {staple} thin and coat with the {fat}",
        "pull the {staple} into a round and add the {fat}",
    ),
    "lay on": (
        "{prep} the {main} and add with the {v1} and {v2}",
        "{prep} the {main}, then arrange on top with {v1} and {v2}",
        "scatter on the {v1} and {v2}, then {prep} the {main} for the top",
        "lay on the {v1} and {v2}, then {prep} the {main} and add that too",
    ),
    "cheese": (
        "top with the {binder}, {s1} and {s2}",
        "scatter over the {binder} with some {s1} and {s2}",
        "season with {s1} and {s2} and cover with {binder}",
        "finish with pieces of {binder} and a pinch of {s1} and {s2}",
    ),
    "soften": (
        "soften the {v1} and {v2} in the {fat}",
        "heat the {fat} in a large pot and sweat the {v1} and {v2}",
        "put the {v1} and {v2} in the pot and cook gently in {fat}",
        "let the {v1} and {v2} soften slowly in a little {fat}",
    ),
    "into the pot": (
        "{prep} the {main} and add with the {binder}, {s1} and {s2}",
        "pour in the {binder}, {prep} the {main} and add with {s1} and {s2}",
        "season with {s1} and {s2}, then {prep} the {main} and add along with the {binder}",
        "{prep} the {main}, tip into the pot and cover with {binder}, {s1} and {s2}",
    ),
    "vegetables and spices": (
        "add the {v1} and {v2} with {s1} and {s2}",
        "stir in the {s1} and {s2}, then the {v1} and {v2}",
        "put in the {v1} and {v2} along with the {s1} and {s2}",
        "tip in the {v1} and {v2} and season with {s1} and {s2}",
    ),
    "stew": (
        "pour in the {binder} and stew for {minutes} minutes over {heat} heat",
        "add the {binder}, cover and stew on {heat} heat for {minutes} minutes",
        "cover with {binder} and let it stew {minutes} minutes on {heat} heat",
        "stir in the {binder} and leave over {heat} heat for {minutes} minutes until tender",
    ),
    "lid": (
        "cover with the {staple} and press down the edges",
        "roll out the {staple} and lay it on top",
        "top with a {staple} lid and cut a vent",
        "drape the {staple} over and trim the edges",
    ),
    "toast rice": (
        "toast the {staple} with the {s1} and {s2}",
        "stir in the {staple}, {s1} and {s2} until glossy",
        "tip in the {staple} and coat with the {s1} and {s2}",
        "add the {s1} and {s2}, then the {staple}, and toast for a moment",
    ),
    "ladle": (
        "add the {binder} slowly and stir for {minutes} minutes over {heat} heat",
        "over {heat} heat, ladle in the {binder} bit by bit for {minutes} minutes",
        "cook for {minutes} minutes on {heat} heat, adding the {binder} little by little",
        "keep on {heat} heat and feed with {binder}, stirring, for about {minutes} minutes",
    ),
    "scent fat": (
        "heat the {fat} with the {s1} and {s2}",
        "let the {s1} and {s2} sizzle in the {fat}",
        "get the {fat} smoking hot and throw in the {s1} and {s2}",
        "swirl the {fat} around a wok and add {s1} and {s2}",
    ),
    "wok": (
        "{prep} the {main} for {minutes} minutes over {heat} heat",
        "add the {main} and {prep} on {heat} heat for {minutes} minutes",
        "on {heat} heat, {prep} the {main} for about {minutes} minutes",
        "keep the wok on {heat} heat and {prep} the {main}, {minutes} minutes in all",
    ),
    "toss": (
        "toss in the {v1} and {v2} with the {binder}",
        "add the {v1} and {v2}, then splash in the {binder}",
        "stir through the {binder}, the {v1} and the {v2}",
        "throw in the {v1} and {v2} and glaze with {binder}",
    ),
    "beat eggs": (
        "beat the {staple} with the {s1} and {s2} and pour over",
        "whisk the {staple}, season with {s1} and {s2} and add to the pan",
        "pour in the {staple}, beaten with {s1} and {s2}",
        "stir the {s1} and {s2} into the beaten {staple} and tip into the pan",
    ),
    "set eggs": (
        "cook for {minutes} minutes over {heat} heat",
        "leave on {heat} heat for {minutes} minutes until just set",
        "let it set over {heat} heat, about {minutes} minutes",
        "cook gently {minutes} minutes on {heat} heat, drawing in the edges",
    ),
    "fold": (
        "fold over the {binder}, rest {rest} minutes and finish with {garnish}",
        "scatter with {binder}, fold, and serve after {rest} minutes with {garnish}",
        "sprinkle over the {binder} and {garnish}, fold and leave for {rest} minutes",
        "top with {binder}, wait {rest} minutes and serve folded with {garnish}",
    ),
    "mix grain": (
        "mix the boiled {staple} with the {v1} and {v2}",
        "boil the {staple}, let it cool and stir in the {v1} and {v2}",
        "fold the {v1} and {v2} into the cooked {staple}",
        "in a large bowl, combine cooked {staple}, {v1} and {v2}",
    ),
    "dress": (
        "dress with the {binder}, {s1} and {s2}",
        "stir {s1} and {s2} into the {binder} and pour over",
        "season with {s1} and {s2} and toss with the {binder}",
        "whisk the {binder} with {s1} and {s2} and fold in",
    ),
    "chill": (
        "chill for {rest} minutes and serve with {garnish}",
        "leave in the fridge for {rest} minutes, then top with {garnish}",
        "scatter with {garnish} and serve after {rest} minutes in a cool place",
        "let the flavours mingle for {rest} minutes and finish with {garnish}",
    ),
    "rub": (
        "season the {main} with the {s1} and {s2}",
        "stir the {s1} and {s2} into the {main}",
        "mix the {main} with plenty of {s1} and {s2}",
        "toss the {main} in {s1} and {s2}",
    ),
    "tortillas": (
        "warm the {staple} for {rest} minutes and fill with the {v1} and {v2}",
        "spread the {v1} and {v2} over {staple} warmed for {rest} minutes",
        "heat the {staple} in a dry pan for {rest} minutes, then add {v1} and {v2}",
        "give the {staple} {rest} minutes in the oven and load with {v1} and {v2}",
    ),
    "top": (
        "top with the {binder} and {garnish}",
        "spoon over the {binder} and scatter with {garnish}",
        "add a spoonful of {binder} and some {garnish}, then fold",
        "finish with {garnish} and plenty of {binder}",
    ),
    "boil pasta": (
        "boil the {staple} and mix with the {v1}, {v2} and {binder}",
        "cook the {staple}, drain, and stir in {binder}, {v1} and {v2}",
        "stir the {binder} through boiled {staple} with the {v1} and {v2}",
        "add the {v1}, the {v2}, the {binder} and the boiled {staple}",
    ),
    "patties": (
        "{prep} the {main} with the {s1} and {s2} and rest for {rest} minutes",
        "{prep} the {main}, season with {s1} and {s2} and leave for {rest} minutes",
        "{prep} the {main}, work in {s1} and {s2}, and chill {rest} minutes",
        "{prep} the {main}, mix with {s1} and {s2} and set aside for {rest} minutes",
    ),
    "grill": (
        "brush with {fat} and grill for {minutes} minutes over {heat} heat",
        "grill with a little {fat} for {minutes} minutes on {heat} heat",
        "on {heat} heat, grill for {minutes} minutes, basting with {fat}",
        "grease the grill with {fat} and cook over {heat} heat for {minutes} minutes",
    ),
    "buns": (
        "fill the {staple} with the {v1}, {v2}, {binder} and {garnish}",
        "split the {staple}, spread with {binder} and stack with {v1}, {v2} and {garnish}",
        "serve in {staple} with {v1} and {v2}, a spoonful of {binder} and some {garnish}",
        "layer {v1}, {v2} and {garnish} in the toasted {staple} and add {binder}",
    ),
    "pour over": (
        "pour over the {binder} with {s1} and {s2}",
        "stir {s1} and {s2} into the {binder} and pour over",
        "season with {s1} and {s2} and cover with the {binder}",
        "mix the {binder} with a pinch of {s1} and {s2} and spread over",
    ),
    "cheese crust": (
        "cover with the {staple}",
        "grate the {staple} over the top",
        "finish with a thick layer of {staple}",
        "scatter the {staple} over everything",
    ),
    "noodles": (
        "add the {staple}, cook {rest} minutes and finish with {garnish}",
        "drop in the {staple} for {rest} minutes and top with {garnish}",
        "stir in the {staple}, and after {rest} minutes serve with {garnish}",
        "cook the {staple} in the soup for {rest} minutes and scatter over {garnish}",
    ),
    "marinate": (
        "marinate the {main} for {rest} minutes in {binder} with {s1} and {s2}",
        "mix the {binder}, {s1} and {s2} and leave the {main} in it for {rest} minutes",
        "coat the {main} with {binder}, {s1} and {s2} and set aside for {rest} minutes",
        "stir {s1} and {s2} into the {binder}, add the {main} and wait {rest} minutes",
    ),
    "thread": (
        "thread with the {v1} and {v2}",
        "thread everything in turn with {v1} and {v2}",
        "slide onto skewers, alternating with {v1} and {v2}",
        "thread onto sticks between pieces of {v1} and {v2}",
    ),
    "serve": (
        "serve with {staple} and {garnish}",
        "bring to the table with warm {staple} and {garnish}",
        "scatter with {garnish} and wrap in {staple}",
        "pile onto the {staple} and finish with {garnish}",
    ),
    "add rice": (
        "add the {v1}, {v2} and {staple}",
        "stir in the {v1} and {v2}, then the cold {staple}",
        "tip in the {staple} with the {v1} and {v2}",
        "add the {staple}, then the {v1} and {v2}",
    ),
    "fry rice": (
        "fry for {minutes} minutes over {heat} heat",
        "keep everything moving on {heat} heat for {minutes} minutes",
        "stir and fry {minutes} minutes on {heat} heat",
        "cook over {heat} heat, tossing often, for {minutes} minutes",
    ),
    "season rice": (
        "season with the {binder}, rest {rest} minutes and top with {garnish}",
        "stir in the {binder}, and after {rest} minutes serve with {garnish}",
        "add the {binder} and {garnish} and let it stand for {rest} minutes",
        "splash in the {binder}, cover for {rest} minutes and finish with {garnish}",
    ),
    "filling": (
        "mix with the {v1}, {v2} and boiled {binder}",
        "boil the {binder} and stir in with the {v1} and {v2}",
        "add the {v1} and {v2} and bind with cooked {binder}",
        "fold in the {v1} and {v2} with the boiled {binder}",
    ),
    "fill peppers": (
        "fill the {staple} with the mixture",
        "hollow out the {staple} and spoon in the filling",
        "stuff the {staple} and set them in a dish",
        "pack it all into the {staple}",
    ),
    "line tin": (
        "{prep} the {main} and spread over the {fat} with the {v1} and {v2}",
        "line a tin with {fat}, then {prep} the {main} and add with {v1} and {v2}",
        "press the {fat} into a tin, {prep} the {main} and layer with {v1} and {v2}",
        "scatter the {v1} and {v2} over the {fat}, then {prep} the {main} and add",
    ),
    "custard": (
        "beat the {staple} with the {binder}, {s1} and {s2} and pour over",
        "whisk {binder} and {staple}, season with {s1} and {s2} and pour in",
        "pour over the {staple}, beaten with {binder}, {s1} and {s2}",
        "stir {s1} and {s2} into the {binder}, beat in the {staple} and add",
    ),
}

RICH: dict[str, tuple[str, ...]] = {
    "pizza": ("spread dough", "lay on", "cheese", "bake", "rest"),
    "curry": ("brown", "add liquid", "simmer", "rest and serve"),
    "soup": ("soften", "into the pot", "simmer", "rest and serve"),
    "stew": ("brown alone", "vegetables and spices", "stew", "rest and serve"),
    "pie": ("brown", "add liquid", "lid", "bake", "rest"),
    "risotto": ("brown with vegetables", "toast rice", "ladle", "rest"),
    "stir fry": ("scent fat", "wok", "toss", "rest and serve"),
    "omelette": ("brown with vegetables", "beat eggs", "set eggs", "fold"),
    "salad": ("fry", "mix grain", "dress", "chill"),
    "tacos": ("rub", "fry", "tortillas", "top"),
    "pasta bake": ("brown", "boil pasta", "bake", "rest"),
    "burger": ("patties", "grill", "buns"),
    "gratin": ("brown with vegetables", "pour over", "cheese crust", "bake", "rest"),
    "noodle soup": ("brown", "add liquid", "simmer", "noodles"),
    "skewers": ("marinate", "thread", "grill", "serve"),
    "fried rice": ("brown", "add rice", "fry rice", "season rice"),
    "stuffed peppers": ("brown", "filling", "fill peppers", "bake", "rest"),
    "quiche": ("line tin", "custard", "bake", "rest"),
}

Forms = tuple[tuple[str, ...], ...]


def forms(dish: str, rich: bool) -> Forms:
    """The alternatives of the title, then of each step, in order."""
    if rich:
        return (TITLE_RICH, *(SENTENCES[name] for name in RICH[dish]))
    return ((TITLE_PLAIN,), *((step,) for step in PLAIN[dish].split(". ")))
