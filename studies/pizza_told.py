"""What the pizza experiment comes to: a table, differences with intervals, and in words.

Intervals are over topics and their texts; of one topic over texts. The same topics and texts are
drawn for both bases, so that what the base buys is a paired difference.
"""

# Shapes: P topics, S draws, n texts of a set.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.metrics import few

Facts = Mapping[str, Any]
Rows = Mapping[str, NDArray[np.int64]]  # drawn, of each set of texts
Measure = Callable[[Facts, Rows], float]
FLOORS = ("e1_d1", "random", "permuted")  # what an arm has to beat; permuted ones by kind
KINDS = ("alone", "mixed")  # what the second model is trained on with
ARMS = {"e1_d1": "E1→D1: never saw it", "random": "random vectors→D1",
        "permuted": "permuted E2→D1", "e2_d1": "E2→D1: the claim",
        "affine": "E2→affine map→D1", "e2_d2": "E2→D2: ceiling"}  # fmt: skip
SCORES = ("hit", "content_f1", "gain_nats")
SET_OF = {"topic": "unseen", "others": "others", "its words shuffled": "unseen",
          "other words shuffled": "others", "another domain": "domain"}  # fmt: skip
MUST_NOT_COUNT = tuple(name for name in SET_OF if name != "topic")
LYING = {"in_void": "in voids", "in_found": "in voids that were found"}
CLAIMED = 0.3  # of hits over the best floor: by less some texts came back, and not the topic
LEARNT = 0.05  # of content F1: by less the second model restores no better
DRAWS = 500
SURE = (0.025, 0.975)


def summary(found: Sequence[Facts]) -> dict[str, Any]:
    """By base and by kind of second model, on texts that no model has seen; seen less blind base.

    `found`: the facts of each topic over each base.
    """
    by_base: dict[str, dict[str, Facts]] = {}
    for one in found:
        by_base.setdefault(one["base"], {})[one["topic"]] = one
    topics = list(dict.fromkeys(one["topic"] for one in found))
    sizes = {topic: _sizes(next(iter(by_base.values()))[topic]) for topic in topics}
    rng, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        chosen = rng.integers(len(topics), size=len(topics))
        draws.append([
            (topics[row], {name: rng.integers(n, size=n) for name, n in sizes[topics[row]].items()})
            for row in chosen
        ])  # fmt: skip
    whole = [(topic, {name: np.arange(n) for name, n in sizes[topic].items()}) for topic in topics]
    told: dict[str, Any] = {}
    drawn: dict[tuple[str, str, str], NDArray[np.float64]] = {}
    for base, facts in by_base.items():
        told[base] = {}
        for kind in KINDS:
            told[base][kind] = {}
            for name, measure in measures(kind).items():

                def mean(units: Sequence[tuple[str, Rows]], measure: Measure = measure,
                         facts: Mapping[str, Facts] = facts) -> float:  # fmt: skip
                    return float(np.mean([measure(facts[topic], rows) for topic, rows in units]))

                drawn[base, kind, name] = np.array([mean(whole), *map(mean, draws)])
                told[base][kind][name] = _interval(drawn[base, kind, name], len(topics), name)
    if {"blind", "seen"} <= by_base.keys():
        told["seen − blind"] = {
            kind: {
                name: _interval(
                    drawn["seen", kind, name] - drawn["blind", kind, name], len(topics), "less"
                )
                for name in measures(kind)
            }
            for kind in KINDS
        }
    return told


