"""Score texts against references, and say how sure the scores are.

Everything is kept per text (for BLEU and chrF: as sufficient statistics), so that
intervals and paired differences cost a resampling of rows, not a new scoring.

    scores = score_texts(texts, decoded, text_tokens, decoded_tokens)
    scores.interval("content_f1", rng), scores.difference("bleu", retrieval, rng)
"""

# Shapes: N texts, S seeds, C statistics of a text, V unit vectors, K coordinates, M probes.
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from scipy import stats

from cllm.content import content_f1, content_items

Array = npt.NDArray[np.floating] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Metric = Literal["exact_match", "token_accuracy", "content_f1", "bleu", "chrf"]
METRICS: tuple[Metric, ...] = ("exact_match", "token_accuracy", "content_f1", "bleu", "chrf")


# --- intervals ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """An estimate, its bounds at the asked level, and the number of texts (or seeds x texts)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def ci(self) -> list[float]:
        """`[low, high]`, as report.json holds it."""
        return [self.low, self.high]


def bootstrap(
    values: Array,
    rng: np.random.Generator,
    samples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Interval of a mean: percentile bootstrap over texts (N,), or seeds then texts (S, N).

    Column n is the same text under every seed, so that one draw of texts serves all seeds (Owen
    2007, "pigeonhole bootstrap").
    Few seeds (or texts) make percentile intervals too narrow, so the deviations of the top-level
    units are first stretched to the t quantile (Hesterberg 2015, "expanded percentile").
    Raises ValueError for an empty or non-finite array.
    """
    values_SN = _as_seeds_by_texts(values)
    means = _resampled_means(stretched(values_SN, level), rng, samples)
    return _interval(float(values_SN.mean()), means, level, values_SN.size)


def paired_difference(
    a: Array, b: Array, rng: np.random.Generator, samples: int = 1000, level: float = 0.95
) -> Interval:
    """Interval of mean(a - b), both (N,) or (S, N) over the same texts in the same order."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"paired values need one shape, not {np.shape(a)} and {np.shape(b)}")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return bootstrap(difference, rng, samples, level)


def bootstrap_of(
    score: Callable[[Integers], float], n: int, rng: np.random.Generator, samples: int = 1000
) -> Interval:
    """95 % percentile bootstrap of any `score` of rows (row numbers, repeats allowed) of n texts.

    For what is no mean: corpus scores, medians, ratios of sums.
    """
    draws = np.array([score(rng.integers(n, size=n)) for _ in range(samples)])
    return _interval(score(np.arange(n)), draws, 0.95, n)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927): sane at 0, at 1 and for small n."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, not {successes} of {n}")
    found = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high), n)


def share_draws(counts_P2: Array, rng: np.random.Generator, samples: int = 2000) -> Floats:
    """Draws (samples,) of a share from hits and texts of each place, P > 0: of its interval.

    Texts of one place are not independent, so places are resampled; few of them are stretched
    (`few`). Where each has one text, or all have the same share, they are the observations of
    `jeffreys_draws`.
    """
    hits_P, texts_P = np.asarray(counts_P2, np.float64).T
    places, share = len(texts_P), float(hits_P.sum() / texts_P.sum())
    if texts_P.max() == 1 or np.ptp(hits_P / texts_P) == 0:
        return jeffreys_draws(share, places, rng, samples)
    times_SP = rng.multinomial(places, np.full(places, 1 / places), samples)
    drawn_S = (times_SP @ hits_P) / (times_SP @ texts_P)
    return np.asarray(np.clip(share + few(places) * (drawn_S - share), 0, 1))


def share_of(counts_P2: Array, rng: np.random.Generator) -> Interval:
    """Hits of all texts, from hits and texts of each place, with its interval (`share_draws`)."""
    hits, texts = np.asarray(counts_P2, np.float64).sum(0)
    share = float(hits / texts)
    low, high = np.quantile(share_draws(counts_P2, rng), (0.025, 0.975))
    return Interval(share, min(float(low), share), max(float(high), share), int(texts))


def jeffreys_draws(share: float, n: int, rng: np.random.Generator, samples: int) -> Floats:
    """Draws (samples,) of a share by Jeffreys' posterior (Brown, Cai & DasGupta 2001)."""
    return rng.beta(share * n + 0.5, (1 - share) * n + 0.5, samples)


