"""The steps of the chain, one function each, over a run folder.

Each writes its own part and its section of report.json; nothing else is touched.
    run = RunFolder(Path("runs/demo"))
    train_model(run, settings); embed_corpus(run); search_voids(run, settings)
"""

# Shapes: N texts, D bottleneck, K prefix.
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cllm import __version__
from cllm.base import BaseLM
from cllm.cards import write_base_card, write_model_card
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.evaluate import Evaluation, evaluate
from cllm.files import read_json, replacing, write_json
from cllm.ideas import (
    Candidate,
    Idea,
    best_first,
    funnel,
    judge_ideas,
    load_ideas,
    prior_candidates,
    save_ideas,
    void_candidates,
    write_candidates,
    write_unaided,
)
from cllm.judge import Judge
from cllm.losses import Restoring
from cllm.map import draw_map
from cllm.metrics import hopkins, intrinsic_dimension, uniformity
from cllm.model import CLLM
from cllm.pretrain import (
    HELD_OUT,
    ReferenceLM,
    new_base,
    restored_tokens,
    token_texts,
    train_denoising,
    train_reference,
)
from cllm.progress import training_progress
from cllm.report import IdeaRow, write_report
from cllm.run import RunFolder
from cllm.settings import BaseSettings, LoopSettings, RunSettings
from cllm.sphere import prefix
from cllm.store import VectorStore, save_latents
from cllm.training import fit
from cllm.voids import VoidSettings, find_voids, load_voids, save_voids

log = logging.getLogger(__name__)

COLLECTION = "texts"


def keep_corpus(run: RunFolder, corpus: Corpus) -> None:
    """Put the corpus into the run and its facts into the report."""
    corpus.save(run.corpus)
    facts: dict[str, Any] = {"texts": len(corpus), "hash": corpus.hash}
    facts |= {split: len(corpus.select(split)) for split in ("train", "validation", "test")}
    kept = ("source", "entropy_nats", "richness", "rows", "bad_rows", "near_duplicates")
    run.note("corpus", facts | {k: corpus.info[k] for k in kept if k in corpus.info})


