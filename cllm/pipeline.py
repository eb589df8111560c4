"""The steps of the chain, one function each, over a run folder.

Each writes its own part and its section of report.json; nothing else is touched.
    run = RunFolder(Path("runs/demo"))
    train_model(run, settings); embed_corpus(run); search_voids(run, seed=0)
"""

# Shapes: N texts, D bottleneck, K prefix.
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cllm.arrays import TokenArrays
from cllm.artefacts import finished, identity, remember
from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.cards import command_line, write_base_card, write_model_card
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.evaluate import nats_without
from cllm.files import digest, replacing
from cllm.fitting import fit_cllm, halved, passages_base, require_enough_texts
from cllm.levels import MOST_PASSAGES, in_passages
from cllm.losses import text_nats
from cllm.metrics import bootstrap
from cllm.model import CLLM
from cllm.passages import passages_of
from cllm.pretrain import (
    held_out_texts,
    new_base,
    restored_tokens,
    train_denoising,
    train_low_rank,
)
from cllm.progress import training_progress
from cllm.reference import LONGEST, reference_rate, train_reference
from cllm.run import RunFolder, training_facts
from cllm.settings import BaseSettings, RunSettings
from cllm.store import VectorStore, collection_of, save_latents
from cllm.training import Spread

log = logging.getLogger(__name__)


def keep_corpus(run: RunFolder, corpus: Corpus) -> None:
    """Put the corpus into the run and its facts into the report."""
    if run.notes().get("corpus", {}).get("hash") != corpus.hash:
        run.forget("passages", "model", "reconstruction", "voids", "ideas")
    corpus.save(run.corpus)
    facts: dict[str, Any] = {"texts": len(corpus), "hash": corpus.hash}
    facts |= {split: len(corpus.select(split)) for split in ("train", "validation", "test")}
    least = min(facts["validation"], facts["test"])
    if least < FEW:
        log.warning("only %d held-out texts: what is measured on them says little; "
                    "give more texts", least)  # fmt: skip
    kept = ("source", "entropy_nats", "richness", "rows", "bad_rows", "near_duplicates")
    run.note("corpus", facts | {k: corpus.info[k] for k in kept if k in corpus.info})


FEW = 30  # held-out texts
FROM_SCRATCH = "from scratch"
SWAPS = "label-blind, in random order"  # how copies are made; a model with others is another model
EDITS = "with edits"  # the same of what the hard-negative term compares with


def make_base(
    run: RunFolder, settings: BaseSettings, *, passage: int = 0, reuse: bool = False
) -> None:
    """Train a small base LLM on the run's corpus until it restores held-out texts; freeze it.

    `passage`: words of the passages that it learns to restore; 0 = whole texts.
    """
    corpus = run.load_corpus()

    def new() -> BaseLM:
        return new_base(corpus, settings, name=f"{corpus.info.get('source', 'corpus')} base")

    _train_base(run, new, corpus, settings, FROM_SCRATCH, passage, reuse=reuse)


def adapt_base(
    run: RunFolder, name: str, settings: BaseSettings, *, passage: int = 0, reuse: bool = False
) -> None:
    """Fine-tune a hub model (or a folder's) until its encoder and decoder restore the corpus."""
    corpus, base = run.load_corpus(), BaseLM.load(name)
    if base.limit and settings.context > base.limit:
        raise InputError(
            f"{name} takes {base.limit} tokens, fewer than base.context = {settings.context}; "
            f"--set base.context={base.limit}"
        )
    _train_base(run, lambda: base, corpus, settings, base.hash, passage, reuse=reuse)


