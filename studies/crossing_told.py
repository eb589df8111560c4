"""What becomes of texts between two subjects: who takes them for real, and whose words they have.

taken = Taken.of(Arm.each(texts), judge, tastes, Words.of(corpus)); taken.counts()
"""

# Shapes: n texts, M held-out ones, V words, P places.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.corpus import Corpus
from cllm.judge import Judge
from cllm.metrics import share_draws

Floats = NDArray[np.float64]

FOREIGN = 0.95  # of a subject's held-out texts that have fewer words of the other than a line
COUNTED = ("accepted", "accepted, words of both", "accepted, words of both, valid")


@dataclass(frozen=True)
class Arm:
    """What an arm wrote, each text once; the patch of the cloud that each came from, (n,)."""

    texts: list[str]
    patches: list[str]
    decodes: int  # fewer than asked where no place was left, or no time
    seconds: float = 0.0

    @classmethod
    def each(cls, texts: Sequence[str]) -> Arm:
        """Of a decode each, no two of which have a place in common."""
        return cls(list(texts), [f"text {row}" for row in range(len(texts))], len(texts))


@dataclass(frozen=True)
class Taste:
    """A subject's critic, and the line that 99 of 100 of its held-out texts pass."""

    logits: Callable[[Sequence[str]], Floats]
    least: float

    def margin(self, texts: Sequence[str]) -> Floats:
        """How far above that line texts are: what is not below it is taken for real."""
        return self.logits(texts) - self.least if texts else np.zeros(0)


@dataclass(frozen=True)
class Taken:
    """What becomes of an arm's texts, (n,) each."""

    arm: Arm
    passes: dict[str, NDArray[np.bool_]]  # by the critic of a subject
    margin_n: Floats  # by the less sure of them
    new_n: NDArray[np.bool_]  # like no known text
    valid_n: NDArray[np.bool_]  # by the judge of both subjects' texts
    both_n: NDArray[np.bool_]  # words of both subjects

    @classmethod
    def of(
        cls, arm: Arm, judge: Judge, tastes: Mapping[str, Taste], words: Words
    ) -> Taken:  # fmt: skip
        """Ask all of them."""
        margins = {name: taste.margin(arm.texts) for name, taste in tastes.items()}
        verdicts = judge.judge(arm.texts)
        return cls(
            arm, {name: one >= 0 for name, one in margins.items()},
            np.min([*margins.values()], axis=0),
            np.array([not verdict.duplicate for verdict in verdicts], bool),
            np.array([verdict.valid for verdict in verdicts], bool),
            words.of_both(arm.texts),
        )  # fmt: skip

    def are(self, what: str) -> NDArray[np.bool_]:
        """Which texts count, by a name of `COUNTED`."""
        accepted_n = np.all([*self.passes.values(), self.new_n], axis=0)
        more = {"accepted": True, "accepted, words of both": self.both_n,
                "accepted, words of both, valid": self.both_n & self.valid_n}  # fmt: skip
        return np.asarray(accepted_n & more[what], bool)

    def counts(self) -> dict[str, Any]:
        """Of the arm."""
        told: dict[str, Any] = {
            "decodes": self.arm.decodes, "seconds": self.arm.seconds, "texts": len(self.arm.texts),
            "patches": len(set(self.arm.patches)), "new": int(self.new_n.sum()),
            "valid": int(self.valid_n.sum()), "words of both": int(self.both_n.sum()),
            "passed": {name: int(one.sum()) for name, one in self.passes.items()},
        }  # fmt: skip
        return told | {what: int(self.are(what).sum()) for what in COUNTED}

    def draws(self, what: str, rng: np.random.Generator) -> Floats:
        """Of what counts, a decode; texts of one patch are not independent.

        A decode that left no text is a place of its own.
        """
        patches = {name: row for row, name in enumerate(dict.fromkeys(self.arm.patches))}
        place_n = np.array([patches[name] for name in self.arm.patches], np.int64)
        told_P2 = np.stack([np.bincount(place_n, self.are(what)), np.bincount(place_n)], 1)
        none_Q2 = np.tile([0.0, 1.0], (self.arm.decodes - len(self.arm.texts), 1))
        return share_draws(np.concatenate([told_P2, none_Q2]), rng)


def less(mine: Taken, other: Taken, what: str) -> dict[str, Any] | None:
    """Of what counts, a decode: an arm less another, over draws of patches of each.

    None where one of them has no decode.
    """
    if not (mine.arm.decodes and other.arm.decodes):
        return None
    rng = np.random.default_rng(0)
    means = [one.are(what).sum() / one.arm.decodes for one in (mine, other)]
    drawn = mine.draws(what, rng) - other.draws(what, rng)
    return {"mean": float(means[0] - means[1]), "ci": np.quantile(drawn, (0.025, 0.975)).tolist()}


@dataclass(frozen=True)
class Words:
    """What a text's words say of each of two subjects, by logistic regression on real ones."""

    vectorizer: Any  # of scikit-learn
    weight_2V: Floats  # for each subject, 0 or more
    least_2: Floats  # of each, beyond which a text has words of that subject

    @classmethod
    def of(cls, corpus: Corpus) -> Words:
        """Learnt from training texts; lines are what validation texts of the other one stay below.

        All but one in twenty of these: a text whose words are of neither subject has none of both.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        train, held_out = corpus.select("train"), corpus.select("validation")
        vectorizer = TfidfVectorizer(sublinear_tf=True).fit(train.texts)
        model = LogisticRegression(max_iter=1000)
        model.fit(vectorizer.transform(train.texts), np.array(train.subjects))
        weight_2V = np.stack([np.maximum(-model.coef_[0], 0), np.maximum(model.coef_[0], 0)])
        words = cls(vectorizer, weight_2V, np.zeros(2))
        said_M2, of_M = words.said(held_out.texts), np.array(held_out.subjects)
        least_2 = [np.quantile(said_M2[of_M != name, side], FOREIGN)
                   for side, name in enumerate(model.classes_)]  # fmt: skip
        return replace(words, least_2=np.array(least_2))

    def said(self, texts: Sequence[str]) -> Floats:
        """Evidence of each subject, (n, 2)."""
        return np.asarray(self.vectorizer.transform(texts) @ self.weight_2V.T)

    def of_both(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which have words of both, (n,)."""
        if not texts:
            return np.zeros(0, bool)
        return np.asarray((self.said(texts) > self.least_2).all(1))
