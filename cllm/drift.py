"""What a round of self-improvement did, measured on real held-out texts with a fixed yardstick.

space = TextSpace.of(real_train_texts)              # an encoder that no model has a part in
carried_by(model, tokens, without_N, edits)         # per text; without_N is round 0's
spread_of(space, texts, held_out)                   # diversity, and distance to real texts
"""

# Shapes: N held-out texts, n texts a model wrote, M more texts, B texts, T tokens, L of the space.
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cllm.batches import TokenTexts
from cllm.content import content_f1, content_items
from cllm.losses import nats_given, null_nats
from cllm.model import CLLM
from cllm.words import WORD

Floats = NDArray[np.float64]

DIMS = 64  # of the independent space
COMPARED = 100  # texts that a Vendi score is taken of: it grows with their number


@dataclass(frozen=True)
class TextSpace:
    """Latent semantic analysis of real training texts (Deerwester et al. 1990): no model's own."""

    pipeline: Any  # of scikit-learn

    @classmethod
    def of(cls, texts: Sequence[str]) -> TextSpace:
        """Fitted on these."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD.pattern)
        counts = words.fit_transform(texts)
        dims = max(1, min(DIMS, min(counts.shape) - 1))
        found = make_pipeline(words, TruncatedSVD(dims, random_state=0), Normalizer())
        found.fit(texts)
        return cls(found)

    def places(self, texts: Sequence[str]) -> Floats:
        """Unit vectors (n, L)."""
        return np.asarray(self.pipeline.transform(texts), np.float64)


def carried_by(
    model: CLLM, tokens: TokenTexts, texts: Sequence[str], without_N: Floats, edits: Edits
) -> dict[str, Floats]:
    """Of each held-out text, (N,): nats gained, content F1 free and forced, edits told apart.

    `without_N`: nats without a vector, of a yardstick that stays. An edit is told apart where the
    text is the cheaper of both, given its vector, or (`unaided`) the vector that says nothing.
    """
    vectors_ND = model.encode_tokens(tokens)
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
        edited = TokenTexts.of(names, token_rows, model.base.pad, model.config.context)
        kept = [
            place for place, row in enumerate(rows)
            if not np.array_equal(edited.rows[place], tokens.rows[row])
        ]  # fmt: skip
        chosen = TokenTexts(
            tuple(edited.names[place] for place in kept),
            tuple(edited.rows[place] for place in kept), edited.pad, edited.cut,
        )  # fmt: skip
        return cls(chosen, np.array([rows[place] for place in kept], np.int64))


def spread_of(space: TextSpace, texts: Sequence[str], real: Sequence[str]) -> dict[str, float]:
    """How various texts are and how far from real ones; nothing of fewer than two.

    `distinct_n`: share of their runs of n words that are different ones, of COMPARED texts at
    most, as `vendi` (Friedman & Dieng 2023), the effective number of them. `distance`: squared
    maximum mean discrepancy to real texts, unbiased, cubic kernel (Bińkowski et al. 2018).
    """
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2:
        return {}
    chosen = np.random.default_rng(0).permutation(len(texts))[:COMPARED]
    some = [texts[row] for row in chosen]
    found = {f"distinct_{n}": distinct(some, n) for n in (1, 2, 4)}
    found |= {"vendi": vendi(space.places(some)), "vendi_of": float(len(some))}
    return found | {"distance": discrepancy(space.places(texts), space.places(real))}


def distinct(texts: Sequence[str], n: int) -> float:
    """Different runs of `n` words over all of them (Li et al. 2016); 0 where there is none."""
    runs: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = WORD.findall(text.lower())
        runs.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return len(runs) / max(1, runs.total())


def vendi(places_nL: Floats) -> float:
    """Effective number of different texts, 1..n: exp of the entropy of their likeness' spectrum."""
    values_n = np.linalg.eigvalsh(places_nL @ places_nL.T / len(places_nL))
    share_n = values_n[values_n > 1e-12]
    return float(np.exp(-(share_n * np.log(share_n)).sum()))


def discrepancy(places_nL: Floats, others_ML: Floats) -> float:
    """Squared maximum mean discrepancy of two samples of 2 or more, without bias: may be < 0."""

    def mean(a: Floats, b: Floats, *, same: bool) -> float:
        kernel = (a @ b.T + 1) ** 3
        if not same:
            return float(kernel.mean())
        return float((kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1)))

    own, other = mean(places_nL, places_nL, same=True), mean(others_ML, others_ML, same=True)
    return own + other - 2 * mean(places_nL, others_ML, same=False)
