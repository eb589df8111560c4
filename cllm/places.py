"""Where new texts can be written from in one run, and what comes of it there.

A request looks anywhere in voids, in one void, near a text, between two texts, or among the texts
of a topic; candidates come in blocks, each of which follows from the request and its number alone.

    places = Places.of(run, model)
    starts_SD = places.starts(Where(topic="leek soup"), anchors_AD, seed=0, block=0)
"""

# Shapes: N training texts, D coordinates, K of the prefix, J of the cloud's subspace, S starts,
# A anchors, n places.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cllm.arms import step_shares, steps_off
from cllm.field import SEARCH, Field
from cllm.ideas import Idea, judge_arrived, load_ideas, places_of
from cllm.judge import Judge
from cllm.run import RunFolder
from cllm.settling import Written
from cllm.sphere import ExactIndex, any_direction, prefix, slerp, stepped, unit
from cllm.store import Latents
from cllm.subjects import amid, around, require_groups, subjects_of
from cllm.void_balls import radii_off, void_around
from cllm.void_files import standing_voids
from cllm.voids import Void, as_voids, climb
from cllm.where import BLOCK, NoSuchPlace, Spot, Where
from cllm.words import WordIndex
from cllm.writing import field_of, make_judge

if TYPE_CHECKING:  # whose torch takes seconds to import
    from cllm.model import CLLM

Vectors = NDArray[np.float32]
Floats64 = NDArray[np.float64]

BETWEEN = (0.15, 0.85)  # of the way from one text to another
TRIED = 20  # draws for a block at most, where few places are what is asked for


