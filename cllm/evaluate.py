"""How much of a text its vector carries, on held-out texts only, beside what it must beat.

The baselines stand in the same table: the nearest training text (in the latent
and by TF-IDF), shuffled vectors, and the better of two decoders without a vector.
"""

# Shapes: N held-out texts, T tokens, D bottleneck, K prefix length.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.losses import nats_given, null_nats, prefix_lengths
from cllm.metrics import METRICS, Interval, TextScores, bootstrap, score_texts
from cllm.model import CLLM
from cllm.pretrain import token_texts
from cllm.reference import ReferenceLM
from cllm.retrieval import RetrievalScores, TfidfIndex, latent_nearest, retrieval_scores
from cllm.sphere import ExactIndex, angle
from cllm.store import Latents

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Numbers for report.json's `reconstruction`, and pairs of (text, restored text)."""

    numbers: dict[str, Any]
    pairs: list[tuple[str, str]]


def evaluate(
    model: CLLM,
    reference: ReferenceLM,
    corpus: Corpus,
    latents: Latents,
    rng: np.random.Generator,
    split: str = "test",
    limit: int = 1000,
) -> Evaluation:
    """Every reconstruction metric of the design on `limit` texts of a split at most."""
    part = corpus.select(split)
    part = part.sample(limit)
    tokens = token_texts(model.base, part, model.config.context)
    references = _as_cut(model, part.texts)
    vectors_ND = model.encode_tokens(tokens)
    rows = model.decode_tokens(vectors_ND)
    texts = model.base.to_text(rows)
    scores = score_texts(references, texts, [list(r) for r in tokens.rows], rows)
    train = latents.select("train")
    found = _retrieval(references, vectors_ND, train, model)
    numbers: dict[str, Any] = {"n": len(part), "split": split, "cut": tokens.cut}
    numbers |= _with_intervals(scores, rng) | found.values()
    for metric in ("content_f1", "bleu"):
        gap = found.advantage(metric, scores, rng)
        numbers |= _named(f"{metric}_minus_retrieval", gap)
    entropy = corpus.info.get("entropy_nats")
    numbers |= carried(model, reference, tokens, vectors_ND, entropy, rng)
    numbers |= _shuffled(model, references, tokens, vectors_ND, rng)
    if trip := round_trip(model, vectors_ND, texts, train.vectors_ND):
        numbers["round_trip"] = trip
    return Evaluation(numbers, list(zip(references, texts, strict=True)))