def measures(kind: str) -> dict[str, Measure]:
    """Of one topic's facts and rows of its texts, for a kind of second model."""

    def arm(name: str, what: str, part: str = "unseen", drawn: str | None = None) -> Measure:
        def mean(one: Facts, rows: Rows) -> float:
            arms = one["arms"][part]
            scores = arms[name] if name in arms else arms[f"{name} {kind}"]
            return _mean(scores[what], rows[drawn or part])

        return mean

    def others(name: str) -> Measure:
        return lambda one, rows: _mean(one["others"][name]["content_f1"], rows["others"])

    found: dict[str, Measure] = {
        f"{what} {name}": arm(name, what) for what in SCORES for name in ARMS
    }
    for part, of in (("unseen", ""), ("seen", ", texts that CLLM2 saw")):
        floors = [arm(name, "hit", part) for name in FLOORS]
        found[f"hit e2_d1 less best floor{of}"] = _less(arm("e2_d1", "hit", part), *floors)
        for what in SCORES[1:]:
            found[f"{what} e2_d1 less e1_d1{of}"] = _less(
                arm("e2_d1", what, part), arm("e1_d1", what, part)
            )
    after, before = others(f"e2_d1 {kind}"), others("e1_d1")
    found["content_f1 of others, e2_d1 over e1_d1"] = lambda one, rows: (
        after(one, rows) / max(before(one, rows), 1e-9)
    )
    for what in SCORES[:2]:
        found[f"{what} base alone"] = lambda one, rows, what=what: _mean(
            one["base_alone"][what], rows["unseen"]
        )
    found["content_f1 of others, base alone"] = others("base_alone")
    # a search takes long: the rest on the same few texts, which are the first ones
    found |= {f"content_f1 {name}, searched": arm(name, "content_f1", drawn="searched")
              for name in ARMS}  # fmt: skip
    for name, of in (("best", "searched"), ("best_others", "searched others")):
        found[f"content_f1 {name} vector, searched"] = lambda one, rows, name=name, of=of: _mean(
            one[name]["content_f1"], rows[of]
        )
    found["voids found"] = lambda one, _: float(one["where"]["voids"])
    return found | _lying(kind)


def _lying(kind: str) -> dict[str, Measure]:
    """Where texts lie in the first model's space, by either encoder."""

    def share(what: str, name: str, encoder: str) -> Measure:
        at = f"{name}, {encoder}"
        return lambda one, rows: _mean(one["where"][at][what], rows[SET_OF[name]])

    found: dict[str, Measure] = {}
    for what, told in LYING.items():
        for short, encoder in {"E1": "E1", "E2": f"E2 {kind}"}.items():
            each = {name: share(what, name, encoder) for name in SET_OF}
            found |= {f"{told}, {name}, {short}": one for name, one in each.items()}
            found[f"{told}, {short}, less the most of what must not count"] = _less(
                each["topic"], *(each[name] for name in MUST_NOT_COUNT)
            )
    return found


def _less(left: Measure, *right: Measure) -> Measure:
    """Than the most of the others."""
    return lambda one, rows: left(one, rows) - max(each(one, rows) for each in right)


def _sizes(one: Facts) -> dict[str, int]:
    """Texts of each set."""
    return {
        "seen": len(one["arms"]["seen"]["e1_d1"]["hit"]),
        "unseen": len(one["arms"]["unseen"]["e1_d1"]["hit"]),
        "others": len(one["others"]["e1_d1"]["hit"]),
        "searched": len(one["best"]["hit"]),
        "searched others": len(one["best_others"]["hit"]),
        "domain": len(one["where"]["another domain, E1"]["in_void"]),
    }


def _mean(values: Sequence[float], rows: NDArray[np.int64]) -> float:
    return float(np.asarray(values, np.float64)[rows].mean())


def _interval(value_S: NDArray[np.float64], topics: int, name: str) -> dict[str, Any]:
    """What was measured comes first, draws after it; few topics are stretched.

    Shares stay shares.
    """
    mean, wider = value_S[0], few(topics) if topics > 1 else 1.0
    low, high = mean + wider * (np.quantile(value_S[1:], SURE) - mean)
    if not any(word in name for word in ("less", "over", "gain_nats", "voids found")):
        low, high = max(low, 0.0), min(high, 1.0)
    return {"mean": float(mean), "ci": [float(min(low, mean)), float(max(high, mean))],
            "topics": topics}  # fmt: skip


def compact(one: Facts) -> dict[str, Any]:
    """One topic's facts with means in place of each text's numbers."""

    def mean(value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, Mapping):
            return {key: mean(inner) for key, inner in value.items()}
        if isinstance(value, list) and value and not isinstance(value[0], str):
            return float(np.mean(value))
        return value

    return {str(key): mean(value) for key, value in one.items()}


