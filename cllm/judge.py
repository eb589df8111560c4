"""Judge a text: duplicate, nonsense or novel, with the evidence for each.

Every limit is calibrated on held-out real texts, so that a false alarm has a known rate:
a fixed similarity limit can be wrong for 1 % or for 99 % of real texts.

    judge = Judge.calibrate(ids, texts, held_out, checker=check, log_likelihood=None)
    [verdict.label for verdict in judge.judge(ideas)]
"""

# Shapes: Q texts judged, N training texts, C held-out texts (for calibration), K neighbours.
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from cllm.content import content_items
from cllm.errors import InputError
from cllm.metrics import rep_4, squeeze
from cllm.retrieval import TfidfIndex

Label = Literal["duplicate", "nonsense", "novel"]
Checker = Callable[[str], Sequence[object]]
LogLikelihood = Callable[[list[str]], npt.NDArray[np.floating]]
Critic = Callable[[list[str]], npt.NDArray[np.floating]]
_TAIL = 0.01  # the band of real texts: 1st to 99th percentile
_REASONS = 3  # violations spelled out


@dataclass(frozen=True)
class Verdict:
    """What a text is, and why.

    `novelty` is the share of held-out real texts that lie nearer to the training texts than this
    one (0..1); `validity` is 1 or 0 by a checker, else how central the text is among real ones
    (1: as likely as the median, 0: outside). `nearest`: (training id, similarity), best first.
    """

    label: Label
    valid: bool
    duplicate: bool
    validity: float
    novelty: float
    reasons: tuple[str, ...]
    nearest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Soundness:
    """How valid a text is, and each fault found, as a sentence; no fault means valid."""

    validity: float
    faults: tuple[str, ...]


class _Validator(Protocol):
    def __call__(self, texts: list[str]) -> list[_Soundness]: ...


@dataclass(frozen=True)
class Judge:
    """Calibrated judge of one corpus; build it with `Judge.calibrate`."""

    train_ids: tuple[str, ...]
    rows_of_text: dict[str, int]
    index: TfidfIndex
    held_out_similarity_C: npt.NDArray[np.float32]
    duplicate_above: float
    alpha: float
    neighbours: int
    validator: _Validator

    @classmethod
    def calibrate(
        cls,
        train_ids: Sequence[str],
        train_texts: Sequence[str],
        held_out_texts: Sequence[str],
        *,
        checker: Checker | None = None,
        log_likelihood: LogLikelihood | None = None,
        critic: Critic | None = None,
        alpha: float = 0.05,
        neighbours: int = 3,
    ) -> Judge:
        """Build the judge of a corpus.

        `checker` lists a text's violations and decides validity alone. Without it a text is valid
        if its cost under an independent language model (`log_likelihood`: texts -> nats per token,
        positive, higher is less likely) lies in the band of real texts, a `critic` (texts -> how
        real they seem) finds it as real, it repeats itself no more than they do, and it has
        content. Without these two only repetition and content are tested.
        `alpha` is the share of real unseen texts that the duplicate test may wrongly flag.
        Raises InputError where there is no training or held-out text to compare with.
        """
        train = [squeeze(text) for text in train_texts]
        held_out = [text for text in held_out_texts if text.strip()]
        if not held_out:
            raise InputError(
                "no held-out text to calibrate the judge on: give the corpus a validation split, "
                "or more texts"
            )
        index = TfidfIndex(train)
        similarity_C = np.sort(index.nearest(held_out)[0][:, 0])
        return cls(
            train_ids=tuple(train_ids),
            rows_of_text={text: row for row, text in reversed(list(enumerate(train)))},
            index=index,
            held_out_similarity_C=similarity_C,
            duplicate_above=_conformal_limit(similarity_C, alpha),
            alpha=alpha,
            neighbours=neighbours,
            validator=_Rules(checker) if checker else _Band.of(held_out, log_likelihood, critic),
        )

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """One verdict a text, in order; the same text gets the same verdict in any batch."""
        filled = [text for text in texts if text.strip()]
        similarity_QK, rows_QK = self.index.nearest(filled, self.neighbours)
        judged = iter(
            [
                self._verdict(text, soundness, similarity_K, rows_K)
                for text, soundness, similarity_K, rows_K in zip(
                    filled, self.validator(filled), similarity_QK, rows_QK, strict=True
                )
            ]
        )
        return [next(judged) if text.strip() else _EMPTY for text in texts]

    def _verdict(
        self,
        text: str,
        soundness: _Soundness,
        similarity_K: npt.NDArray[np.float32],
        rows_K: npt.NDArray[np.int64],
    ) -> Verdict:
        similarity = float(similarity_K[0])
        copied = self.rows_of_text.get(squeeze(text))
        duplicate = copied is not None or similarity > self.duplicate_above
        valid = not soundness.faults
        return Verdict(
            label="nonsense" if not valid else "duplicate" if duplicate else "novel",
            valid=valid,
            duplicate=duplicate,
            validity=soundness.validity,
            novelty=0.0 if copied is not None else self._novelty(similarity),
            reasons=(
                *soundness.faults,
                self._similarity_reason(copied, similarity, int(rows_K[0])),
            ),
            nearest=tuple(
                (self.train_ids[row], float(value))
                for row, value in zip(rows_K, similarity_K, strict=True)
            ),
        )

    def _novelty(self, similarity: float) -> float:
        """Share of held-out texts with a higher similarity; ties count half."""
        held_out = self.held_out_similarity_C
        below = np.searchsorted(held_out, np.float32(similarity), side="left")
        up_to = np.searchsorted(held_out, np.float32(similarity), side="right")
        return float(1 - (below + up_to) / (2 * len(held_out)))

    def _similarity_reason(self, copied: int | None, similarity: float, row: int) -> str:
        if copied is not None:
            return f"the same text as training text {self.train_ids[copied]}"
        side = "above" if similarity > self.duplicate_above else "within"
        return (
            f"similarity {similarity:.3f} to the nearest training text {self.train_ids[row]}, "
            f"{side} the limit {self.duplicate_above:.3f} "
            f"that {100 * self.alpha:.3g} % of unseen real texts exceed"
        )


