"""What a report's numbers amount to, in sentences; claims only what was measured.

verdict_in_words(report)[0]  # whether voids beat their control
"""

from __future__ import annotations

import math

from cllm.numbers import Numbers, number, with_interval
from cllm.run import DEFAULT_RUN
from cllm.voids import CHANCE

ANYWHERE = "cllm generate --anywhere --n 3 --novel --valid --hit"


def verdict_in_words(report: Numbers) -> list[str]:
    """What the run showed, the comparison with its control first; claims only what was measured."""
    parts = (
        _against_control(report.get("voids", {}), report.get("ideas", {})),
        _weakness(report.get("base", {})),
        _restoring(report.get("reconstruction", {})),
        _emptiness(report.get("voids", {})),
        _newness(report.get("ideas", {})),
        _elsewhere(report.get("voids", {}), report.get("ideas", {})),
    )
    return [part for part in parts if part] or ["Nothing has been measured yet."]


def _weakness(base: Numbers) -> str:
    if not base.get("weak_base_allowed"):
        return ""
    share = base.get("restored_tokens", 0.0)
    return (
        f"The base LLM restores only {share:.1%} of held-out tokens without any bottleneck, which "
        "was allowed: no vector can do better through it."
    )


def _restoring(found: Numbers) -> str:
    exact, mine = found.get("exact_match"), found.get("content_f1")
    theirs = found.get("retrieval_content_f1")
    parts = []
    if exact is not None:
        parts.append(f"{exact:.0%} of the held-out texts come back word for word from their vector")
    if mine is not None:
        retrieved = f", against {number(theirs)} for the nearest training text"
        against = retrieved if theirs is not None else ""
        parts.append(f"their content comes back with F1 {mine:.3f}{against}")
        if theirs is not None and mine < theirs:
            parts.append("so the vector carries too little yet: train longer")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _emptiness(found: Numbers) -> str:
    count, p_value = found.get("count"), found.get("p_value")
    if count is None:
        return ""
    enclosed = found.get("enclosed", count)
    if not enclosed:
        return "No void was found."
    places = "One enclosed place" if enclosed == 1 else f"{enclosed:,} enclosed places"
    text = f"{places} without texts {'was' if enclosed == 1 else 'were'} found"
    if p_value is None:
        return f"{text}; whether chance explains this was not measured."
    if count:
        return f"{text}, {count:,} emptier than chance explains (p ≤ {CHANCE:g} each)."
    return f"{text}, none emptier than chance explains (p = {p_value:.2g})."


def _newness(arms: Numbers) -> str:
    void = arms.get("void", {})
    sampled, novel = void.get("sampled"), void.get("novel")
    if not sampled or novel is None:
        return ""
    share = f"{novel:,} ({novel / sampled:.0%})"
    text = f"Of {sampled:,} texts written from voids, {share} are valid and new"
    if (hit := void.get("hit")) is not None:
        text += f"; {hit:,} of all land nearer to where they were sampled than to any text"
    prior = arms.get("prior", {})
    if prior.get("sampled") and prior.get("novel") is not None:
        text += (
            f". From the whole cloud {prior['novel']:,} of {prior['sampled']:,} are valid and new"
        )
    return f"{text}."


def _elsewhere(found: Numbers, arms: Numbers) -> str:
    """Where texts from voids are to be had if this run has none."""
    if not _nothing_written(found, arms.get("void", {})):
        return ""
    return (
        "--aim voids trains a model that leaves room for texts there. One of built-in recipes "
        f"ships, and is taken where there is no {DEFAULT_RUN}: {ANYWHERE}"
    )


def _against_control(found: Numbers, arms: Numbers) -> str:
    """Voids against equally crowded places that are not empty, or why that cannot be said."""
    void, density = arms.get("void", {}), arms.get("density", {})
    mine, theirs = void.get("yield"), density.get("yield")
    if nothing := _nothing_written(found, void):
        return f"Nothing is written from voids: {nothing}."
    if mine is None or "density" not in arms:
        return ""
    if theirs is None:
        return (
            f"Whether voids beat equally crowded places that are not empty is not known: no such "
            f"place was matched; {mine:.0%} of the texts from voids are valid, new and in place."
        )
    low, high = void.get("lift_ci", (0.0, math.inf))
    said = "do not beat equally crowded places that are not empty"
    if low > 1:
        said = "beat equally crowded places that are not empty"
    elif high < 1:
        said = "give fewer new texts than equally crowded places that are not empty"
    text = (
        f"With this model voids {said}: {mine:.0%} of their texts are valid, new and in place, "
        f"against {theirs:.0%}"
    )
    if "lift" in void:
        text += f" (lift {with_interval(void, 'lift')})"
    if "withheld" in void:
        text += (
            f"; {withheld_of(void)} of these fall into combinations that the corpus withholds, "
            f"against {withheld_of(density)}"
        )
    return f"{text}."


def _nothing_written(found: Numbers, void: Numbers) -> str:
    """Why the void arm has no text; "" where it has some, or was not tried."""
    if void.get("sampled"):
        return ""
    if found.get("count") == 0 and found.get("p_value") is not None:
        return "no empty place is emptier than chance explains"
    if void.get("sampled") is None:
        return ""
    if void.get("starts") == 0:
        return "no place is empty enough to start from"
    if void.get("likely") == 0:
        return "no text written from one is plausible"
    return "no place in one stays there when it is decoded"


def withheld_of(arm: Numbers) -> str:
    """Of an arm's new texts, those in withheld combinations, such as "62 of 308"."""
    new = arm.get("yield", arm.get("new_share", 0.0)) * arm["sampled"]
    return f"{arm['withheld']:,} of {round(new):,}"
