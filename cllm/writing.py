"""What a run writes with: its judge, what it finds plausible, its cloud, and its voids.

judge = make_judge(run, model, corpus)
field = field_of(run, model, judge, latents, rng)
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cllm.corpus import Corpus
from cllm.field import Field
from cllm.files import digest, file_digest
from cllm.ideas import choose_rest
from cllm.judge import Checker, Judge
from cllm.plausibility import SURPRISE, Plausibility
from cllm.run import PLAUSIBLE, RunFolder, training_facts
from cllm.store import Latents

if TYPE_CHECKING:
    from cllm.model import CLLM

log = logging.getLogger(__name__)

REST = {"open": "nothing, they stay 0", "nearest": "the nearest text"}
PLAUSIBLE_FROM = 1000  # held-out texts that say what is likely
PLAUSIBLE_METHOD = "2"  # raised when it would be learnt otherwise


def checker_of(corpus: Corpus) -> Checker | None:
    """What tells a built-in recipe's violations; None for other texts."""
    if not corpus.info.get("richness"):
        return None
    from cllm.recipes import check

    return check


def make_judge(run: RunFolder, model: CLLM | None, corpus: Corpus) -> Judge:
    """The corpus's checker where it has one, else critic and band of the reference LM's perplexity.

    `model`: the run's, which is loaded where it is needed and not given.
    """
    train, held_out = corpus.select("train"), corpus.select("validation")
    checker = checker_of(corpus)
    if checker:
        return Judge.calibrate(train.ids, train.texts, held_out.texts, checker=checker)
    tokens_of = (model := model or run.load_model()).tokens
    reference, critic = run.load_reference(model.base), run.find_critic(model.base)

    def reality(texts: list[str]) -> Any:  # noqa: ANN401
        return critic.logits(tokens_of(texts)) if critic else None

    def likelihood(texts: list[str]) -> Any:  # noqa: ANN401
        return reference.nats_a_token(tokens_of(texts))

    known, unseen = model.as_cut(train.texts), model.as_cut(held_out.texts)  # as it writes them
    return Judge.calibrate(
        train.ids, known, unseen, log_likelihood=likelihood, critic=reality if critic else None,
    )  # fmt: skip


def make_plausible(
    run: RunFolder, model: CLLM, corpus: Corpus, surprise: float = SURPRISE, *, keep: bool = True
) -> Plausibility | None:
    """Which texts are worth writing, by the run's reference LM; None without one.

    What was learnt is kept (`keep`) beside the reference LM, for all models over that base.
    """
    if not run.reference.is_dir():
        log.warning("no reference LM in %s: implausible texts are not left out", run.base)
        return None
    reference, kept = run.load_reference(model.base), run.reference / PLAUSIBLE
    weights = file_digest(run.reference / "model.safetensors")
    made_from = digest(
        corpus.hash, model.config.base_hash, weights, str(model.config.context), str(surprise),
        PLAUSIBLE_METHOD,
    )  # fmt: skip
    known = Plausibility.load(kept, made_from, reference, model.tokens)
    if known:
        return known
    held_out = corpus.select("validation").sample(PLAUSIBLE_FROM).texts
    train = corpus.select("train").texts
    learnt = Plausibility.learn(reference, model.tokens, train, held_out, surprise)
    if keep and not run.shipped:
        learnt.save(kept, made_from)
    return learnt


def field_of(
    run: RunFolder, model: CLLM | None, judge: Judge | None, latents: Latents,
    rng: np.random.Generator, *, keep: bool = True,
) -> Field:  # fmt: skip
    """The cloud of training texts, and what is a void in it by the run's search.

    `model`: the run's, which is loaded where it is needed and not given.
    What is put beside a prefix is chosen once, by the judge, and noted (`keep`) with the voids.
    """
    notes = run.notes().get("voids", {})
    chance = notes.get("chance_score", np.inf)
    if run.voids.exists() and chance == np.inf:
        log.warning("%s does not say what chance explains; search again: cllm voids", run.voids)
    train_ND = latents.select("train").vectors_ND
    held_out_MD = latents.select("validation").vectors_ND
    void_dim = model.config.void_dim if model else int(training_facts(run.model)["void_dim"])
    field = Field.of(train_ND, held_out_MD, void_dim, chance, rng)
    if "rest" in notes:
        return replace(field, rest=notes["rest"])
    if judge is None:
        raise ValueError("nobody has chosen what is put beside a prefix, and there is no judge")
    field = choose_rest(model or run.load_model(), judge, field, held_out_MD)
    log.info("places take their other coordinates from: %s", REST[field.rest])
    if keep and notes and not run.shipped:
        run.note("voids", notes | {"rest": field.rest})
    return field