def table(told: Facts) -> list[str]:
    """Arms and measures of each base and kind, in Markdown."""
    columns = [(base, kind) for base in told if "−" not in base for kind in KINDS]
    heads = [f"{base} base, CLLM2 {kind}" for base, kind in columns]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    names = list(next(iter(next(iter(told.values())).values())))
    for name in names:
        cells = [cell(told[base][kind][name]) for base, kind in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def cell(one: Facts) -> str:
    """A mean and its interval."""
    low, high = one["ci"]
    return f"{one['mean']:.2f} [{low:.2f}, {high:.2f}]"


def in_words(told: Facts) -> list[str]:
    """Did the text come back, and did it lie in a void? A line for each base and kind."""
    lines = [
        _line(base, kind, one)
        for base, kinds in told.items() if "−" not in base for kind, one in kinds.items()
    ]  # fmt: skip
    for kind, one in told.get("seen − blind", {}).items():
        hit, f1 = (cell(one[name]) for name in
                   ("hit e2_d1 less best floor", "content_f1 e2_d1 less e1_d1"))  # fmt: skip
        lines.append(
            f"A base that saw the topic, less one that did not, CLLM2 {kind}: hit over the best "
            f"floor {hit}; content F1 over E1→D1 {f1}."
        )
    return lines


def verdict(kind: str, one: Facts) -> str:
    """The two answers in a line."""
    claim, came = one["hit e2_d1 less best floor"], "content_f1 e2_d1 less e1_d1"
    back = "did not surely come back"
    if claim["ci"][0] > 0 and _surely(one, came):
        share = one["hit e2_d1"]["mean"]
        back = "came back" if claim["mean"] >= CLAIMED else f"came back in {share:.0%} of cases"
    return f"CLLM2 {kind}: its texts {back}, and {_lay(one)}"


def _surely(one: Facts, name: str) -> bool:
    return bool(one[name]["ci"][0] > 0)


def _lay(one: Facts) -> str:
    """By either encoder: enclosed and above the threshold; and in a void that was found."""
    if not one["voids found"]["mean"]:
        return "no void was found that they could lie in"
    found = [
        f"{told} by {encoder}" for told in LYING.values() for encoder in ("E1", "E2")
        if _surely(one, f"{told}, {encoder}, less the most of what must not count")
    ]  # fmt: skip
    return f"lay {', and '.join(found)}" if found else "did not surely lie in voids"


def _line(base: str, kind: str, one: Facts) -> str:
    def lay(told: str, encoder: str) -> str:
        others = ", ".join(cell(one[f"{told}, {name}, {encoder}"]) for name in MUST_NOT_COUNT)
        share = cell(one[f"{told}, topic, {encoder}"])
        return f"{encoder}, {told}: {share} of them, of what must not count {others}"

    where = "; ".join(lay(told, encoder) for told in LYING.values() for encoder in ("E1", "E2"))
    return (
        f"Base that {'saw' if base == 'seen' else 'never saw'} the topic, {verdict(kind, one)}. "
        f"E2→D1: hit {cell(one['hit e2_d1'])}, over the best floor "
        f"{cell(one['hit e2_d1 less best floor'])}; content F1 {cell(one['content_f1 e2_d1'])}, "
        f"over E1→D1 {cell(one['content_f1 e2_d1 less e1_d1'])}; {where_it_fails(one)}. "
        f"Where they lie: {where}. Other texts kept "
        f"{cell(one['content_f1 of others, e2_d1 over e1_d1'])} of their content F1."
    )


def where_it_fails(one: Facts) -> str:
    """What stands between the claim and its ceiling: the encoder, or the first decoder.

    The best vectors that a search by gradient finds say what that decoder can write at all, at
    least; an affine map what of the encoder's share is drift of the simplest kind. All of the
    few texts that were searched for.
    """

    def f1(name: str) -> float:
        return float(one[f"content_f1 {name}"]["mean"])

    ceiling, claim, floor, affine, best = (
        f1(f"{name}, searched") for name in ("e2_d2", "e2_d1", "e1_d1", "affine", "best vector")
    )
    if ceiling - floor < LEARNT:
        return "the second model restores them no better than the first: it learnt nothing"
    if ceiling - claim < LEARNT:
        return "next to nothing is lost on the way"
    lost = ceiling - claim
    encoder, mapped = (min(lost, max(0.0, value - claim)) / lost for value in (best, affine))
    return (
        f"of the {lost:.2f} lost before the ceiling of {ceiling:.2f}, {encoder:.0%} and more is "
        "the encoder's, as the first decoder has vectors for that much (an affine map finds "
        f"{mapped:.0%}); the rest at most is the decoder's (best vectors of texts that it knows: "
        f"{f1('best_others vector, searched'):.2f}; its base alone writes these at "
        f"{f1('base alone'):.2f} from whole arrays)"
    )
