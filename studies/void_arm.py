"""A run's void arm, for studies that write with it in several ways.

written, ideas = VoidArm.of(run, model).written(1000, rng, how)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cllm.arms import write_from_voids
from cllm.errors import InputError
from cllm.field import Field
from cllm.ideas import Idea, judge_written
from cllm.judge import Judge
from cllm.model import CLLM
from cllm.plausibility import Plausibility
from cllm.run import RunFolder
from cllm.settling import USUAL, Correction, Written
from cllm.sphere import ExactIndex, prefix
from cllm.writing import field_of, make_judge, make_plausible


@dataclass(frozen=True)
class VoidArm:
    """All that writing from voids and judging it takes."""

    model: CLLM
    field: Field
    judge: Judge
    plausible: Plausibility | None
    index: ExactIndex

    @classmethod
    def of(cls, run: RunFolder, model: CLLM | None = None) -> VoidArm:
        """`model`: one that decodes in place of the run's. InputError where no voids were sought.

        Nothing that is learnt for it is kept in the run.
        """
        own = run.load_model()
        model, corpus, latents = model or own, run.load_trained_corpus(), run.load_latents(own)
        judge = make_judge(run, model, corpus)
        field = field_of(run, model, judge, latents, np.random.default_rng([0, 2]), keep=False)
        if not np.isfinite(field.least_score):
            raise InputError(f"voids were not sought in {run.path}; run `cllm voids`")
        plausible = make_plausible(run, model, corpus, keep=False)
        index = ExactIndex(prefix(latents.select("train").vectors_ND, field.void_dim))
        return cls(model, field, judge, plausible, index)

    def written(
        self, decodes: int, rng: np.random.Generator, how: Correction = USUAL
    ) -> tuple[Written, Sequence[Idea]]:
        """Texts from voids at a budget of decodes, and the judgement of each."""
        written = write_from_voids(self.model, self.field, decodes, rng, self.plausible, how)
        return written, judge_written(self.model, self.judge, written, self.index)
