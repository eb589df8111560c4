"""Settling places: decoded, encoded again, taken where they arrive, and put right where they stray.

settling = Settling(model, field, budget=2000, plausible=None, how=Correction(steps=3))
settled_nD = settling.settle(starts_SD, field.is_void)
settling.keep(settled_nD); written = settling.write("void", rng)
"""

# Shapes: D coordinates, J of the cloud's subspace, S places of a turn, n that settled or were kept.
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cllm.corpus import spaced
from cllm.errors import InputError
from cllm.field import Field
from cllm.settings import change, first_fault
from cllm.sphere import angle, slerp, unit
from cllm.words import WORD

if TYPE_CHECKING:
    from cllm.base import Generation

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]
Plausible = Callable[[list[str]], Mask]  # which texts are worth writing; knows no arm
Fits = Callable[[Vectors], Mask]  # which places are where an arm writes from

BACK = 0.25  # share of the way to its nearest text that a place retreats at a time
DROPPED = 0.1  # share of coordinates that a pass leaves out
ASSURED = 0.99  # share of held-out texts whose passes agree as much as is asked for
PUT_TO_TEST = 200  # of these


class Autoencoder(Protocol):
    """Anything that turns texts into unit vectors and back can be put to the test."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, (N, D)."""

    def decode(self, vectors_ND: Vectors, how: Generation = ...) -> list[str]:
        """Texts of unit vectors."""


@dataclass(frozen=True)
class Correction:
    """How a place is put right before it counts; every decode of it counts.

    As it stands a place is settled, and no more: of the other parts none pays (`cllm study
    correction`). `steps` is the feedback of vec2text (Morris et al. 2023), without its model.
    """

    settled: bool = True  # it is decoded, and taken where its text lies, so that both agree
    walked: float = 0.5  # share of a void arm's starts that step off places which settled in voids
    steps: int = 0  # a place whose text lies elsewhere moves the other way, so many times at most
    retreat: int = 0  # one whose text is implausible moves towards its nearest text
    best_of: int = 1  # texts of a kept place, sampled but for one: that which comes back nearest
    passes: int = 0  # decodes of a kept place with coordinates dropped: texts have to agree
    least_agreement: float | None = None  # share of their words in common; None: `with_limit`'s
    temperature: float = 0.5  # of samples

    def __post_init__(self) -> None:
        """InputError for numbers that mean nothing."""
        for name, good, wanted in (
            ("steps", self.steps >= 0, "0 or more"), ("retreat", self.retreat >= 0, "0 or more"),
            ("passes", self.passes >= 0, "0 or more"), ("best_of", self.best_of >= 1, "1 or more"),
            ("walked", 0 <= self.walked <= 1, "0 to 1"),
            ("least_agreement", 0 <= (self.least_agreement or 0) <= 1, "0 to 1"),
            ("temperature", 0 < self.temperature < np.inf, "above 0, and finite"),
        ):  # fmt: skip
            if not good:
                given = getattr(self, name)
                raise InputError(f"correction: {name} is {given}; it must be {wanted}")
        if (self.steps or self.retreat) and not self.settled:
            raise InputError("correction: steps and retreat correct what settles; set settled")

    @property
    def decodes_a_text(self) -> int:
        """What a kept place costs."""
        return self.best_of + self.passes

    @classmethod
    def of(cls, lines: Sequence[str]) -> Correction:
        """From lines like "steps=5" or "settled=false"; InputError names what does not fit."""
        values = dict(change(line, "--correction", "steps=5") for line in lines)
        known = [field.name for field in fields(cls)]
        if unknown := values.keys() - known:
            raise InputError(f"--correction {min(unknown)!r}: there are {', '.join(known)}")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise InputError(f"--correction {first_fault(error)}") from error


USUAL = Correction()


