"""What a round of self-improvement comes to: one dictionary for improve.json.

    loop.note(3, measured=measure(loop, 3))

Restoring is measured on real held-out texts, from what they cost before round 1; the checker of
built-in recipes measures here, and has chosen nothing.
"""

# Shapes: N held-out texts, M edits of some of them, B texts of a batch, T tokens, D bottleneck.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cllm.arms import from_prior
from cllm.batches import TokenTexts
from cllm.content import content_f1, content_items
from cllm.corpus import Corpus
from cllm.diversity import TextSpace, spread_of
from cllm.files import read_json, replacing
from cllm.improve import Loop
from cllm.losses import nats_given, null_nats, text_nats
from cllm.made import made_part, real_part
from cllm.metrics import bootstrap, bootstrap_of
from cllm.model import CLLM
from cllm.pretrain import token_texts
from cllm.retrieval import TfidfIndex
from cllm.round_zero import watched
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
        told["written"] |= _repeats(loop, number, written, real.select("train").texts)
    return told | _found(loop, number, real)


def _of_held_out(loop: Loop, model: CLLM, real: Corpus) -> dict[str, Floats]:
    """Of each real test text, (N,); and the gain of each validation text."""
    yardstick = read_json(loop.yardstick)
    test = real.select("test").sample(loop.how.measured)
    tokens = token_texts(model.base, test, model.config.context)
    edits = Edits.of(model, tokens, yardstick["edits"])
    values = carried_by(model, tokens, np.array(yardstick["test"]), edits)
    validation = watched(real, loop.how.measured)
    tokens = token_texts(model.base, validation, model.config.context)
    return values | {"validation": np.array(yardstick["watched"]) - text_nats(model, tokens)}


def carried_by(
    model: CLLM, tokens: TokenTexts, without_N: Floats, edits: Edits
) -> dict[str, Floats]:
    """Of each held-out text, (N,): nats gained, content F1 free and forced, edits told apart.

    `without_N`: nats without a vector, of a yardstick that stays. An edit is told apart where the
    text is the cheaper of both, given its vector, or (`unaided`) the vector that says nothing.
    """
    vectors_ND = model.encode_tokens(tokens)
    texts = model.base.to_text([row.tolist() for row in tokens.rows])  # as they are cut
    given_N = nats_given(model, tokens, vectors_ND)
    free = model.decode(vectors_ND)
    edited_M = nats_given(model, edits.tokens, vectors_ND[edits.row_M])
    null_M = null_nats(model, edits.tokens)
    row_M = edits.row_M
    return {
        "gain_nats": without_N - given_N,
        "content_f1": _content(texts, free),
        "forced_content_f1": _content(texts, forced(model, tokens)),
        "told_apart": (given_N[row_M] < edited_M).astype(float),
        "told_apart_unaided": (null_nats(model, tokens)[row_M] < null_M).astype(float),
    }


def _content(texts: Sequence[str], others: Sequence[str]) -> Floats:
    pairs = zip(map(content_items, texts), map(content_items, others), strict=True)
    return np.array([content_f1(*pair) for pair in pairs])


@torch.inference_mode()
def forced(model: CLLM, tokens: TokenTexts, batch: int = 64) -> list[str]:
    """The likeliest token at each place of each text, given its vector and the tokens before."""
    found: list[str] = [""] * len(tokens)
    for chosen_B, part in tokens.in_order(batch):
        moved = part.to(model.device)
        memory_BMH = model.decode_array(model.vectors_of(moved))
        best_BT = model.base.logits(memory_BMH, moved.ids_BT).argmax(-1).cpu()
        lengths = part.mask_BT.sum(1).tolist()
        rows = [row[:length].tolist() for row, length in zip(best_BT, lengths, strict=True)]
        for row, text in zip(chosen_B, model.base.to_text(rows), strict=True):
            found[int(row)] = text
    return found


@dataclass(frozen=True)
class Edits:
    """Nearly real copies of held-out texts, and which text each is of."""

    tokens: TokenTexts
    row_M: NDArray[np.int64]

    @classmethod
    def of(cls, model: CLLM, tokens: TokenTexts, edits: Sequence[str | None]) -> Edits:
        """Of the texts that have one which differs within the context."""
        rows = [row for row, edit in enumerate(edits) if edit]
        token_rows = model.base.tokenize([edit for edit in edits if edit])
        names = [str(row) for row in rows]
        edited = model.base.texts(names, token_rows, model.config.context)
        kept = [
            place for place, row in enumerate(rows)
            if not np.array_equal(edited.rows[place], tokens.rows[row])
        ]  # fmt: skip
        return cls(edited.at(kept), np.array([rows[place] for place in kept], np.int64))


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


def _repeats(
    loop: Loop, number: int, written: Sequence[str], real: Sequence[str]
) -> dict[str, float]:
    """Share of the round's texts that are, or are too like, one that an earlier round wrote.

    By how rare words are in real texts, and what of these the first round called too like.
    """
    earlier = [idea.text for k in range(1, number) for idea in loop.written(k)]
    earlier = [text for text in earlier if text.strip()]
    if not earlier or not written:
        return {}
    limit = loop.notes(1)["duplicate_above"]
    likeness_n = TfidfIndex(earlier, real).nearest(list(written))[0][:, 0]
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
