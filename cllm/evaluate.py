"""How much of a text its vector carries, on held-out texts only, beside what it must beat.

The baselines stand in the same table: the nearest training text (in the latent
and by TF-IDF), shuffled vectors, and the better of two decoders without a vector.
"""

# Shapes: N held-out texts, T tokens, D bottleneck, K prefix length.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cllm.base import GREEDY, Generation
from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.losses import nats_given, null_nats, prefix_lengths
from cllm.metrics import METRICS, Interval, Metric, bootstrap, bootstrap_of, score_texts
from cllm.model import CLLM
from cllm.pretrain import token_texts
from cllm.reference import ReferenceLM
from cllm.retrieval import RetrievalScores, TfidfIndex, latent_nearest, retrieval_scores
from cllm.sphere import ExactIndex, angle
from cllm.store import Latents

COMPARED: tuple[Metric, ...] = ("content_f1", "bleu")  # with retrieval, text by text


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
    how: Generation = GREEDY,
) -> Evaluation:
    """Every reconstruction metric of the design on `limit` texts of a split at most."""
    part = corpus.select(split)
    part = part.sample(limit)
    tokens = token_texts(model.base, part, model.config.context)
    references = _as_cut(model, tokens)
    vectors_ND = model.encode_tokens(tokens)
    rows = model.decode_tokens(vectors_ND, how)
    texts = model.base.to_text(rows)
    scores = score_texts(references, texts, [list(r) for r in tokens.rows], rows)
    train = latents.select("train")
    found = _retrieval(references, vectors_ND, train, model)
    intervals: dict[str, Interval] = {m: scores.interval(m, rng) for m in METRICS}
    intervals |= found.intervals(rng)
    for metric in COMPARED:
        intervals[f"{metric}_minus_retrieval"] = found.advantage(metric, scores, rng)
    entropy = corpus.info.get("entropy_nats")
    gains, by_prefix = carried(model, reference, tokens, vectors_ND, entropy, rng)
    intervals |= gains | restored_array(model, tokens, rng)
    if trip := round_trip(model, vectors_ND, texts, train.vectors_ND, rng):
        intervals["round_trip"] = trip
    numbers: dict[str, Any] = {"n": len(part), "split": split, "cut": tokens.cut}
    if how != GREEDY:
        numbers["beams"] = how.beams
    for name, interval in intervals.items():
        numbers |= {name: interval.mean, f"{name}_ci": interval.ci}
    numbers["gain_by_prefix"] = {str(k): gain.mean for k, gain in by_prefix.items()}
    numbers["gain_by_prefix_ci"] = {str(k): gain.ci for k, gain in by_prefix.items()}
    if len(part) > 1:
        numbers |= _shuffled(model, references, tokens, vectors_ND, rng)
    return Evaluation(numbers, list(zip(references, texts, strict=True)))


def carried(
    model: CLLM, reference: ReferenceLM, tokens: TokenTexts, vectors_ND: NDArray[np.float32],
    entropy: float | None, rng: np.random.Generator,
) -> tuple[dict[str, Interval], dict[int, Interval]]:  # fmt: skip
    """Information carried by the vector, in nats a text; and the gain by its first k coordinates.

    A plain model has no prefixes: then only the whole length is there.
    """
    dim = model.config.dim
    given_N = nats_given(model, tokens, vectors_ND)
    null_N, reference_N = null_nats(model, tokens), reference.nats(tokens)
    without_N = cheapest(null_N, reference_N, entropy)
    gain_N = without_N - given_N
    values = {
        "gain_nats": gain_N,
        "nats_per_dim": gain_N / dim,
        "nats_with_vector": given_N,
        "nats_null_vector": null_N,
        "nats_reference_lm": reference_N,
    }
    if len(tokens) > 1:
        shuffled_ND = vectors_ND[_derangement(len(tokens), rng)]
        values["nats_shuffled_vectors"] = nats_given(model, tokens, shuffled_ND)
    if entropy is not None:
        values["gain_over_entropy"] = gain_N / entropy
    lengths = [k for k in prefix_lengths(dim) if model.config.nested]
    gains = {
        k: without_N - nats_given(model, tokens, model.lift(vectors_ND[:, :k])) for k in lengths
    }
    return (
        {name: bootstrap(values_N, rng) for name, values_N in values.items()},
        {k: bootstrap(values_N, rng) for k, values_N in (gains | {dim: gain_N}).items()},
    )