@dataclass(frozen=True)
class Places:
    """The cloud of a run's training texts, its voids, and the judge of what is written there."""

    field: Field
    voids: tuple[Void, ...]  # that stand, emptiest first
    judge: Judge
    train: Latents
    known_nD: Vectors  # places in voids that texts, new ones if any, were written from before
    subjects: tuple[str, ...] | None = None  # of the training texts, where they are known

    @classmethod
    def of(cls, run: RunFolder, model: CLLM | None = None, *, keep: bool = True) -> Places:
        """`keep`: what is learnt for it may be written to the run folder.

        `model`: the run's, which is loaded where it is needed and not given.
        InputError: the run lacks latents, or they are of another model.
        """
        corpus, latents = run.load_trained_corpus(), run.load_latents(model)
        train, judge = latents.select("train"), make_judge(run, model, corpus)
        field = field_of(run, model, judge, latents, np.random.default_rng([0, 2]), keep=keep)
        ideas = load_ideas(run.ideas, latents.model_hash) if run.ideas.exists() else []
        in_voids = [idea for idea in ideas if idea.arm == "void"]
        new = [idea for idea in in_voids if idea.yields]
        known_nD = places_of(new or in_voids, train.vectors_ND.shape[1])
        voids = standing_voids(run, latents.model_hash, train)
        return cls(
            field, tuple(voids), judge, train, known_nD[field.is_void(known_nD)],
            subjects_of(corpus, train.ids),
        )  # fmt: skip

    def starts(
        self, where: Where, anchors_AD: Vectors, seed: int, first: int, blocks: int
    ) -> Vectors:
        """Candidates of some blocks, (S, D), BLOCK of each at most; the same for equal arguments.

        `anchors_AD`: vectors of `where.anchors`. NoSuchPlace: there is no such void or topic.
        """
        if where.of_groups:
            require_groups(where.group, self.subjects)
        drawn = [
            self._amid(where, anchors_AD, np.random.default_rng([seed, block]))
            for block in range(first, first + blocks)
        ]
        return np.concatenate(drawn)

    def _amid(self, where: Where, anchors_AD: Vectors, rng: np.random.Generator) -> Vectors:
        """A block; where groups are asked for, of several draws those that lie amid them."""
        if not where.of_groups:
            return self._block(where, anchors_AD, rng)
        kept: list[Vectors] = []
        for _ in range(TRIED):
            drawn_SD = self._block(where, anchors_AD, rng)
            fit = [amid(some, where.groups, where.group) for some in self._around_of(drawn_SD)]
            kept.append(drawn_SD[fit])
            if sum(map(len, kept)) >= BLOCK:
                break
        return np.concatenate(kept)[:BLOCK]

    def _around_of(self, points_nD: Vectors) -> list[tuple[str, ...]]:
        """Subjects of the texts on the rim of the empty ball that each place lies in."""
        if self.subjects is None or not len(points_nD):
            return [() for _ in points_nD]
        support = self.field.support
        centre_nJ = unit(climb(support, self.field.own(points_nD), 1)[0]).astype(np.float64)
        balls = as_voids(support, SEARCH, centre_nJ, np.ones(len(centre_nJ), bool))
        return [around(self.subjects, self.field.row_N[list(ball.rim)]) for ball in balls]

    def _block(self, where: Where, anchors_AD: Vectors, rng: np.random.Generator) -> Vectors:
        if where.between is not None:
            return slerp(anchors_AD[0], anchors_AD[1], rng.uniform(*BETWEEN, BLOCK))
        if where.near is not None:
            return self._around(np.repeat(anchors_AD, BLOCK, 0), rng)
        if where.topic is not None:
            rows = self._rows_of(where.topic)
            return self._around(self.train.vectors_ND[rng.choice(rows, BLOCK)], rng)
        if where.void is not None:
            return self._within(self.void(where.void), rng)
        return self._anywhere(rng)

    def void(self, number: int) -> Void:
        """The void of that id; InputError where none stands."""
        found = next((void for void in self.voids if void.id == number), None)
        if found is None:
            ids = ", ".join(str(void.id) for void in self.voids) or "none"
            raise NoSuchPlace(f"no void {number}; those that stand: {ids}")
        return found

    def look(self, points_nD: Vectors, *, groups: bool = False) -> list[Spot]:
        """What places are like; with `groups` also what is around, which takes longer."""
        if not len(points_nD):
            return []
        seen, in_void_n = self.field.look(points_nD), self.field.is_void(points_nD)
        radius_n = self.field.index.search(self.field.own(points_nD), 1)[0][:, 0]
        ids = void_around(points_nD, self.voids)
        amidst = self._around_of(points_nD) if groups else [()] * len(ids)
        facts = zip(seen.score_n, radius_n, in_void_n, ids, amidst, strict=True)
        return [
            Spot(float(score), float(radius), bool(inside), one, some)
            for score, radius, inside, one, some in facts
        ]

    def settled(self, where: Where, points_nD: Vectors) -> list[Spot | None]:
        """What places are like; None for those that are not where they were asked for."""
        spots: Sequence[Spot | None] = self.look(points_nD, groups=where.of_groups)
        if where.void is not None:
            void = self.void(where.void)
            far_n = radii_off(points_nD, [void])[:, 0]
            spots = [
                replace(spot, void_id=void.id) if spot and far < 1 else None
                for spot, far in zip(spots, far_n, strict=True)
            ]
        return [spot if spot and self._fits(where, spot) else None for spot in spots]

    def _fits(self, where: Where, spot: Spot) -> bool:
        empty = spot.score >= where.least_score and spot.radius >= where.least_radius
        inside = spot.in_void or not where.in_voids
        return empty and inside and amid(spot.groups, where.groups, where.group)

    def judged(self, points_nD: Vectors, texts: Sequence[str], arrived_nD: Vectors) -> list[Idea]:
        """What was written from places; `arrived_nD`: the texts' own vectors."""
        written = Written("place", tuple(texts), points_nD, 0)
        return judge_arrived(self.judge, written, arrived_nD, self._index)

    @cached_property
    def _index(self) -> ExactIndex:
        return ExactIndex(prefix(self.train.vectors_ND, self.field.void_dim))

    @cached_property
    def _whole(self) -> ExactIndex:
        return ExactIndex(self.train.vectors_ND)

    @cached_property
    def _words(self) -> WordIndex:
        return WordIndex.of(self.train.texts)

    def _rows_of(self, topic: str) -> NDArray[np.int64]:
        """Training texts that have all words of a topic."""
        rows = self._words.rows(topic)
        if not len(rows):
            raise NoSuchPlace(f"no text has all words of {topic!r}; try fewer, or other ones")
        return rows

    def _around(self, base_SD: Vectors, rng: np.random.Generator) -> Vectors:
        """Steps off texts in random directions of the whole sphere, in proportion to their d_k."""
        dk_S = self._whole.search(base_SD, SEARCH.neighbours)[0][:, -1]
        length_S = step_shares(len(base_SD), rng) * dk_S
        return stepped(base_SD, any_direction(base_SD, rng), length_S)

    def _within(self, void: Void, rng: np.random.Generator) -> Vectors:
        """Places in a void: half of them steps off places known there, where some are; else drawn.

        Drawn: at any distance from its centre within its radius.
        """
        here_nD = self.known_nD[radii_off(self.known_nD, [void])[:, 0] < 1]
        walked_SD = steps_off(self.field, here_nD, BLOCK // 2, rng)
        count = BLOCK - len(walked_SD)
        centre_1J = self.field.own(void.centre_K[None])
        centre_SJ = np.repeat(centre_1J, count, 0)
        length_S = void.radius * rng.random(count)
        drawn_SD = self.field.lifted(stepped(centre_SJ, any_direction(centre_SJ, rng), length_S))
        return np.concatenate([walked_SD, drawn_SD[self.field.is_void(drawn_SD)]])

    def _anywhere(self, rng: np.random.Generator) -> Vectors:
        """Steps off places in voids that are known; where none are, drawn as the finder draws."""
        if not np.isfinite(self.field.least_score):
            raise NoSuchPlace("voids were not sought in this run; run `cllm voids`")
        if not len(self.known_nD):
            drawn_SD = self.field.proposals(TRIED * BLOCK, rng)
            return drawn_SD[self.field.is_void(drawn_SD)][:BLOCK]
        return steps_off(self.field, self.known_nD, BLOCK, rng)
