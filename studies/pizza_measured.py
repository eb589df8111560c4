"""What is measured of the pizza experiment's two models, text by text.

found = Measured(topic, first, {"alone": second}, most=300, seed=0).told(draw)
"""

# Shapes: N texts, n texts measured, D coordinates, S starts.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cllm.base import BaseLM, Tokens
from cllm.batches import TokenTexts
from cllm.field import Field
from cllm.losses import nats_given, null_nats
from cllm.metrics import score_texts
from cllm.model import CLLM
from cllm.noise import text_keys
from cllm.pretrain import rewritten
from cllm.settling import filled
from cllm.sphere import prefix, unit
from cllm.void_balls import void_around
from cllm.voids import Void, VoidSettings, find_voids
from studies.topics import Classifier, Topic, of_another_domain, shuffled

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Picture = Callable[[Mapping[str, Any], Vectors, Mapping[str, Vectors], Sequence[Void]], None]
RIDGE = 1e-3  # of the affine map
FITTED = 4000  # other texts that it is fitted on, at most
SEARCHED = 24  # texts of the topic, and others, whose best vectors are sought
STRIDES, STRIDE = 80, 0.02  # of that search


class Measured:
    """Both models, their decoders, and what is measured of them, text by text."""

    def __init__(
        self, topic: Topic, first: CLLM, seconds: Mapping[str, CLLM], most: int, seed: int
    ) -> None:
        """`most`: texts of a kind that are measured, at most."""
        self.topic, self.first, self.seconds = topic, first, seconds
        self.most, self.seed = most, seed
        self.classifier = Classifier(topic)
        self.others = topic.rest.select("test").sample(most).texts
        fitted = topic.rest.select("train").sample(FITTED).texts
        self.fitted_ND = first.encode(fitted)
        self.fitted = {kind: second.encode(fitted) for kind, second in seconds.items()}
        self.sets = {"seen": _some(topic.seen, most), "unseen": _some(topic.unseen, most)}
        self.null: dict[tuple[str, Sequence[str]], Floats] = {}

    def told(self, picture: Picture) -> dict[str, Any]:
        """Arms, drift, where texts lie, and what the first decoder can write at all.

        `picture` gets the facts, the cloud's and the texts' prefixes, and the voids that stand.
        """
        test, own_nD = self.topic.rest.select("test").texts, self.first.encode(self.others)
        others = {"e1_d1": self._scores(self.first, own_nD, self.others)}
        for kind, second in self.seconds.items():
            vectors_nD = second.encode(self.others)
            others[f"e2_d1 {kind}"] = self._scores(self.first, vectors_nD, self.others)
        others["base_alone"] = self._of_base(self.others)
        some, known = self.sets["unseen"][:SEARCHED], self.others[:SEARCHED]
        best_nD, best_known_nD = self._best(some), self._best(known)
        found: dict[str, Any] = {
            "classifier": {
                "hits": float(self.classifier(self.topic.unseen).mean()),
                "false_alarms": float(self.classifier(test).mean()),
            },
            "arms": {name: self._arms(texts) for name, texts in self.sets.items()},
            "others": others, "best": self._scores(self.first, best_nD, some),
            "best_others": self._scores(self.first, best_known_nD, known),
            "base_alone": self._of_base(self.sets["unseen"]),
        }  # fmt: skip
        found["where"], cloud_NK, flat, standing = self._where(best_nD)
        picture(found, cloud_NK, flat, standing)
        return found

    def _arms(self, texts: Sequence[str]) -> dict[str, Any]:
        """What decoders write of the topic's texts, by arm; arms of CLLM2 by its kind."""
        first, rng = self.first, np.random.default_rng([self.seed, 8])
        own_nD = first.encode(texts)
        arms = {
            "e1_d1": self._scores(first, own_nD, texts),
            "random": self._scores(first, unit(rng.standard_normal(own_nD.shape)), texts),
        }
        for kind, second in self.seconds.items():
            vectors_nD = second.encode(texts)
            mapped_nD = _affine(self.fitted[kind], self.fitted_ND, vectors_nD)
            mixed_nD = vectors_nD[:, rng.permutation(vectors_nD.shape[1])]
            arms |= {
                f"e2_d1 {kind}": self._scores(first, vectors_nD, texts),
                f"e2_d2 {kind}": self._scores(second, vectors_nD, texts),
                f"affine {kind}": self._scores(first, mapped_nD, texts),
                f"permuted {kind}": self._scores(first, mixed_nD, texts),
            }
        return arms

    def _scores(self, decoder: CLLM, vectors_nD: Vectors, texts: Sequence[str]) -> dict[str, Any]:
        """What a decoder writes of the vectors; and nats over its null vector, (n,)."""
        rows, tokens = decoder.decode_tokens(vectors_nD), decoder.tokens(texts)
        key = decoder.hash, tuple(texts)
        if key not in self.null:
            self.null[key] = null_nats(decoder, tokens)
        gain_n = self.null[key] - nats_given(decoder, tokens, vectors_nD)
        return self._written(decoder.base, rows, texts, tokens) | {"gain_nats": gain_n.tolist()}

    def _of_base(self, texts: Sequence[str]) -> dict[str, Any]:
        """What the first model's base writes of whole arrays: no bottleneck, no CLLM."""
        base, tokens = self.first.base, self.first.tokens(texts)
        return self._written(base, rewritten(base, tokens), texts, tokens)

    def _written(
        self, base: BaseLM, rows: Tokens, texts: Sequence[str], tokens: TokenTexts
    ) -> dict[str, Any]:
        """Topic hit, content F1 and exactness of what was written, (n,); BLEU; the first one."""
        written = base.to_text(rows)
        scores = score_texts(texts, written, [row.tolist() for row in tokens.rows], rows)
        return {
            "hit": self.classifier(filled(written)).tolist(),
            "content_f1": scores.content_f1_N.tolist(),
            "exact": scores.exact_match_N.tolist(),
            "bleu": scores.value("bleu"), "example": [texts[0], written[0]],
        }  # fmt: skip

    def _best(self, texts: Sequence[str]) -> Vectors:
        """The best vectors for the first decoder that a search by gradient finds, (n, D).

        It starts where the text's nats are least: at its vector of either encoder.
        """
        first, tokens = self.first, self.first.tokens(texts)
        starts = [first.encode(texts), *(second.encode(texts) for second in self.seconds.values())]
        nats_Sn = np.stack([nats_given(first, tokens, vectors_nD) for vectors_nD in starts])
        start_nD = np.stack(starts)[nats_Sn.argmin(0), np.arange(len(texts))]
        return best_vectors(first, tokens, start_nD)

    def _where(
        self, best_nD: Vectors
    ) -> tuple[dict[str, Any], Vectors, dict[str, Vectors], list[Void]]:
        """Which texts, of each kind, lie in voids of the first model's space."""
        first, rng = self.first, np.random.default_rng([self.seed, 9])
        k, rest = first.config.void_dim, self.topic.rest
        cloud_ND, held_out_MD = (
            first.encode(rest.select(s).texts) for s in ("train", "validation")
        )
        search = find_voids(prefix(cloud_ND, k), VoidSettings.quick(), rng, prefix(held_out_MD, k))
        chance = np.inf if search.chance is None else search.chance
        field = Field.of(cloud_ND, held_out_MD, k, chance, rng)
        standing = [void for void in search.voids if void.stands]
        unseen = self.sets["unseen"]
        words = int(np.median([len(text.split()) for text in unseen]))
        texts = {
            "topic": unseen, "others": self.others, "its words shuffled": shuffled(unseen, rng),
            "other words shuffled": shuffled(self.others, rng),
            "another domain": of_another_domain(self.most, words),
        }  # fmt: skip
        encoders = {"E1": first} | {f"E2 {kind}": model for kind, model in self.seconds.items()}
        vectors = {
            f"{name}, {encoder}": model.encode(some)
            for encoder, model in encoders.items() for name, some in texts.items()
        } | {"topic, best": best_nD}  # fmt: skip
        least = field.least_score
        told: dict[str, Any] = {
            "void_dim": k,
            "voids": len(standing),
            "p_value": search.p_value,
            "radius_ratio": search.radius_ratio,
            "least_score": least if np.isfinite(least) else None,  # none: nothing is a void
        } | {name: lying(field, standing, vectors_nD) for name, vectors_nD in vectors.items()}
        flat = {name: prefix(vectors_nD, k) for name, vectors_nD in vectors.items()}
        return told, prefix(cloud_ND, k), flat, standing


