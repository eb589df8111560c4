"""Find the nearest training texts, by words or in the latent space; both exact.

Retrieval is the baseline a decoder must beat, and the yardstick of the duplicate test.

    similarity_QK, rows_QK = TfidfIndex(train_texts).nearest(texts, k=3)
"""

# Shapes: N training texts, Q queries, K neighbours, D vector length, F hashed features.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from cllm.errors import InputError
from cllm.metrics import METRICS, Interval, Metric, TextScores, score_texts

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Numbers count (one digit too, fractions whole), and bigrams tie them to their unit.
_WORD = r"\d+(?:[.,/]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*"
_FEATURES = 2**22
_CELLS = 4_000_000  # largest similarity block, in entries: bounds memory at about 100 MB


class TfidfIndex:
    """Cosine of TF-IDF vectors: words and word pairs, sublinear counts, unit length, float32.

    Features are hashed (4 M slots, so that clashes are rare) rather than looked up: a word that
    no training text has then still takes its share of a query's length. With a vocabulary it
    would vanish, and a text of unknown words around a known phrase would pass for a copy.
    """

    def __init__(self, train_texts: Sequence[str], weights_of: Sequence[str] = ()) -> None:
        """Index the texts; `weights_of`: others, which say how rare a word is, in place of these.

        Raises InputError if no text holds a word.
        """
        from scipy import sparse  # here: together they take a second to import
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        self._hashing = HashingVectorizer(
            token_pattern=_WORD,
            ngram_range=(1, 2),
            n_features=_FEATURES,
            norm=None,
            alternate_sign=False,
            dtype=np.float32,
        )
        counts_NF = self._hashing.transform(train_texts) if train_texts else None
        if counts_NF is None or counts_NF.nnz == 0:
            raise InputError(
                f"no word in any of the {len(train_texts)} training texts: nothing to compare "
                "with; check the corpus with `cllm corpus check`"
            )
        said = self._hashing.transform(weights_of) if weights_of else counts_NF
        self._weights = TfidfTransformer(sublinear_tf=True).fit(said)
        self._columns_FN = sparse.csr_matrix(self._weights.transform(counts_NF).T)

    def __len__(self) -> int:
        """Number of training texts."""
        return int(self._columns_FN.shape[1])

    def nearest(self, texts: Sequence[str], k: int = 1, batch: int = 256) -> tuple[Vectors, Rows]:
        """Similarities (Q, K) in 0..1, best first, and their training rows; K = min(k, N).

        Equal similarities are ordered by row. Results do not depend on `batch`.
        """
        k, step = min(k, len(self)), max(1, min(batch, _CELLS // len(self)))
        similarity_QK = np.zeros((len(texts), k), np.float32)
        rows_QK = np.zeros((len(texts), k), np.int64)
        for start in range(0, len(texts), step):
            counts = self._hashing.transform(list(texts[start : start + step]))
            dense = (self._weights.transform(counts) @ self._columns_FN).toarray()
            rows = _best(dense, k)
            rows_QK[start : start + step] = rows
            similarity_QK[start : start + step] = np.take_along_axis(dense, rows, axis=1)
        return np.minimum(similarity_QK, 1.0), rows_QK


def latent_nearest(queries_QD: Vectors, cloud_ND: Vectors, k: int = 1) -> tuple[Vectors, Rows]:
    """Cosines (Q, K), best first, and rows of the nearest unit vectors of a cloud; exact.

    K = min(k, N). Raises ValueError where the vectors differ in length.
    """
    if queries_QD.shape[1] != cloud_ND.shape[1]:
        raise ValueError(
            f"queries hold {queries_QD.shape[1]}-d vectors, the cloud {cloud_ND.shape[1]}-d"
        )
    index = faiss.IndexFlatIP(cloud_ND.shape[1])
    index.add(np.ascontiguousarray(cloud_ND, np.float32))
    cosine_QK, rows_QK = index.search(
        np.ascontiguousarray(queries_QD, np.float32), min(k, len(cloud_ND))
    )
    return np.clip(cosine_QK, -1.0, 1.0), rows_QK.astype(np.int64)


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of each retrieval rule ("latent", "tfidf"), per text, on the same references.

    A metric's baseline is the rule that scores better on it, chosen on the very texts scored:
    that favours the baseline, so a claim against it is safe.
    """

    by_rule: Mapping[str, TextScores]

    def rule(self, metric: Metric) -> str:
        """The rule with the better corpus-level value of this metric."""
        return max(self.by_rule, key=lambda rule: self.by_rule[rule].value(metric))

    def best(self, metric: Metric) -> TextScores:
        """Scores of the better rule."""
        return self.by_rule[self.rule(metric)]

    def intervals(self, rng: np.random.Generator) -> dict[str, Interval]:
        """Every metric of the better rule as `retrieval_<metric>`, and of each rule by name."""
        found: dict[str, Interval] = {}
        for metric in METRICS:
            for rule, scores in self.by_rule.items():
                found[f"retrieval_{rule}_{metric}"] = scores.interval(metric, rng)
            found[f"retrieval_{metric}"] = found[f"retrieval_{self.rule(metric)}_{metric}"]
        return found

    def advantage(self, metric: Metric, model: TextScores, rng: np.random.Generator) -> Interval:
        """The model minus the better rule, paired by text, with its 95 % interval."""
        return model.difference(metric, self.best(metric), rng)


def retrieval_scores(
    references: Sequence[str],
    train_texts: Sequence[str],
    rows_by_rule: Mapping[str, Rows],
    tokenize: Callable[[Sequence[str]], Sequence[Sequence[int]]],
) -> RetrievalScores:
    """Score, for each rule, the training text at `rows[q]` as if it were a reconstruction of q.

    `rows_by_rule` maps a rule's name to one training row per reference (the first column of
    `nearest`); `tokenize` gives token rows without padding, end token included.
    """
    reference_tokens = tokenize(references)
    scores: dict[str, TextScores] = {}
    for rule, rows in rows_by_rule.items():
        texts = [train_texts[row] for row in rows]
        scores[rule] = score_texts(references, texts, reference_tokens, tokenize(texts))
    return RetrievalScores(scores)


def _best(similarity_QN: Vectors, k: int) -> Rows:
    """Rows of the k largest per query, best first, ties by row number."""
    # A stable full sort costs more, but a partition would break ties by memory layout.
    count = similarity_QN.shape[1]
    kth = np.partition(similarity_QN, count - k, axis=1)[:, count - k, None]
    rows = np.empty((len(similarity_QN), k), np.int64)
    for query, (line, least) in enumerate(zip(similarity_QN, kth, strict=True)):
        candidates = np.flatnonzero(line >= least)
        rows[query] = candidates[np.argsort(-line[candidates], kind="stable")[:k]]
    return rows