def _train_base(
    run: RunFolder, make: Callable[[], BaseLM], corpus: Corpus, settings: BaseSettings,
    origin: str, passage: int, *, reuse: bool,
) -> None:  # fmt: skip
    made_from = identity(settings, corpus.hash, origin, *([str(passage)] if passage else []))
    texts = passages_of(corpus, passage) if passage else corpus
    if reuse and finished(run.base, made_from):
        run.note("base", training_facts(run.base))
        return
    if run.model.is_dir():
        raise InputError(
            f"{run.model} needs the base that this would replace; name another --run, or move "
            "that model away"
        )
    begun = time.perf_counter()
    base = make()
    folder = run.path / "training" / "base"
    with training_progress("base LLM") as report:
        adapting = origin != FROM_SCRATCH
        stages = [train_denoising(base, texts, settings, folder, report, adapting=adapting)]
    if settings.rank:
        with training_progress("base LLM, low rank") as report:
            stages += [train_low_rank(base, texts, settings, folder / "low_rank", report)]
    facts = base_facts(base, texts, settings.context) | {"corpus_hash": corpus.hash}
    facts |= {"passage": passage} if passage else {}
    run.forget("passages", "model", "reconstruction", "voids", "ideas")
    with replacing(run.base) as new:
        base.save(new)
        remember(new, made_from, settings, facts)
        write_base_card(new, facts, corpus, settings.loop.seed, command_line())
    for stage in stages:
        stage.checkpoint.remove()
    run.note("base", facts)
    run.time("base", begun)
    log.info("the base restores %.2f %% of held-out tokens", 100 * facts["restored_tokens"])


def base_facts(base: BaseLM, corpus: Corpus, context: int) -> dict[str, Any]:
    """Name, size, and the share of validation tokens it restores without a bottleneck."""
    held_out = held_out_texts(base, corpus, context)
    return {
        "name": base.name,
        "parameters": base.parameters,
        "hash": base.hash,
        "context": context,
        "corpus_hash": corpus.hash,
        "restored_tokens": restored_tokens(base, held_out),
    }


def make_reference(run: RunFolder, settings: RunSettings, *, reuse: bool = False) -> None:
    """Train the LM that says what a text costs without a vector; kept inside the base's folder.

    It gets the CLLM's own budget, unless `reference_seconds` says otherwise.
    """
    base, corpus, budget = run.load_base(), run.load_corpus(), settings.train.loop
    loop = settings.base.loop.model_copy(
        update={
            "seconds": settings.reference_seconds or budget.seconds,
            "steps": budget.steps,
            "lr": reference_rate(base.width),
        }
    )
    whole = [f"{settings.passage} words, {LONGEST} tokens"] if settings.passage else []
    made_from = identity(loop, base.hash, corpus.hash, *whole)
    if reuse and finished(run.reference, made_from):
        return
    how = settings.base.model_copy(update={"loop": loop})
    base = in_passages(base, settings)
    begun = time.perf_counter()
    with training_progress("reference LM") as report:
        folder = run.path / "training" / "reference"
        reference, result = train_reference(base, corpus, how, folder, report)
    with replacing(run.reference) as new:
        reference.save(new)
        remember(new, made_from, loop, {"seconds": result.seconds, "steps": result.steps})
    result.checkpoint.remove()
    run.time("reference", begun)


def borrow_base(run: RunFolder, source: Path) -> None:
    """Copy another run's base (and its reference LM) into this one."""
    import shutil

    told = training_facts(source)
    facts = base_facts(BaseLM.load(source), run.load_corpus(), told["context"])
    with replacing(run.base) as new:
        shutil.copytree(source, new)
    run.note("base", facts | {"name": told["name"]})


def require_restoring(run: RunFolder, minimum: float, *, allow_weak: bool) -> None:
    """Refuse a base that cannot restore texts even without a bottleneck.

    Raises:
        InputError: it restores less than `minimum` of held-out tokens and that was not allowed.
    """
    corpus, facts = run.load_corpus(), run.notes().get("base", {})
    share = facts.get("restored_tokens")
    if share is None or facts.get("corpus_hash") != corpus.hash:
        raise InputError(
            f"{run.base} was never tested on this corpus; make it with `cllm pretrain`"
        )
    facts |= {"minimum_restored": minimum}
    run.note("base", facts)
    if share >= minimum:
        return
    if not allow_weak:
        raise InputError(
            f"the base restores {100 * share:.2f} % of held-out tokens without any bottleneck, "
            f"below {100 * minimum:.0f} %: no vector could carry the text through it; "
            "train longer (--base-seconds of `cllm run` and `cllm pizza`, --seconds of `cllm "
            "pretrain` and `adapt`), or go on with --allow-weak-base"
        )
    run.note("base", facts | {"weak_base_allowed": True})