@dataclass(frozen=True)
class Written:
    """One arm's texts, the places they were written from, and what that cost."""

    arm: str
    texts: tuple[str, ...]
    points_nD: Vectors | None  # None: an arm without places
    decodes: int  # those of settling included
    starts: int = 0  # places begun with
    likely: int = 0  # texts met on the way that are plausible

    def only(self, plausible: Plausible | None) -> Written:
        """Without the implausible texts and their places; they have cost what they cost."""
        if plausible is None or not self.texts:
            return self
        return self.of_rows(plausible(filled(self.texts)))

    def of_rows(self, chosen_n: Mask) -> Written:
        """Some of its texts, at the same cost."""
        texts = tuple(text for text, good in zip(self.texts, chosen_n, strict=True) if good)
        points_nD = None if self.points_nD is None else self.points_nD[chosen_n]
        return replace(self, texts=texts, points_nD=points_nD)

    def patches(self, field: Field) -> list[str]:
        """The patch of the cloud that each text was written from.

        Texts of one patch are not independent. Without a place a text stands for itself.
        """
        if self.points_nD is None or not self.texts:
            return list(self.texts)
        return [f"patch {patch}" for patch in field.patch_rows(self.points_nD)]


class Settling:
    """Settles places and writes from those kept; counts decodes."""

    def __init__(
        self, model: Autoencoder, field: Field, budget: int, plausible: Plausible | None = None,
        how: Correction = USUAL,
    ) -> None:  # fmt: skip
        self.model, self.field, self.budget = model, field, budget
        self.plausible, self.how = plausible, how
        self.starts = self.likely = self._settled = 0
        self._kept: list[Vectors] = []
        self._arrived: dict[str, Vectors | None] = {}  # of each text that was told; None: no good

    @property
    def spent(self) -> int:
        """Decodes, those that kept places will cost included."""
        return self._settled + self.how.decodes_a_text * sum(map(len, self._kept))

    @property
    def kept_nD(self) -> Vectors:
        """Places to write from, (n, D)."""
        return np.concatenate(self._kept) if self._kept else np.empty((0, 0), np.float32)

    def settle(
        self, points_SD: Vectors, fits: Fits | None = None, *, corrected: bool = True
    ) -> Vectors:
        """Where texts of places lie that are plausible, fit, and did not come before, (n, D).

        The places themselves where they are not to be settled.
        """
        self.starts += len(points_SD)
        if not self.how.settled:
            return points_SD
        steps, retreat = (self.how.steps, self.how.retreat) if corrected else (0, 0)
        at_SD, aim_SD, found = points_SD, points_SD, [points_SD[:0]]
        for turn in range(1 + max(steps, retreat)):
            if turn:  # half of what is left is for what is written
                room = max(0, (self.budget - self.spent) // 2)
                at_SD, aim_SD = at_SD[:room], aim_SD[:room]
            if not len(at_SD):
                break
            new_S, likely_S, arrived_SD = self._told(at_SD)
            fits_S = likely_S.copy()
            if fits and likely_S.any():
                fits_S[likely_S] = fits(arrived_SD[likely_S])
            found.append(arrived_SD[new_S & fits_S])
            astray_S = likely_S & ~fits_S & (turn < steps)
            stepped_SD = self._against(at_SD[astray_S], aim_SD[astray_S], arrived_SD[astray_S])
            nearer_SD = self._nearer(at_SD[~likely_S & (turn < retreat)])
            if fits and len(nearer_SD):
                nearer_SD = nearer_SD[fits(nearer_SD)]
            at_SD = np.concatenate([stepped_SD, nearer_SD])
            aim_SD = np.concatenate([aim_SD[astray_S], nearer_SD])
        return np.concatenate(found)

    def keep(self, points_nD: Vectors) -> None:
        """Write from these, as far as the budget allows."""
        room = (self.budget - self.spent) // self.how.decodes_a_text
        self._kept.append(points_nD[: max(0, room)])

    def write(self, arm: str, rng: np.random.Generator) -> Written:
        """A text of each kept place, where it is plausible and its passes agree."""
        points_nD = self.kept_nD
        texts = self.model.decode(points_nD) if len(points_nD) else []
        if texts and self.how.best_of > 1:
            texts = self._best(points_nD, texts, rng)
        written = Written(arm, tuple(texts), points_nD, self.spent, self.starts, self.likely)
        if texts and self.how.passes:
            agreed_n = agreement(self.model, points_nD, texts, self.how.passes, rng)
            written = written.of_rows(agreed_n >= (self.how.least_agreement or 0))
        return written.only(self.plausible)

    def _told(self, points_SD: Vectors) -> tuple[Mask, Mask, Vectors]:
        """Which places tell a new text, which a plausible one, and where that lies, else zero."""
        self._settled += len(points_SD)
        texts = filled(self.model.decode(points_SD))
        first = {text: row for row, text in reversed([*enumerate(texts)])}
        new = [text for text in dict.fromkeys(texts) if text not in self._arrived]
        good = self.plausible(new) if self.plausible and new else np.ones(len(new), bool)
        likely = [text for text, good in zip(new, good, strict=True) if good]
        self.likely += len(likely)
        self._arrived.update(dict.fromkeys(new))
        if likely:
            self._arrived.update(zip(likely, self.model.encode(likely), strict=True))
        new_S = np.zeros(len(texts), bool)
        new_S[[first[text] for text in new]] = True
        arrived = [self._arrived[text] for text in texts]
        likely_S = np.array([one is not None for one in arrived])
        none_D = np.zeros_like(points_SD[0])
        return new_S, likely_S, np.array([none_D if one is None else one for one in arrived])

    def _against(self, at_SD: Vectors, aim_SD: Vectors, arrived_SD: Vectors) -> Vectors:
        """Places moved by as much as their texts missed the aim, the other way."""
        if not len(at_SD):
            return at_SD
        own = self.field.own
        return self.field.lifted(unit(own(at_SD) + own(aim_SD) - own(arrived_SD)))

    def _nearer(self, points_SD: Vectors) -> Vectors:
        """Places moved towards the text nearest to each, along the great circle."""
        if not len(points_SD):
            return points_SD
        own_SJ = self.field.own(points_SD)
        nearest_SJ = self.field.index.cloud_ND[self.field.index.ids(own_SJ, 1)[:, 0]]
        return self.field.lifted(slerp(own_SJ, nearest_SJ, BACK))

    def _best(self, points_nD: Vectors, texts: list[str], rng: np.random.Generator) -> list[str]:
        """Of each place's plausible texts that which comes back nearest to it."""
        import torch

        from cllm.base import Generation

        how = Generation(sample=True, temperature=self.how.temperature)
        torch.manual_seed(int(rng.integers(1 << 31)))
        drawn = [texts, *(self.model.decode(points_nD, how) for _ in range(self.how.best_of - 1))]
        own_nJ = self.field.own(points_nD)
        away_Bn = np.stack([self._away(own_nJ, filled(some)) for some in drawn])
        return [drawn[row][place] for place, row in enumerate(away_Bn.argmin(0))]

    def _away(self, own_nJ: Vectors, texts: list[str]) -> NDArray[np.float64]:
        """How far from its place each text comes back, radians; half a turn if implausible."""
        away_n = angle(self.field.own(self.model.encode(texts)), own_nJ)
        return np.where(self.plausible(texts), away_n, np.pi) if self.plausible else away_n


def agreement(
    model: Autoencoder, points_nD: Vectors, texts: Sequence[str], passes: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:  # fmt: skip
    """Share of words that a place's text has in common with those of its passes, (n,)."""
    shared_n = np.zeros(len(texts))
    for _ in range(passes):
        kept_nD = rng.random(points_nD.shape) >= DROPPED
        kept_nD[np.arange(len(texts)), np.abs(points_nD).argmax(1)] = True  # a direction stays
        others = model.decode(unit(points_nD * kept_nD))
        shared_n += [_in_common(*pair) for pair in zip(texts, others, strict=True)]
    return shared_n / passes


def with_limit(how: Correction, model: Autoencoder, held_out_MD: Vectors) -> Correction:
    """The same with its `least_agreement`, where it has passes and none is given.

    It is what nearly all held-out texts' vectors have; found once a model, no arm's cost.
    """
    if not how.passes or how.least_agreement is not None:
        return how
    rows, rng = spaced(len(held_out_MD), PUT_TO_TEST), np.random.default_rng(0)
    some_MD = held_out_MD[rows]
    agreed_M = agreement(model, some_MD, model.decode(some_MD), how.passes, rng)
    return replace(how, least_agreement=float(np.quantile(agreed_M, 1 - ASSURED)))


def filled(texts: Sequence[str]) -> list[str]:
    """Empty texts made encodable."""
    return [text or " " for text in texts]


def _in_common(a: str, b: str) -> float:
    """Words that both have, of all words of the longer one."""
    left, right = (Counter(WORD.findall(text.lower())) for text in (a, b))
    return (left & right).total() / max(1, left.total(), right.total())