def nats_without(
    model: CLLM, reference: ReferenceLM | None, tokens: TokenTexts, entropy: float | None
) -> NDArray[np.float64]:
    """What each text costs without its vector, (N,) nats: what gains are counted from."""
    null_N = null_nats(model, tokens)
    return cheapest(null_N, null_N if reference is None else reference.nats(tokens), entropy)


def cheapest(
    null_N: NDArray[np.float64], reference_N: NDArray[np.float64], entropy: float | None
) -> NDArray[np.float64]:
    """The cheaper of the null vector and the reference LM; the exact entropy where it is known."""
    without_N = min((null_N, reference_N), key=lambda nats_N: float(nats_N.mean()))
    if entropy is not None and entropy < without_N.mean():  # no text costs more than it must
        without_N = np.full(len(null_N), entropy)
    return without_N


@torch.inference_mode()
def restored_array(
    model: CLLM, tokens: TokenTexts, rng: np.random.Generator
) -> dict[str, Interval]:
    """Variance of all held-out token embeddings explained, and forced token accuracy."""
    count, width = len(tokens), model.config.width
    total_NH, squares_N = np.zeros((count, width)), np.zeros(count)
    error_N, right_N, length_N, places_N = np.zeros((4, count))
    for chosen_B, part in tokens.in_order(64):
        moved = part.to(model.device)
        array_BTH, mask_BT = model.base.arrays(moved)
        memory_BMH = model.decode_array(model.encode_array(array_BTH, mask_BT))
        best_BT = model.base.logits(memory_BMH, moved.ids_BT).argmax(-1)
        right_N[chosen_B] = ((best_BT == moved.ids_BT) & moved.mask_BT).sum(1).cpu().numpy()
        length_N[chosen_B] = part.mask_BT.sum(1).numpy()
        places_N[chosen_B] = mask_BT.sum(1).cpu().numpy()
        if model.config.form == "mirrored":
            real_BTH = array_BTH.double() * mask_BT[..., None]
            wrong_BTH = (memory_BMH[:, : array_BTH.shape[1]] - real_BTH) * mask_BT[..., None]
            total_NH[chosen_B] = real_BTH.sum(1).cpu().numpy()
            squares_N[chosen_B] = real_BTH.square().sum((1, 2)).cpu().numpy()
            error_N[chosen_B] = wrong_BTH.square().sum((1, 2)).cpu().numpy()

    def accuracy(rows: NDArray[np.int64]) -> float:
        return float(right_N[rows].sum() / length_N[rows].sum())

    def explained(rows: NDArray[np.int64]) -> float:
        of_mean = np.square(total_NH[rows].sum(0)).sum() / places_N[rows].sum()
        return float(1 - error_N[rows].sum() / (squares_N[rows].sum() - of_mean))

    found = {"forced_token_accuracy": bootstrap_of(accuracy, count, rng)}
    if model.config.form == "mirrored":  # slots restore no array
        found["array_r2"] = bootstrap_of(explained, count, rng)
    return found


def round_trip(
    model: CLLM, vectors_ND: NDArray[np.float32], texts: list[str], train_ND: NDArray[np.float32],
    rng: np.random.Generator,
) -> Interval | None:  # fmt: skip
    """Median angle between E(D(z)) and z, over the texts' median nearest-neighbour angle.

    None where most texts have a twin, which would make that 0.
    """
    again_ND = model.encode([text or " " for text in texts])
    moved_N, unit = angle(again_ND, vectors_ND), ExactIndex(train_ND).median_nearest()
    if not unit:
        return None
    return bootstrap_of(lambda rows: float(np.median(moved_N[rows])) / unit, len(moved_N), rng)


def _retrieval(
    references: list[str], vectors_ND: NDArray[np.float32], train: Latents, model: CLLM
) -> RetrievalScores:
    train_texts = _as_cut(
        model, model.tokens(train.texts)
    )  # else longer texts would be held against it
    by_words = TfidfIndex(train_texts).nearest(references)[1][:, 0]
    by_latent = latent_nearest(vectors_ND, train.vectors_ND)[1][:, 0]
    rows = {"latent": by_latent, "tfidf": by_words}
    return retrieval_scores(references, train_texts, rows, lambda t: model.base.tokenize(list(t)))


def _as_cut(model: CLLM, tokens: TokenTexts) -> list[str]:
    """Texts as the model sees them: cut to its context."""
    return model.base.to_text([list(row) for row in tokens.rows])


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
