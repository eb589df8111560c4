"""The step that trains a run's critic, where its texts have no checker.

make_critic(run, settings)   # writes base/critic
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cllm.artefacts import finished, identity, remember
from cllm.base import BaseLM
from cllm.critic import Critic, Examples, train_critic
from cllm.files import replacing
from cllm.levels import in_passages
from cllm.made import real_part
from cllm.negatives import Negatives
from cllm.progress import training_progress
from cllm.reference import ReferenceLM
from cllm.run import RunFolder
from cllm.settings import LoopSettings, RunSettings
from cllm.training import Fit
from cllm.writing import checker_of

log = logging.getLogger(__name__)

RATE = 5e-4  # of learning
SCORED = 400  # texts that say which weights are best, as many real as wrong
EDITS = 0.5  # share of edits among what is wrong, the rest is rubbish: `cllm study critic`
METHOD = "3"  # raised when the same texts would give another critic


def make_critic(
    run: RunFolder, settings: RunSettings, *, reuse: bool = False, anyway: bool = False
) -> None:
    """Train the critic that judges texts without a checker; kept inside the base's folder.

    It learns real texts from small edits and from rubbish, for half the time that the CLLM has.
    `anyway`: also of texts that have a checker.
    """
    corpus = run.load_corpus()
    if checker_of(corpus) and not anyway:
        log.info("these texts have a checker, and need no critic")
        return
    base = in_passages(run.load_base(), settings)
    reference, budget = run.load_reference(base), settings.train.loop
    loop = budget.model_copy(update={
        "seconds": budget.seconds / 2, "steps": max(1, budget.steps // 2), "lr": RATE,
    })  # fmt: skip
    whole = [str(settings.passage)] if settings.passage else []
    made_from = identity(loop, base.hash, run.judged_by, METHOD, *whole)
    if reuse and finished(run.critic, made_from):
        return
    begun, rng = time.perf_counter(), np.random.default_rng([settings.seed, 7])
    # held-out ones say where the judge draws the line; what a model wrote is not real
    train = real_part(corpus).select("train").texts
    critic, result = learnt(train, reference, base, loop, rng, run.path / "training" / "critic")
    with replacing(run.critic) as new:
        critic.save(new)
        remember(new, made_from, loop, {"judged_by": run.judged_by, "steps": result.steps})
    result.checkpoint.remove()
    run.time("critic", begun)


def learnt(
    train: Sequence[str], reference: ReferenceLM, base: BaseLM, loop: LoopSettings,
    rng: np.random.Generator, folder: Path, name: str = "critic",
) -> tuple[Critic, Fit]:  # fmt: skip
    """A critic that tells these texts from wrong ones made of them; some say which is best."""
    maker, chosen_N = Negatives.of(train, rng), rng.permutation(len(train))
    scored, examples = (
        Examples.made([train[row] for row in rows], maker, rng, EDITS)
        for rows in np.split(chosen_N, [max(1, min(SCORED, len(train) // 10))])
    )
    with training_progress(name) as report:
        return train_critic(reference, base, examples, scored, loop, folder, report)