def train_model(
    run: RunFolder, settings: RunSettings, *, allow_weak: bool = False, reuse: bool = False,
    spread: Spread | None = None, known: TokenArrays | None = None,
) -> None:  # fmt: skip
    """Train a CLLM over the run's base on its corpus; keeps the best by held-out gain.

    With several workers all call it; the first one writes what comes of it. `known` token
    embeddings, of the same base, are not worked out again.
    """
    spread = spread or Spread(settings.parallel)
    first, begun = spread.workers.first, time.perf_counter()
    require_restoring(run, settings.base.minimum_restored, allow_weak=allow_weak)
    corpus = run.load_corpus()
    require_enough_texts(corpus, settings.model.dim)
    if settings.passage:
        settings = halved(settings)
    base, limit = _base_for(run, settings, spread, known)
    # what comes after the CLLM does not make it another one
    how = settings.model_dump_json(include={"model", "train", "void_dim", "seed"})
    train = settings.train
    made = {SWAPS: train.swaps, EDITS: train.negative_weight and train.negative_copies,
            f"edited {settings.editor} times": settings.editor,
            "arrays first": settings.passage}  # fmt: skip
    made_from = digest(how, base.hash, corpus.hash, *(way for way, used in made.items() if used))
    if reuse and finished(run.model, made_from):
        if first:
            run.note("model", training_facts(run.model))
        return
    folder = run.path / "training" / "model"
    fitted = fit_cllm(base, corpus, settings, limit, folder, spread)
    model, texts, result = fitted.model, fitted.texts, fitted.result
    if not first:
        return
    model.config.void_dim = settings.void_dim or choose_void_dim(
        run, model, texts.held_out, fitted.prefixes
    )
    facts = model_facts(model) | {
        "corpus_hash": corpus.hash, "steps": result.steps, "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
    }  # fmt: skip
    if settings.train.loop.plateau:
        facts |= {"plateau": result.plateau}
    if texts.copies:
        named = len(corpus.withheld_in(texts.copies))
        facts |= {"copies": len(texts.copies), "withheld_in_copies": named}
    run.forget("reconstruction", "voids", "ideas")
    with replacing(run.model) as new:
        model.save_pretrained(new)
        base.tokenizer.save_pretrained(new)
        remember(new, made_from, settings, facts)
        write_model_card(new, facts, corpus, settings.seed, command_line(), {})
    for name in ("metrics.jsonl", "tensorboard"):  # those of the model that is there now
        with replacing(run.path / name) as new:
            (folder / name).rename(new)
    fitted.remove()
    run.note("model", facts)
    run.note("seed", settings.seed)
    run.time("train", begun)


def _base_for(
    run: RunFolder, settings: RunSettings, spread: Spread, known: TokenArrays | None
) -> tuple[BaseLM, int]:
    """The base of a CLLM, and the longest context there is over it.

    Raises:
        InputError: it is not the base that was tested; more is to be trained than a cluster can.
    """
    base, told = run.load_base(), run.notes()["base"]
    if base.hash != told["hash"]:
        raise InputError(
            f"{run.base} is not the base that was tested; make it again with `cllm pretrain`"
        )
    if known and known.base_hash != base.hash:
        raise ValueError(f"token embeddings of base {known.base_hash} are not those of {base.hash}")
    if (learnt := told.get("passage", 0)) != settings.passage:
        raise InputError(
            f"{run.base} learnt {_learnt(learnt)}, not {_learnt(settings.passage)}; make one with "
            "`cllm pretrain` into another --run"
        )
    several = spread.place is not None or spread.workers.count > 1
    if several and (settings.passage or settings.editor):
        raise InputError(
            "passages and an editor are trained by one process so far; use `cllm train`"
        )
    base.known = known
    if settings.passage:
        return passages_base(run, settings, spread), MOST_PASSAGES
    return base, told["context"]