_EMPTY = Verdict("nonsense", False, False, 0.0, 0.0, ("empty",), ())


@dataclass(frozen=True)
class _Rules:
    """Validity by the corpus's own checker."""

    checker: Checker

    def __call__(self, texts: list[str]) -> list[_Soundness]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> _Soundness:
        violations = [str(violation) for violation in self.checker(text)]
        more = len(violations) - _REASONS
        tail = (f"and {more} more violations",) if more > 0 else ()
        return _Soundness(float(not violations), (*violations[:_REASONS], *tail))


@dataclass(frozen=True)
class _Band:
    """Validity by likeness to real texts: cost per token, critic, repetition, content."""

    log_likelihood: LogLikelihood | None
    critic: Critic | None
    cost_C: npt.NDArray[np.float64]
    least_real: float
    repetition_limit: float
    least_content: int

    @classmethod
    def of(
        cls, held_out: list[str], log_likelihood: LogLikelihood | None, critic: Critic | None
    ) -> _Band:
        """Calibrate on real texts; raises InputError if the model gives no finite costs."""
        cost_C = _costs(log_likelihood, held_out)
        if not np.isfinite(cost_C).all():
            raise InputError(
                "the judge's language model gives a non-finite cost for a held-out text; "
                "train it again, or judge without it"
            )
        content = np.quantile([len(content_items(text)) for text in held_out], _TAIL)
        return cls(
            log_likelihood=log_likelihood,
            critic=critic,
            cost_C=np.sort(cost_C),
            least_real=float(np.quantile(critic(held_out), _TAIL)) if critic else -math.inf,
            repetition_limit=float(np.quantile([rep_4(t.split()) for t in held_out], 1 - _TAIL)),
            least_content=min(2, math.floor(content)),
        )

    def __call__(self, texts: list[str]) -> list[_Soundness]:
        cost_Q = _costs(self.log_likelihood, texts)
        real_Q = self.critic(texts) if self.critic and texts else np.zeros(len(texts))
        return [self._one(*one) for one in zip(texts, cost_Q, real_Q, strict=True)]

    def _one(self, text: str, cost: float, real: float) -> _Soundness:
        faults = [*self._cost_faults(cost)]
        if self.critic and real < self.least_real:
            faults.append(
                f"nearly a real text, and not one: a critic gives it {real:.1f} "
                f"(99% of real texts: {self.least_real:.1f} or more)"
            )
        repetition = rep_4(text.split())
        if repetition > self.repetition_limit:
            faults.append(
                f"repeats itself: {repetition:.0%} of its four-word runs came before "
                f"(real texts: up to {self.repetition_limit:.0%})"
            )
        content = len(content_items(text))
        if content < self.least_content:
            faults.append(
                f"too little content: {content} items, at least {self.least_content} needed"
            )
        return _Soundness(0.0 if faults else self._centrality(cost), tuple(faults))

    def _cost_faults(self, cost: float) -> list[str]:
        low, high = np.quantile(self.cost_C, [_TAIL, 1 - _TAIL])
        if low <= cost <= high:
            return []
        how = "too predictable" if cost < low else "too unlikely"
        return [
            f"{how} as a text of this kind: {cost:.2f} nats per token "
            f"(98% of real texts: {low:.2f} to {high:.2f})"
        ]

    def _centrality(self, cost: float) -> float:
        """Two-sided tail probability of the cost among real texts; 1 at their median."""
        below = np.searchsorted(self.cost_C, cost, side="left")
        up_to = np.searchsorted(self.cost_C, cost, side="right")
        rank = (below + up_to) / (2 * len(self.cost_C))
        return float(2 * min(rank, 1 - rank))


def _costs(log_likelihood: LogLikelihood | None, texts: list[str]) -> npt.NDArray[np.float64]:
    """Nats per token of each text, (Q,); all equal without a language model."""
    if log_likelihood is None or not texts:
        return np.zeros(len(texts))
    costs = np.asarray(log_likelihood(texts), np.float64)
    if costs.shape != (len(texts),):
        raise ValueError(f"log_likelihood gave shape {costs.shape} for {len(texts)} texts")
    return costs


def _conformal_limit(sorted_C: npt.NDArray[np.float32], alpha: float) -> float:
    """Value of rank ceil((C + 1)(1 - alpha)): an unseen real text exceeds it with chance <= alpha.

    With too few held-out texts for that rank, the largest: then the chance is 1 / (C + 1).
    Source: split conformal prediction (Vovk et al. 2005).
    """
    rank = math.ceil((len(sorted_C) + 1) * (1 - alpha))
    return float(sorted_C[min(rank, len(sorted_C)) - 1])
