"""What a round of self-improvement comes to: one dictionary for improve.json.

    loop.note(3, measured=measure(loop, 3))

Restoring is measured on real held-out texts, from what they cost before round 1; the checker of
built-in recipes measures here, and has chosen nothing.
"""

# Shapes: N held-out texts.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.arms import from_prior
from cllm.corpus import Corpus
from cllm.drift import Edits, TextSpace, carried_by, spread_of
from cllm.files import read_json, replacing
from cllm.further import made_part, real_part
from cllm.improve import Loop
from cllm.losses import text_nats
from cllm.metrics import bootstrap, bootstrap_of
from cllm.model import CLLM
from cllm.pretrain import token_texts
from cllm.retrieval import TfidfIndex
from cllm.writing import checker_of

Floats = NDArray[np.float64]

SPACE, UNAIDED = 5000, 200  # real texts that the space is learnt from; texts of random places
TEXTS = "measured.npz"  # values of each held-out text, for differences between rounds and loops


def measure(loop: Loop, number: int) -> dict[str, Any]:
    """All measures of one round; what cannot be measured is left out."""
    run = loop.round(number)
    model, corpus = run.load_model(), run.load_trained_corpus()
    real, made = real_part(corpus), made_part(corpus)
    values = _of_held_out(loop, model, real)
    with replacing(run.path / TEXTS) as new, new.open("wb") as file:
        np.savez_compressed(file, **values)  # type: ignore[arg-type]  # numpy's stubs
    first: dict[str, Floats] = dict(np.load(loop.round(0).path / TEXTS))
    rng = np.random.default_rng([loop.how.seed, 25])
    told: dict[str, Any] = {"round": number, "model": model.hash}
    told |= {name: _with_interval(values[name], rng) for name in values if name != "validation"}
    told["gain_ratio"], told["gain_ratio_ci"] = _ratio(values["gain_nats"], first["gain_nats"], rng)
    told["validation_ratio"] = float(values["validation"].mean() / first["validation"].mean())
    told["texts"] = {"real": len(real.select("train")), "made": len(made)}
    notes = loop.notes(number)
    told |= {name: notes[name] for name in ("decodes", "kept") if name in notes}
    train_ND = run.load_latents(model).select("train").vectors_ND
    places_ND = from_prior(train_ND, UNAIDED, np.random.default_rng([loop.how.seed, 26]))
    space = TextSpace.of(real.select("train").sample(SPACE).texts)
    told["unaided"] = _of_texts(loop, space, model.decode(places_ND), real)
    if number:
        written = [idea.text for idea in loop.written(number)]
        told["written"] = _of_texts(loop, space, written, real)
        kept = made.texts[len(made) - notes.get("kept", 0) :]
        told["taught"] = _of_texts(loop, space, kept, real)
        told["written"] |= _repeats(loop, number, written)
    return told | _found(loop, number, real)


def _of_held_out(loop: Loop, model: CLLM, real: Corpus) -> dict[str, Floats]:
    """Of each real test text, (N,); and the gain of each validation text."""
    yardstick = read_json(loop.yardstick)
    test = real.select("test").sample(loop.how.measured)
    tokens = token_texts(model.base, test, model.config.context)
    edits = Edits.of(model, tokens, yardstick["edits"])
    values = carried_by(model, tokens, test.texts, np.array(yardstick["test"]), edits)
    validation = real.select("validation").sample(loop.how.measured)
    tokens = token_texts(model.base, validation, model.config.context)
    return values | {"validation": np.array(yardstick["validation"]) - text_nats(model, tokens)}


def _with_interval(values_N: Floats, rng: np.random.Generator) -> dict[str, Any]:
    if not len(values_N):
        return {}
    found = bootstrap(values_N, rng)
    return {"mean": found.mean, "ci": found.ci}


def _ratio(now_N: Floats, first_N: Floats, rng: np.random.Generator) -> tuple[float, list[float]]:
    """Of means over the same texts, with its interval."""
    found = bootstrap_of(
        lambda rows: float(now_N[rows].mean() / first_N[rows].mean()), len(now_N), rng
    )
    return found.mean, found.ci


def _of_texts(loop: Loop, space: TextSpace, texts: Sequence[str], real: Corpus) -> dict[str, float]:
    """How many, how various, how far from real ones; valid by the checker where there is one."""
    held_out = real.select("test").sample(loop.how.measured).texts
    told = {"texts": float(len(texts))} | spread_of(space, texts, held_out)
    check = checker_of(real)
    if check and texts:
        told["valid"] = float(np.mean([not check(text) for text in texts]))
    return told


def _repeats(loop: Loop, number: int, written: Sequence[str]) -> dict[str, float]:
    """Share of the round's texts that are, or are too like, one that an earlier round wrote."""
    earlier = [idea.text for k in range(1, number) for idea in loop.written(k)]
    earlier = [text for text in earlier if text.strip()]
    if not earlier or not written:
        return {}
    limit = loop.notes(number)["duplicate_above"]
    likeness_n = TfidfIndex(earlier).nearest(list(written))[0][:, 0]
    return {"repeated": float(np.mean(likeness_n > limit))}


def _found(loop: Loop, number: int, real: Corpus) -> dict[str, Any]:
    """Withheld combinations that sound texts of this round and of all so far name."""
    check = checker_of(real)
    if check is None or "withheld" not in real.info:
        return {}
    found: set[tuple[str, str]] = set()
    decodes = 0
    for k in range(1, number + 1):
        decodes += int(loop.notes(k)["decodes"])
        texts = [idea.text for idea in loop.written(k) if idea.hit and not check(idea.text)]
        found |= real.withheld_in(texts)
    return {"withheld_so_far": len(found), "decodes_so_far": decodes}
