"""Fit a CLLM to a corpus over a base; where texts are long, one of their passages first.

fitted = fit_cllm(base, corpus, settings, limit=128, folder=folder, spread=Spread())
base = passages_base(run, settings, Spread())   # of whole texts; trains base/passages
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cllm.arrays import TokenArrays
from cllm.artefacts import finished, remember
from cllm.base import BaseLM
from cllm.corpus import Corpus
from cllm.editor import fit_editor
from cllm.errors import InputError
from cllm.files import digest, replacing
from cllm.levels import Passages
from cllm.losses import Rebuilding, Restoring
from cllm.model import CLLM
from cllm.passages import passages_of
from cllm.progress import training_progress
from cllm.run import RunFolder, training_facts
from cllm.settings import RunSettings, TrainSettings
from cllm.training import Fit, Spread, fit
from cllm.training_texts import TrainingTexts

log = logging.getLogger(__name__)

GIB = 2**30
ROOM = 4 * GIB  # of passages' vectors that are kept in memory, in bytes
MOVED = 0.3  # angle by which vectors of passages are moved while these are learnt, rad
REBUILDING = 0.3  # share of the time of a CLLM over passages in which it writes nothing yet


@dataclass(frozen=True)
class Fitted:
    """A CLLM with its best weights, what it was trained on, and how long."""

    model: CLLM
    texts: TrainingTexts
    result: Fit
    prefixes: list[int]
    others: tuple[Fit, ...] = ()  # before it, or of its editor

    def remove(self) -> None:
        """The checkpoints, once all is safe."""
        for training in (*self.others, self.result):
            training.checkpoint.remove()


def fit_cllm(
    base: BaseLM, corpus: Corpus, settings: RunSettings, limit: int, folder: Path,
    spread: Spread, name: str = "CLLM",
) -> Fitted:  # fmt: skip
    """Train one for texts of up to `limit` tokens (passages, over two levels)."""
    texts = TrainingTexts.of(base, corpus, settings.train, limit)
    log.info("the %s takes texts of up to %d %s", name, texts.context, base.unit)
    torch.manual_seed(settings.train.loop.seed)
    if isinstance(base, Passages):
        base.rows = texts.context
        size = 4 * base.rows * base.width * (len(texts.both) + len(texts.held_out))
        if size <= ROOM:
            base.known = TokenArrays.of(base, [texts.both, texts.held_out])
        else:
            log.info("passages' vectors take %.0f GiB and are worked out at every step", size / GIB)
    model = CLLM.from_base(base, context=texts.context, **settings.model.model_dump())
    model.config.nested = settings.train.nested
    model.start(texts.real)
    if spread.settings.checkpointing:
        model.recompute()
    loop, others = settings.train.loop, []
    if isinstance(base, Passages) and model.config.form == "mirrored":
        rebuilding = Rebuilding(model, settings.train, texts.held_out)
        part, loop = loop.for_share(REBUILDING), loop.for_share(1 - REBUILDING)
        part = part.model_copy(update={"plateau": 0.0})  # which is in nats
        with training_progress(f"{name}, arrays alone") as report:
            others = [fit(rebuilding, texts.both, part, folder.with_name("arrays"), report)]
    task = Restoring(model, settings.train, texts.held_out, spread.workers, texts.edits)
    with training_progress(name) as report:
        result = fit(task, texts.both, loop, folder, report, spread=spread)
    model.train(False)
    if settings.editor:
        own = replace(spread, report=None)  # which is told of the CLLM
        others.append(fit_editor(model, texts, settings, folder.with_name("editor"), own))
    return Fitted(model, texts, result, task.prefixes, tuple(others))


def passages_base(run: RunFolder, settings: RunSettings, spread: Spread) -> Passages:
    """The base of whole texts: a CLLM of their passages, trained if it is not there.

    It gets the same time as the one above it.

    Raises:
        InputError: more coordinates than passages, or a model needs the one that is there.
    """
    base, corpus = run.load_base(), passages_of(run.load_corpus(), settings.passage)
    how, context = below(settings), int(run.notes()["base"]["context"])
    made_from = digest(how.model_dump_json(include={"model", "train"}), base.hash, corpus.hash)
    if finished(run.passages, made_from):
        run.note("passages", training_facts(run.passages))
        return Passages(CLLM.load(run.passages), settings.passage)
    if run.model.is_dir() and run.passages.is_dir():
        raise InputError(
            f"{run.model} needs {run.passages}, which has other settings or is an older version's; "
            "name another --run, or move that model away"
        )
    require_enough_texts(corpus, how.model.dim)
    folder = run.path / "training" / "passages"
    fitted = fit_cllm(
        base, corpus, how, context, folder, replace(spread, report=None), "CLLM of passages"
    )
    fitted.model.config.base = ".."
    if spread.workers.first:
        facts = {"dim": how.model.dim, "hash": fitted.model.hash, "context": fitted.texts.context,
                 "passages": len(corpus), "steps": fitted.result.steps}  # fmt: skip
        with replacing(run.passages) as new:
            fitted.model.save_pretrained(new)
            remember(new, made_from, how, facts)
        fitted.remove()
        run.note("passages", facts)
    return Passages(fitted.model, settings.passage)


def below(settings: RunSettings) -> RunSettings:
    """How the CLLM of passages is trained: to restore them, from prefixes and moved vectors too.

    Its decoder then knows what to make of vectors that are not quite right, as the level above
    unfolds them.
    """
    own = settings.train
    train = TrainSettings(
        vector_noise=max(own.vector_noise, MOVED), array_weight=own.array_weight, loop=own.loop
    )
    model = settings.model.model_copy(update={"dim": settings.passage_dim})
    return settings.model_copy(update={"model": model, "train": train, "passage": 0, "editor": 0})


def halved(settings: RunSettings) -> RunSettings:
    """Half the time for each of two levels."""
    train = settings.train.model_copy(update={"loop": settings.train.loop.for_share(0.5)})
    return settings.model_copy(update={"train": train})


def require_enough_texts(corpus: Corpus, dim: int) -> None:
    """Refuse a vector of more coordinates than there are training texts; raises InputError."""
    count = len(corpus.select("train"))
    if dim > count:
        raise InputError(
            f"d = {dim} is more than the {count} training texts: such a vector would only number "
            "them; choose a smaller --dim, or give more texts"
        )