def _learnt(passage: int) -> str:
    return f"passages of {passage} words" if passage else "whole texts"


def require_same_texts(run: RunFolder, corpus: Corpus) -> None:
    """Refuse a run folder with a model of other texts, which would be lost; raises InputError."""
    if run.model.is_dir() and training_facts(run.model).get("corpus_hash") != corpus.hash:
        raise InputError(f"{run.model} was trained on other texts; name another --run")


def choose_void_dim(
    run: RunFolder, model: CLLM, validation: TokenTexts, trained: Sequence[int]
) -> int:
    """The shortest prefix of 4 or more, of those trained, that says something of validation texts.

    "Something": a gain, surely above 0, over the cheaper of null vector and reference LM. A
    plain model has no prefixes. Where none gains, a single one that was trained is taken, as it
    is there for the voids, else the whole vector.
    """
    dim: int = model.config.dim
    if not model.config.nested:
        return dim
    without_N = nats_without(model, run.find_reference(model.base), validation, None)
    for k in trained:
        if k >= 4:
            gain_N = without_N - text_nats(model, validation, k)
            if bootstrap(gain_N, np.random.default_rng(0)).low > 0:
                return k
    taken = trained[0] if len(trained) == 1 and trained[0] >= 4 else dim
    log.warning("no prefix gains on validation: voids are sought in %d of %d coordinates, "
                "of which little may come back as text; train longer", taken, dim)  # fmt: skip
    return taken


def model_facts(model: CLLM) -> dict[str, Any]:
    """The report's `model` section."""
    from cllm.reductions import plan_reductions

    c = model.config
    facts: dict[str, Any] = {"passage": c.passage} if c.passage else {}
    facts |= {
        "dim": c.dim,
        "void_dim": c.void_dim,
        "nested": c.nested,
        "form": c.form,
        "context": c.context,
        "blocks": c.blocks,
        "parameters": model.parameters_count,
        "origin": "trained here",
        "hash": model.hash,
    }
    if c.form == "mirrored":
        sizes = [step.size for step in plan_reductions(c.context, c.width, c.dim)]
        facts |= {"layers": len(sizes), "reductions": [c.context * c.width, *sizes]}
    return facts


def embed_corpus(run: RunFolder, uri: str | None = None, *, replace: bool = False) -> None:
    """Vectors of every text into latents/, then into Milvus (Lite in the run folder by default).

    On a server, where runs meet, each corpus and model have a collection of their own.
    """
    begun = time.perf_counter()
    model, corpus = run.load_model(), run.load_trained_corpus()
    collection = collection_of(corpus.hash, model.hash) if uri else "texts"
    with VectorStore.open(  # first, so that a collection of another model is refused at once
        uri or run.milvus, collection, model.hash, model.config.dim, replace=replace
    ) as store:
        write_latents(run, model, corpus)
        store.upsert(run.load_latents(model))
    run.time("embed", begun)


def write_latents(run: RunFolder, model: CLLM, corpus: Corpus) -> None:
    """Vectors of every text into latents/."""
    log.info("embedding %d texts", len(corpus))
    tokens = model.tokens(corpus.texts)
    vectors_ND = model.encode_tokens(tokens)
    save_latents(run.latents, corpus.ids, corpus.splits, vectors_ND, corpus.texts, model.hash)
    run.note("corpus", run.notes().get("corpus", {}) | {"tokens": tokens.tokens, "cut": tokens.cut})
