"""What the pizza experiment comes to: differences over topics with intervals, and in words."""

# Shapes: P topics.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cllm.metrics import bootstrap

Facts = Mapping[str, Any]
FLOORS = ("e1_d1", "random", "permuted")  # what an arm has to beat; permuted ones by kind
KINDS = ("alone", "mixed")  # what the second model is trained on with
LEARNT = 0.05  # of content F1: by less the second model restores no better
MUST_NOT_COUNT = ("others", "its words shuffled", "other words shuffled", "another domain")


def summary(found: Sequence[Facts]) -> dict[str, Any]:
    """By base and by kind of second model, over topics, on texts that no model has seen."""
    bases = sorted({one["base"] for one in found})
    return {
        base: {kind: _compared([one for one in found if one["base"] == base], kind)
               for kind in KINDS}
        for base in bases
    }  # fmt: skip


def _compared(found: Sequence[Facts], kind: str) -> dict[str, Any]:
    """Means over topics; the unseen ones, and hits of the ones that the second model saw."""

    def arm(one: Facts, name: str, what: str, part: str = "unseen") -> float:
        arms = one["arms"][part]
        return float(arms[name if name in arms else f"{name} {kind}"][what])

    def over_floor(one: Facts, part: str = "unseen") -> float:
        floor = max(arm(one, name, "hit", part) for name in FLOORS)
        return arm(one, "e2_d1", "hit", part) - floor

    def drift(one: Facts) -> float:
        others = one["others"]
        before = others["e1_d1"]["content_f1"]
        return float(others[f"e2_d1 {kind}"]["content_f1"] / max(before, 1e-9))

    def inside(one: Facts, name: str) -> float:
        return float(one["where"][name]["in_void"])

    def over_others(one: Facts, encoder: str) -> float:
        others = [inside(one, f"{name}, {encoder}") for name in MUST_NOT_COUNT]
        return inside(one, f"topic, {encoder}") - max(others)

    encoders = {"E1": "E1", "E2": f"E2 {kind}"}

    measures: dict[str, Callable[[Facts], float]] = {
        **{f"hit {name}": lambda one, name=name: arm(one, name, "hit")
           for name in ("e1_d1", "e2_d1", "e2_d2", "affine", "permuted", "random")},
        **{f"content_f1 {name}": lambda one, name=name: arm(one, name, "content_f1")
           for name in ("e1_d1", "e2_d1", "e2_d2", "affine", "permuted", "random")},
        "hit e2_d1 less best floor": over_floor,
        "hit e2_d1 less best floor, texts that CLLM2 saw": lambda one: over_floor(one, "seen"),
        "content_f1 e2_d1 less e1_d1": lambda one: (
            arm(one, "e2_d1", "content_f1") - arm(one, "e1_d1", "content_f1")
        ),
        "gain_nats e2_d1 less e1_d1": lambda one: (
            arm(one, "e2_d1", "gain_nats") - arm(one, "e1_d1", "gain_nats")
        ),
        "content_f1 of others, e2_d1 over e1_d1": drift,
        **{f"in voids, {name}, {short}": lambda one, at=f"{name}, {encoder}": inside(one, at)
           for short, encoder in encoders.items() for name in ("topic", *MUST_NOT_COUNT)},
        **{f"in voids, {short}, less the most of what must not count":
           lambda one, encoder=encoder: over_others(one, encoder)
           for short, encoder in encoders.items()},
    }  # fmt: skip
    rng = np.random.default_rng(0)
    return {name: _interval([of(one) for one in found], rng) for name, of in measures.items()}


def _interval(values: Sequence[float], rng: np.random.Generator) -> dict[str, Any]:
    """Over topics; one topic has no interval."""
    told: dict[str, Any] = {"mean": float(np.mean(values)), "topics": len(values)}
    if len(values) > 1:
        told["ci"] = bootstrap(np.array(values), rng).ci
    return told


def in_words(told: Facts) -> list[str]:
    """Did the text come back, and did it lie in a void? A line for each base and kind."""
    return [_line(base, kind, one) for base, kinds in told.items() for kind, one in kinds.items()]


def _line(base: str, kind: str, one: Facts) -> str:
    def number(name: str) -> str:
        ci = one[name].get("ci")
        interval = f" [{ci[0]:.2f}, {ci[1]:.2f}]" if ci else ""
        return f"{one[name]['mean']:.2f}{interval}"

    def surely(name: str) -> bool:
        return bool(one[name].get("ci", (-1,))[0] > 0)

    def lay(encoder: str) -> str:
        others = ", ".join(number(f"in voids, {name}, {encoder}") for name in MUST_NOT_COUNT)
        share = number(f"in voids, topic, {encoder}")
        return f"{encoder}: {share} of them, of what must not count {others}"

    claim, came = "hit e2_d1 less best floor", "content_f1 e2_d1 less e1_d1"
    void = "in voids, E1, less the most of what must not count"
    back = "came back" if surely(claim) and surely(came) else "did not surely come back"
    there = "lay in voids" if surely(void) else "did not surely lie in voids"
    return (
        f"Base that {'saw' if base == 'seen' else 'never saw'} the topic, CLLM2 trained on with "
        f"the topic {'alone' if kind == 'alone' else 'and the rest'}: the topic's texts {back} "
        f"(E2→D1: hit {number('hit e2_d1')}, over the best floor {number(claim)}; content F1 "
        f"{number('content_f1 e2_d1')}, over E1→D1 {number(came)}; {_where_it_fails(one)}), and "
        f"{there} of the first model's space ({lay('E1')}; {lay('E2')}). Other texts kept "
        f"{number('content_f1 of others, e2_d1 over e1_d1')} of their content F1."
    )


def _where_it_fails(one: Facts) -> str:
    """What stands between the claim and its ceiling."""

    def f1(arm: str) -> float:
        return float(one[f"content_f1 {arm}"]["mean"])

    ceiling, claim, mapped, floor = map(f1, ("e2_d2", "e2_d1", "affine", "e1_d1"))
    if ceiling - floor < LEARNT:
        return "the second model restores them no better than the first: it learnt nothing"
    if ceiling <= claim:
        return "nothing is lost on the way"
    drift = min(1.0, max(0.0, mapped - claim) / (ceiling - claim))
    return (
        f"of what is lost before the ceiling of {ceiling:.2f}, an affine map brings back "
        f"{drift:.0%}: at least that much is the encoder's drift; the rest is drift of another "
        "kind, or a decoder that never wrote such texts"
    )