def fit_context(base_tokens: Sequence[Sequence[int]], limit: int) -> int:
    """The context that holds 99.5 % of the texts, a multiple of 8, at most `limit` tokens."""
    wanted = float(np.quantile([len(row) for row in base_tokens], 0.995))
    return int(min(limit, -(-wanted // 8) * 8))


def make_base(run: RunFolder, settings: BaseSettings) -> BaseLM:
    """Train a small base LLM on the run's corpus until it restores held-out texts; freeze it."""
    corpus = run.load_corpus()
    begun = time.perf_counter()
    base = new_base(corpus, settings, name=f"{corpus.info.get('source', 'corpus')} base")
    with training_progress("base LLM") as report:
        train_denoising(base, corpus, settings, run.path / "training" / "base", report)
    return _keep_base(run, base, corpus, settings, time.perf_counter() - begun)


def adapt_base(run: RunFolder, name: str, settings: BaseSettings) -> BaseLM:
    """Fine-tune a hub model (or a folder's) until its encoder and decoder restore the corpus."""
    corpus = run.load_corpus()
    begun = time.perf_counter()
    base = BaseLM.load(name)
    with training_progress(f"adapting {name}") as report:
        train_denoising(base, corpus, settings, run.path / "training" / "base", report)
    return _keep_base(run, base, corpus, settings, time.perf_counter() - begun)


def _keep_base(
    run: RunFolder, base: BaseLM, corpus: Corpus, settings: BaseSettings, seconds: float
) -> BaseLM:
    facts = base_facts(base, corpus, settings.context)
    with replacing(run.base) as new:
        base.save(new)
        write_json(new / "training.json", {"settings": settings.model_dump(), "facts": facts})
        write_base_card(new, facts, corpus, settings.loop.seed)
    run.note("base", facts, seconds=seconds)
    log.info("the base restores %.2f %% of held-out tokens", 100 * facts["restored_tokens"])
    return base


def base_facts(base: BaseLM, corpus: Corpus, context: int) -> dict[str, Any]:
    """Name, size, and the share of validation tokens it restores without a bottleneck."""
    held_out = token_texts(base, corpus.select("validation").first(HELD_OUT), context)
    return {
        "name": base.name,
        "parameters": base.parameters,
        "hash": base.hash,
        "context": context,
        "restored_tokens": restored_tokens(base, held_out),
    }


def make_reference(run: RunFolder, base: BaseLM, settings: BaseSettings) -> ReferenceLM:
    """Train the LM that says what a text costs without a vector; kept inside the base's folder."""
    begun = time.perf_counter()
    with training_progress("reference LM") as report:
        folder = run.path / "training" / "reference"
        reference = train_reference(base, run.load_corpus(), settings, folder, report)
    with replacing(run.base / "reference") as new:
        reference.save(new)
    run.note("reference", None, seconds=time.perf_counter() - begun)
    return reference


def borrow_base(run: RunFolder, source: Path) -> BaseLM:
    """Copy another run's base (and its reference LM) into this one."""
    import shutil

    base = BaseLM.load(source)
    facts = base_facts(
        base, run.load_corpus(), read_json(source / "training.json")["facts"]["context"]
    )
    with replacing(run.base) as new:
        shutil.copytree(source, new)
    run.note("base", facts)
    return base


def require_restoring(run: RunFolder, minimum: float, *, allow_weak: bool) -> None:
    """Refuse a base that cannot restore texts even without a bottleneck.

    Raises:
        InputError: it restores less than `minimum` of held-out tokens and that was not allowed.
    """
    facts = run.notes().get("base", {})
    share = facts.get("restored_tokens")
    if share is None:
        raise InputError(
            f"{run.base} was never tested on this corpus; make it with `cllm pretrain`"
        )
    if share >= minimum:
        return
    if not allow_weak:
        raise InputError(
            f"the base restores {100 * share:.2f} % of held-out tokens without any bottleneck, below "
            f"{100 * minimum:.0f} %: no vector could carry the text through it; train it longer "
            "(`cllm pretrain --seconds`, `cllm adapt`), or go on with --allow-weak-base"
        )
    run.note("base", facts | {"weak_base_allowed": True})


def train_model(run: RunFolder, settings: RunSettings, *, allow_weak: bool = False) -> CLLM:
    """Train a CLLM over the run's base on its corpus; keeps the best by held-out gain."""
    require_restoring(run, settings.base.minimum_restored, allow_weak=allow_weak)
    base, corpus = run.load_base(), run.load_corpus()
    train_part, held_part = corpus.select("train"), corpus.select("validation").first(HELD_OUT)
    limit = run.notes()["base"]["context"]
    context = fit_context(base.tokenize(train_part.texts), limit)
    torch.manual_seed(settings.train.loop.seed)
    model = CLLM.from_base(base, context=context, **settings.model.model_dump())
    model.config.void_dim = min(settings.void_dim, settings.model.dim)
    model.config.nested = settings.train.nested
    texts = token_texts(base, train_part, context)
    model.start(texts)
    task = Restoring(model, settings.train, token_texts(base, held_part, context))
    begun = time.perf_counter()
    with training_progress("CLLM") as report:
        result = fit(task, texts, settings.train.loop, run.path, report)
    model.eval()
    facts = model_facts(model) | {"steps": result.steps, "best_step": result.best_step}
    with replacing(run.model) as new:
        model.save_pretrained(new)
        write_json(new / "training.json", settings.model_dump())
        write_model_card(new, facts, corpus, settings)
    run.note("model", facts, seconds=time.perf_counter() - begun)
    return model


def model_facts(model: CLLM) -> dict[str, Any]:
    """The report's `model` section."""
    from cllm.reductions import plan_reductions

    c = model.config
    steps = plan_reductions(c.context, c.width, c.dim)
    return {
        "dim": c.dim,
        "void_dim": c.void_dim,
        "nested": c.nested,
        "form": c.form,
        "context": c.context,
        "layers": len(steps),
        "blocks": c.blocks,
        "parameters": model.parameters_count,
        "reductions": [c.context * c.width, *(step.size for step in steps)],
        "origin": "trained here",
        "hash": model.hash,
    }


def embed_corpus(run: RunFolder, uri: str | None = None, *, replace: bool = False) -> None:
    """Vectors of every text into latents/, then into Milvus (Lite in the run folder by default)."""
    begun = time.perf_counter()
    model, corpus = run.load_model(), run.load_corpus()
    vectors_ND = model.encode(corpus.texts)
    save_latents(run.latents, corpus.ids, corpus.splits, vectors_ND, corpus.texts, model.hash)
    index_latents(run, model, uri, replace=replace)
    _time(run, "embed", begun)


def index_latents(run: RunFolder, model: CLLM, uri: str | None, *, replace: bool) -> None:
    """Fill the Milvus collection from latents/; safe to repeat."""
    latents = run.load_latents(model)
    with VectorStore.open(
        uri or run.milvus, COLLECTION, model.hash, model.config.dim, replace=replace
    ) as store:
        store.upsert(latents)


def search_voids(run: RunFolder, settings: RunSettings) -> None:
    """Find voids among the training texts on the sphere of the prefix."""
    begun = time.perf_counter()
    model = run.load_model()
    latents, k = run.load_latents(model), model.config.void_dim
    train = latents.select("train")
    cloud_NK = prefix(train.vectors_ND, k)
    held_out_MK = prefix(latents.select("validation").vectors_ND, k)
    rng = np.random.default_rng([settings.seed, 1])
    how = VoidSettings.quick() if settings.quick_voids else VoidSettings()
    search = find_voids(cloud_NK, how, rng, held_out_MK)
    save_voids(run.voids, search.voids, train.ids)
    probes = rng.choice(len(cloud_NK), min(2000, len(cloud_NK)), replace=False)
    facts = {
        "count": len(search.enclosed),
        "not_enclosed": len(search.voids) - len(search.enclosed),
        "radius_ratio": search.radius_ratio,
        "p_value": search.p_value,
        "hopkins": hopkins(cloud_NK, rng),
        "uniformity": uniformity(cloud_NK[probes]),
        "intrinsic_dim": intrinsic_dimension(cloud_NK),
    }
    run.note("voids", {k: v for k, v in facts.items() if v is not None})
    _time(run, "voids", begun)


def make_judge(run: RunFolder, model: CLLM, corpus: Corpus) -> Judge:
    """The corpus's checker where it has one, else the band of the reference LM's perplexity."""
    train, held_out = corpus.select("train"), corpus.select("validation")
    checker: Callable[[str], Sequence[object]] | None = None
    likelihood: Callable[[list[str]], Any] | None = None
    if corpus.info.get("richness"):
        from cllm.recipes import check

        checker = check
    else:
        reference = run.load_reference(model.base)

        def likelihood(texts: list[str]) -> Any:  # noqa: ANN401
            tokens = model.tokens(texts)
            return reference.nats(tokens) / np.array([len(row) for row in tokens.rows])

    return Judge.calibrate(
        train.ids, train.texts, held_out.texts, checker=checker, log_likelihood=likelihood
    )


def write_ideas(run: RunFolder, settings: RunSettings) -> list[Idea]:
    """Every arm's candidates, written and judged, into ideas.parquet."""
    begun = time.perf_counter()
    model, corpus = run.load_model(), run.load_corpus()
    latents, n, seed = run.load_latents(model), settings.ideas, settings.seed
    train = latents.select("train")
    voids = [void for void in load_voids(run.voids, train.ids) if void.enclosed]
    judge = make_judge(run, model, corpus)
    rng = np.random.default_rng([seed, 2])
    arms: dict[str, list[Candidate]] = {
        "void": void_candidates(model, voids, n),
        "prior": prior_candidates(train.vectors_ND, n, rng),
    }
    ideas: list[Idea] = []
    notes: dict[str, Any] = {}
    unaided = [Candidate("base", None)] * n
    lengths = [
        len(row) for row in rng.choice(np.array(model.tokens(train.texts[:2000]).rows, object), n)
    ]
    written = {arm: write_candidates(model, c, seed) if c else [] for arm, c in arms.items()}
    written["base"] = write_unaided(model.base, model.config.context, lengths, seed)
    for arm, candidates in (arms | {"base": unaided}).items():
        if not candidates:
            log.warning("no enclosed void was found: the void arm is empty")
            continue
        found = judge_ideas(
            model, judge, candidates, written[arm], train.vectors_ND, model.config.void_dim
        )
        notes[arm] = funnel(found, rng) | _withheld(found, corpus)
        ideas += found
    save_ideas(run.ideas, ideas)
    run.note("ideas", notes)
    _time(run, "generate", begun)
    return ideas


def _withheld(ideas: Sequence[Idea], corpus: Corpus) -> dict[str, int]:
    """Built-in recipes: how many texts fall into combinations that were never shown."""
    if "withheld" not in corpus.info:
        return {}
    from cllm.recipes import combination

    pairs = {tuple(pair) for pair in corpus.info["withheld"]}
    return {"withheld": sum(i.yields and combination(i.text) in pairs for i in ideas)}


def evaluate_run(run: RunFolder, settings: RunSettings, split: str = "test") -> Evaluation:
    """Measure reconstruction on held-out texts."""
    begun = time.perf_counter()
    model, corpus = run.load_model(), run.load_corpus()
    reference = run.load_reference(model.base)
    rng = np.random.default_rng([settings.seed, 3])
    latents = run.load_latents(model)
    result = evaluate(model, reference, corpus, latents, rng, split, settings.evaluated)
    if not run.shipped:
        run.note("reconstruction", result.numbers)
        write_json(run.path / "reconstructions.json", {"pairs": result.pairs[:20]})
        _time(run, "evaluate", begun)
    return result


def report_run(run: RunFolder, seed: int) -> dict[str, Any]:
    """map.png, report.html and the whole of report.json."""
    model = run.load_model()
    latents, k = run.load_latents(model), model.config.void_dim
    train = latents.select("train")
    ideas = best_first(load_ideas(run.ideas)) if run.ideas.exists() else []
    voids = (
        [v for v in load_voids(run.voids, train.ids) if v.enclosed] if run.voids.exists() else []
    )
    shown = [idea for idea in ideas if idea.arm == "void" and idea.vector_D is not None][:50]
    places_MK = prefix(np.stack([i.vector_D for i in shown]), k) if shown else None  # type: ignore[misc]
    draw_map(
        run.path / "map.png", prefix(train.vectors_ND, k), voids[:40],
        ideas_MK=places_MK, verdicts=[idea.verdict.label for idea in shown],
    )  # fmt: skip
    corpus = run.load_corpus()
    notes = {k: v for k, v in run.notes().items() if k != "reference"}
    notes |= {"seed": seed, "versions": versions()}
    pairs = run.path / "reconstructions.json"
    write_report(
        run.path,
        notes,
        ideas=idea_rows(ideas, dict(zip(corpus.ids, corpus.texts, strict=True))),
        reconstructions=[(a, b) for a, b in read_json(pairs)["pairs"]] if pairs.exists() else [],
        metrics=run.metrics(),
    )
    return run.notes()


def idea_rows(ideas: Sequence[Idea], text_of: dict[str, str]) -> list[IdeaRow]:
    """Ideas as page and scoreboard show them: void arm first, each with its nearest texts."""
    ordered = sorted(ideas, key=lambda idea: idea.arm != "void")
    return [
        IdeaRow(
            text=idea.text,
            verdict=idea.verdict.label,
            reasons=idea.verdict.reasons,
            nearest=[(text_of.get(i, i), s) for i, s in idea.verdict.nearest],
            arm=idea.arm,
            void_id=idea.void_id,
            novelty=idea.verdict.novelty,
            validity=idea.verdict.validity,
            round_trip=idea.round_trip,
            hit=idea.hit,
        )
        for idea in ordered
    ]


def versions() -> dict[str, str]:
    """What made these numbers."""
    from importlib.metadata import version

    names = ("torch", "transformers", "tokenizers", "numpy", "faiss-cpu", "pymilvus", "milvus-lite")
    return {"cllm": __version__} | {name: version(name) for name in names}


def reference_settings(settings: RunSettings) -> BaseSettings:
    """The base's settings with the reference LM's own time budget."""
    seconds = settings.reference_seconds or settings.train.loop.seconds
    loop: LoopSettings = settings.base.loop.model_copy(update={"seconds": seconds})
    return settings.base.model_copy(update={"loop": loop})


def _time(run: RunFolder, step: str, begun: float) -> None:
    notes = run.notes()
    seconds = notes.get("seconds", {}) | {step: round(time.perf_counter() - begun, 2)}
    run.note("seconds", seconds)