def _as_seeds_by_texts(values: Array) -> Floats:
    values_SN = np.atleast_2d(np.asarray(values, np.float64))
    if values_SN.ndim != 2 or values_SN.size == 0 or not np.isfinite(values_SN).all():
        raise ValueError(f"need finite values (N,) or (S, N), not empty: got {np.shape(values)}")
    return values_SN


def stretched(values_SN: Floats, level: float = 0.95) -> Floats:
    """Stretch the deviations of seeds (of texts, if one seed) so that few of them count as few."""
    one_seed = len(values_SN) == 1
    units = values_SN.shape[1] if one_seed else len(values_SN)
    unit_means = values_SN if one_seed else values_SN.mean(axis=1, keepdims=True)
    wider: Floats = values_SN + (few(units, level) - 1) * (unit_means - values_SN.mean())
    return wider


def few(units: int, level: float = 0.95) -> float:
    """What a bootstrap's deviations of so few units are stretched by: Student's, unbiased."""
    if units == 1 or units >= 100:  # a single value has no spread; from 100 on it is < 2 %
        return 1.0
    tail = (1 + level) / 2
    ratio = stats.t.ppf(tail, units - 1) / stats.norm.ppf(tail)
    return math.sqrt(units / (units - 1)) * float(ratio)


def of_few(values_S: Array, level: float = 0.95) -> Interval:
    """The mean of a few independent values, by Student's t; of a single one without a width."""
    n, mean = len(values_S), float(np.mean(values_S))
    if n == 1:
        return Interval(mean, mean, mean, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values_S, ddof=1) / n**0.5)
    return Interval(mean, mean - half, mean + half, n)


def _resampled_means(values_SN: Floats, rng: np.random.Generator, samples: int) -> Floats:
    """Means (samples,) over seeds and texts drawn with replacement."""
    seeds, texts = values_SN.shape
    means = np.empty(samples)
    for sample in range(samples):
        seeds_S1 = rng.integers(seeds, size=(seeds, 1))
        means[sample] = values_SN[seeds_S1, rng.integers(texts, size=(1, texts))].mean()
    return means


def _interval(estimate: float, draws: Floats, level: float, n: int) -> Interval:
    # "lower"/"higher" pick a draw and never interpolate: infinite ratios stay infinite, not NaN.
    low = np.quantile(draws, (1 - level) / 2, method="lower")
    high = np.quantile(draws, (1 + level) / 2, method="higher")
    return Interval(estimate, float(low), float(high), n)


# --- texts against references ------------------------------------------------------------------


@dataclass(frozen=True)
class CorpusStatistics:
    """Counts of each text (N, C) that add up to a corpus score (0..100) of sacrebleu."""

    metric: Literal["bleu", "chrf"]
    counts_NC: Integers

    def score(self) -> float:
        """Corpus score over all texts, equal to sacrebleu's own."""
        return self._of(self.counts_NC)

    def interval(self, rng: np.random.Generator, samples: int = 1000) -> Interval:
        """95 % percentile bootstrap over texts."""
        return bootstrap_of(
            lambda rows: self._of(self.counts_NC[rows]), len(self.counts_NC), rng, samples
        )

    def difference(
        self, other: CorpusStatistics, rng: np.random.Generator, samples: int = 1000
    ) -> Interval:
        """95 % interval of this score minus the other's, both resampled by the same texts."""
        if self.metric != other.metric or len(self.counts_NC) != len(other.counts_NC):
            raise ValueError("a paired difference needs one metric over the same texts")
        return bootstrap_of(
            lambda rows: self._of(self.counts_NC[rows]) - self._of(other.counts_NC[rows]),
            len(self.counts_NC), rng, samples,
        )  # fmt: skip

    def _of(self, counts_NC: Integers) -> float:
        counts = counts_NC.sum(axis=0).tolist()
        return float(_scorer(self.metric)._compute_score_from_stats(counts).score)