def carried(
    model: CLLM, reference: ReferenceLM, tokens: TokenTexts, vectors_ND: NDArray[np.float32],
    entropy: float | None, rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Information carried by the vector, in nats a text, and how well the array is restored."""
    given_N = nats_given(model, tokens, vectors_ND)
    null_N, reference_N = null_nats(model, tokens), reference.nats(tokens)
    prefixes = [k for k in prefix_lengths(model.config.dim) if model.config.nested]
    by_prefix = {k: nats_given(model, tokens, model.lift(vectors_ND[:, :k])) for k in prefixes}
    shuffled_N = nats_given(model, tokens, vectors_ND[_derangement(len(tokens), rng)])
    fit = restored_array(model, tokens)
    without_N = min((null_N, reference_N), key=lambda nats_N: float(nats_N.mean()))
    if entropy is not None and entropy < without_N.mean():  # no text costs more than it must
        without_N = np.full(len(tokens), entropy)
    gain = bootstrap(without_N - given_N, rng)
    numbers = _named("gain_nats", gain) | {
        "nats_per_dim": gain.mean / model.config.dim,
        "nats_with_vector": float(given_N.mean()),
        "nats_null_vector": float(null_N.mean()),
        "nats_reference_lm": float(reference_N.mean()),
        "nats_shuffled_vectors": float(shuffled_N.mean()),
        "gain_by_prefix": {str(k): float((without_N - n).mean()) for k, n in by_prefix.items()},
        "forced_token_accuracy": fit["forced_token_accuracy"],
    }
    return numbers | ({"array_r2": fit["array_r2"]} if "array_r2" in fit else {})


@torch.inference_mode()
def restored_array(model: CLLM, tokens: TokenTexts) -> dict[str, float]:
    """Variance of all held-out token embeddings explained, and forced token accuracy."""
    width = model.config.width
    total_H, squares_H = torch.zeros(width).double(), torch.zeros(width).double()
    error = right = 0.0
    for _, part in tokens.in_order(64):
        moved = part.to(model.device)
        array_BTH = model.base.embed(moved.ids_BT, moved.mask_BT)
        memory_BMH = model.decode_array(model.encode_array(array_BTH, moved.mask_BT))
        best_BT = model.base.logits(memory_BMH, moved.ids_BT).argmax(-1)
        right += float(((best_BT == moved.ids_BT) & moved.mask_BT).sum())
        if model.config.form == "mirrored":
            real_NH = array_BTH[moved.mask_BT].double().cpu()
            restored_NH = memory_BMH[:, : array_BTH.shape[1]][moved.mask_BT].double().cpu()
            total_H += real_NH.sum(0)
            squares_H += real_NH.square().sum(0)
            error += float((restored_NH - real_NH).square().sum())
    numbers = {"forced_token_accuracy": right / tokens.tokens}
    if model.config.form != "mirrored":  # slots restore no array
        return numbers
    spread = float((squares_H - total_H.square() / tokens.tokens).sum())
    return numbers | {"array_r2": 1 - error / spread}


def round_trip(
    model: CLLM, vectors_ND: NDArray[np.float32], texts: list[str], train_ND: NDArray[np.float32]
) -> float | None:
    """Median angle between E(D(z)) and z, over the texts' median nearest-neighbour angle.

    None where most texts have a twin, which would make that 0.
    """
    again_ND = model.encode([text or " " for text in texts])
    unit = ExactIndex(train_ND).median_nearest()
    return float(np.median(angle(again_ND, vectors_ND)) / unit) if unit else None


def _retrieval(
    references: list[str], vectors_ND: NDArray[np.float32], train: Latents, model: CLLM
) -> RetrievalScores:
    train_texts = _as_cut(model, train.texts)  # else longer texts would be held against it
    by_words = TfidfIndex(train_texts).nearest(references)[1][:, 0]
    by_latent = latent_nearest(vectors_ND, train.vectors_ND)[1][:, 0]
    rows = {"latent": by_latent, "tfidf": by_words}
    return retrieval_scores(references, train_texts, rows, lambda t: model.base.tokenize(list(t)))


def _as_cut(model: CLLM, texts: Sequence[str]) -> list[str]:
    """Texts as the model sees them: cut to its context."""
    return model.base.to_text([list(row) for row in model.tokens(texts).rows])


def _shuffled(
    model: CLLM, references: list[str], tokens: TokenTexts, vectors_ND: NDArray[np.float32],
    rng: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    """Control: the same scores when each text is decoded from another text's vector."""
    rows = model.decode_tokens(vectors_ND[_derangement(len(tokens), rng)])
    scores = score_texts(references, model.base.to_text(rows), [list(r) for r in tokens.rows], rows)
    return {f"shuffled_{m}": scores.value(m) for m in ("exact_match", "content_f1", "bleu")}


def _derangement(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A cyclic shift of a random order: nobody keeps their own."""
    order_N = rng.permutation(n)
    given_N = np.empty(n, np.int64)
    given_N[order_N] = np.roll(order_N, 1)
    return given_N


def _with_intervals(scores: TextScores, rng: np.random.Generator) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for metric in METRICS:
        numbers |= _named(metric, scores.interval(metric, rng))
    return numbers


def _named(name: str, interval: Interval) -> dict[str, Any]:
    return {name: interval.mean, f"{name}_ci": interval.ci}