def lying(field: Field, standing: Sequence[Void], vectors_nD: Vectors) -> dict[str, Any]:
    """Which places are enclosed, above the threshold, both, and in a void that was found, (n,)."""
    inside_n = np.array([one is not None for one in void_around(vectors_nD, standing)], bool)
    is_void_n, score_n = field.is_void(vectors_nD), field.look(vectors_nD).score_n
    return {
        "in_void": is_void_n.tolist(), "in_found": (is_void_n & inside_n).tolist(),
        "enclosed": field.encloses(vectors_nD).tolist(),
        "above_threshold": (score_n > field.least_score).tolist(), "score": score_n.tolist(),
    }  # fmt: skip


def best_vectors(model: CLLM, tokens: TokenTexts, start_nD: Vectors) -> Vectors:
    """Vectors that give each text the fewest nats of a decoder, by Adam from a start, (n, D)."""
    whole = next(iter(tokens.in_order(len(tokens))))
    order_n, batch = whole[0], whole[1].to(model.device)
    vectors_nD = torch.tensor(start_nD[order_n], device=model.device, requires_grad=True)
    adam = torch.optim.Adam([vectors_nD], lr=STRIDE)
    best_n = torch.full((len(start_nD),), torch.inf, device=model.device)
    kept_nD = vectors_nD.detach().clone()
    for _ in range(STRIDES):
        unit_nD = torch.nn.functional.normalize(vectors_nD, dim=-1)
        memory_nMH = model.decode_array(unit_nD)
        nats_n = model.base.cross_entropy(memory_nMH, batch.ids_BT, batch.mask_BT).sum(1)
        better_n = nats_n.detach() < best_n
        best_n = torch.where(better_n, nats_n.detach(), best_n)
        kept_nD = torch.where(better_n[:, None], unit_nD.detach(), kept_nD)
        adam.zero_grad()
        nats_n.sum().backward()
        adam.step()
    found_nD = np.empty_like(start_nD)
    found_nD[order_n] = kept_nD.cpu().numpy()
    return found_nD


def _affine(from_ND: Vectors, to_ND: Vectors, vectors_nD: Vectors) -> Vectors:
    """Vectors through the affine map, by ridge regression, that fits the others."""
    with_one = [np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
                for x in (from_ND, vectors_nD)]  # fmt: skip
    x_NE = with_one[0]
    square_EE = x_NE.T @ x_NE + RIDGE * np.eye(x_NE.shape[1])
    return unit(with_one[1] @ np.linalg.solve(square_EE, x_NE.T @ to_ND))


def _some(texts: Sequence[str], most: int) -> list[str]:
    """At most so many, whatever their order."""
    chosen = sorted(np.argsort(text_keys(list(texts)), kind="stable")[:most].tolist())
    return [texts[row] for row in chosen]