@dataclass(frozen=True)
class TextScores:
    """Scores of N hypotheses against their references, one entry a text.

    `exact_match_N`, `token_accuracy_N` and `content_f1_N` lie in 0..1; `bleu` and `chrf` are
    corpus scores in 0..100, with sacrebleu's signatures to quote beside them.
    """

    exact_match_N: Floats
    token_accuracy_N: Floats
    content_f1_N: Floats
    bleu: CorpusStatistics
    chrf: CorpusStatistics
    bleu_signature: str
    chrf_signature: str

    def __len__(self) -> int:
        return len(self.exact_match_N)

    def value(self, metric: Metric) -> float:
        """The metric over all texts: a mean, or the corpus score for BLEU and chrF."""
        if metric in ("bleu", "chrf"):
            return self.corpus(metric).score()
        return float(self.per_text(metric).mean())

    def interval(self, metric: Metric, rng: np.random.Generator) -> Interval:
        """The metric with its 95 % bootstrap interval over texts."""
        if metric in ("bleu", "chrf"):
            return self.corpus(metric).interval(rng)
        return bootstrap(self.per_text(metric), rng)

    def difference(self, metric: Metric, other: TextScores, rng: np.random.Generator) -> Interval:
        """This minus the other over the same texts, with its paired 95 % interval."""
        if metric in ("bleu", "chrf"):
            return self.corpus(metric).difference(other.corpus(metric), rng)
        return paired_difference(self.per_text(metric), other.per_text(metric), rng)

    def per_text(self, metric: Metric) -> Floats:
        """One value a text (N,); KeyError for BLEU and chrF, which have none."""
        return {
            "exact_match": self.exact_match_N,
            "token_accuracy": self.token_accuracy_N,
            "content_f1": self.content_f1_N,
        }[metric]

    def corpus(self, metric: Metric) -> CorpusStatistics:
        """Counts behind a corpus score; KeyError for the per-text metrics."""
        return {"bleu": self.bleu, "chrf": self.chrf}[metric]


def score_texts(
    references: Sequence[str],
    hypotheses: Sequence[str],
    reference_tokens: Sequence[Sequence[int]],
    hypothesis_tokens: Sequence[Sequence[int]],
) -> TextScores:
    """Score free-running hypotheses; token sequences come without padding, end token included.

    Raises ValueError unless all four hold the same number (>= 1) of entries.
    """
    counts = {len(references), len(hypotheses), len(reference_tokens), len(hypothesis_tokens)}
    if len(counts) != 1 or not references:
        raise ValueError(f"need equally many texts and token rows, at least one: got {counts}")
    pairs = list(zip(references, hypotheses, strict=True))
    tokens = zip(reference_tokens, hypothesis_tokens, strict=True)
    bleu, bleu_signature = _count("bleu", references, hypotheses)
    chrf, chrf_signature = _count("chrf", references, hypotheses)
    return TextScores(
        exact_match_N=np.array([float(squeeze(a) == squeeze(b)) for a, b in pairs]),
        token_accuracy_N=np.array([token_accuracy(a, b) for a, b in tokens]),
        content_f1_N=np.array([content_f1(content_items(a), content_items(b)) for a, b in pairs]),
        bleu=bleu,
        chrf=chrf,
        bleu_signature=bleu_signature,
        chrf_signature=chrf_signature,
    )


def squeeze(text: str) -> str:
    """The text with each run of white space as one blank, none at the ends."""
    return " ".join(text.split())


def token_accuracy(reference: Sequence[int], hypothesis: Sequence[int]) -> float:
    """Share of positions with the same token, of the longer of the two (surplus is wrong)."""
    longest = max(len(reference), len(hypothesis))
    if longest == 0:
        return 1.0
    return sum(a == b for a, b in zip(reference, hypothesis, strict=False)) / longest


@functools.cache
def _scorer(metric: Literal["bleu", "chrf"]) -> BLEU | CHRF:
    # force: no log lines about "tokenized periods"; it changes no score.
    return BLEU(force=True) if metric == "bleu" else CHRF()


def _count(
    metric: Literal["bleu", "chrf"], references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[CorpusStatistics, str]:
    # sacrebleu makes per-text counts public for BLEU only; a test holds both to corpus_score.
    scorer = _scorer(metric)
    counts = scorer._extract_corpus_statistics(list(hypotheses), [list(references)])
    statistics = CorpusStatistics(metric, np.array(counts, np.int64))
    return statistics, str(scorer.get_signature())


# --- repetition --------------------------------------------------------------------------------


def rep_4(tokens: Sequence[Hashable]) -> float:
    """Share of a text's 4-grams that repeat an earlier one (0 for fewer than four tokens)."""
    grams = [tuple(tokens[start : start + 4]) for start in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
