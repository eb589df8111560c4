"""Foretell how large a corpus's vectors have to be, in seconds, by the law; and how surely.

told = suggest(Path("texts.jsonl.gz"))
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cllm.base import BaseLM
from cllm.corpus import build_corpus
from cllm.errors import InputError
from cllm.reading import read_rows
from tune.choice import SHARE
from tune.families import SHIPPED_BASE, SPLIT
from tune.law import the_law, without_d
from tune.statistics import DIMS, dimensions, quick


def suggest(file: Path | None) -> dict[str, Any]:
    """D with its interval, what it rests on, and what lies outside of what was measured."""
    begun = time.perf_counter()
    if file is None:
        raise InputError("--suggest looks at a file of texts; name it with --corpus")
    corpus = build_corpus(read_rows(file), split=SPLIT)  # as the corpora of the law were
    facts, law = quick(corpus), the_law()
    if {*law.predictors} & {*DIMS}:
        facts |= dimensions(BaseLM.load(SHIPPED_BASE), corpus)
    d, low, high = (max(2, round(value)) for value in (law.predict(facts), *law.interval(facts)))
    texts, beyond = int(facts["texts"]), law.beyond(facts)
    if d > texts:
        beyond.insert(0, f"{d} coordinates are more than the {texts} training texts")
    return {
        "d": d, "d_interval": [low, high], "d_max": law.d_max,
        "rule": f"{SHARE} of the gain at d_max, whether or not texts come back",
        "predictors": {name: facts[name] for name in law.predictors},
        "d_max_to_try": min(texts, 2 ** math.ceil(math.log2(2 * d))),
        "statistics": facts, "extrapolates": beyond, "measured_without_d": without_d(),
        "law": {"offset": law.offset, "slopes": dict(zip(law.predictors, law.slopes, strict=True))},
        "seconds": time.perf_counter() - begun,
    }  # fmt: skip


def show(told: Mapping[str, Any]) -> None:
    """In a few lines."""
    from rich.console import Console

    console = Console()
    low, high = told["d_interval"]
    console.print(
        f"d = {told['d']} for {SHARE} of what {told['d_max']} coordinates gain; 95 % prediction "
        f"interval {low} to {high}"
    )
    by = ", ".join(f"{name} = {value:.4g}" for name, value in told["predictors"].items())
    console.print(f"by {by or 'no statistic: none foretells better than a constant'}")
    for line in told["extrapolates"]:
        console.print(f"extrapolates: {line}")
    if told["measured_without_d"]:
        console.print(f"of {', '.join(told['measured_without_d'])} no size gained anything")
    console.print(
        "measured over one small base, by the gain alone; for yours, and for texts that come back: "
        f"cllm tune --choose --d-max {told['d_max_to_try']}"
    )
