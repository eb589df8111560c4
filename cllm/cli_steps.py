"""Commands for the steps of the chain, one by one; each replaces its own part of the run folder.

Heavy imports stand inside the commands, so that `cllm --help` is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cllm.cli_options import (
    AimName,
    Dim,
    Edited,
    Form,
    Group,
    Groups,
    Json,
    Levels,
    Nested,
    PresetName,
    Run,
    Seconds,
    Seed,
    Set,
    Steps,
    Uri,
    Weak,
)
from cllm.console import emit, show_facts
from cllm.run import existing_run, output_run, trained_run

if TYPE_CHECKING:
    from cllm.run import RunFolder
    from cllm.settings import RunSettings


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (pretrain, adapt, train, embed, voids, evaluate, report, review):
        app.command()(command)


def pretrain(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    preset: PresetName = "standard",
    levels: Levels = 1,
    seconds: Seconds = None,
    steps: Steps = None,
    reference_seconds: Annotated[
        float | None, typer.Option(min=1, help="for the reference LM \\[default: as the CLLM]")
    ] = None,
    changes: Set = None,
) -> None:
    """Train a small base LLM (with reference LM and critic) on the run's corpus."""
    from cllm import pipeline
    from cllm.critics import make_critic

    folder = output_run(run)
    if reference_seconds:
        changes = [*(changes or []), f"reference_seconds={reference_seconds}"]
    settings = settings_of(
        preset, None, seed, base_seconds=seconds, base_steps=steps, levels=levels, changes=changes
    )
    pipeline.make_base(folder, settings.base, passage=settings.passage, reuse=True)
    pipeline.make_reference(folder, settings)
    make_critic(folder, settings)
    emit(folder.notes()["base"], json, lambda: show_facts(folder.notes()["base"]))


def adapt(
    base: Annotated[str, typer.Argument(help="folder or hub name of an encoder-decoder")],
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    preset: PresetName = "standard",
    levels: Levels = 1,
    seconds: Seconds = None,
    steps: Steps = None,
    changes: Set = None,
) -> None:
    """Fine-tune a hub model until it restores the run's texts, then freeze it."""
    from cllm import pipeline
    from cllm.critics import make_critic

    folder = output_run(run)
    settings = settings_of(
        preset, None, seed, base_seconds=seconds, base_steps=steps, levels=levels,
        changes=changes, adapting=True,
    )  # fmt: skip
    pipeline.adapt_base(folder, base, settings.base, passage=settings.passage, reuse=True)
    pipeline.make_reference(folder, settings)
    make_critic(folder, settings)
    emit(folder.notes()["base"], json, lambda: show_facts(folder.notes()["base"]))


def train(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    preset: PresetName = "standard",
    dim: Dim = None,
    form: Form = None,
    nested: Nested = "on",
    aim: AimName = "text",
    levels: Levels = 1,
    editor: Edited = False,
    seconds: Seconds = None,
    steps: Steps = None,
    allow_weak_base: Weak = False,
    changes: Set = None,
) -> None:
    """Train the CLLM over the run's base; goes on where it was interrupted."""
    from cllm import pipeline

    folder = output_run(run)
    settings = settings_of(
        preset, dim, seed, seconds=seconds, steps=steps, form=form, nested=nested,
        aim=aim, levels=levels, editor=editor, changes=changes, with_base=False,
    )  # fmt: skip
    pipeline.train_model(folder, settings, allow_weak=allow_weak_base)
    emit(folder.notes()["model"], json, lambda: show_facts(folder.notes()["model"]))


def embed(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,  # noqa: ARG001 - nothing is drawn here; every verb takes it
    milvus: Uri = None,
    replace: Annotated[bool, typer.Option(help="replace another model's collection")] = False,
) -> None:
    """Vectors of every text: latents/ and Milvus."""
    from cllm import pipeline

    folder = trained_run(run)
    pipeline.embed_corpus(folder, milvus, replace=replace)
    emit({"latents": str(folder.latents)}, json, lambda: show_facts({"latents": folder.latents}))


def voids(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option("--quick", help="a quarter of the search")] = False,
    groups: Groups = None,
    group: Group = None,
) -> None:
    """Search the sphere of the prefix for enclosed empty places, and null clouds likewise."""
    from cllm import discovery
    from cllm.scoreboard import print_voids

    folder = trained_run(run)
    discovery.require_kind(folder, groups, group or ())
    discovery.search_voids(folder, seed, quick=quick)
    facts, found = folder.notes()["voids"], discovery.found_voids(folder, groups, group or ())
    emit(facts | {"list": found}, json, lambda: print_voids(facts, found))


def evaluate(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    split: Annotated[str, typer.Option(help="test, or validation while you choose")] = "test",
    n: Annotated[int, typer.Option("--n", min=2, help="texts at most")] = 1000,
    beams: Annotated[int, typer.Option(min=1, help="1: greedy, as in the report")] = 1,
) -> None:
    """Measure what the vector carries, on held-out texts, beside its baselines."""
    from rich.console import Console

    from cllm import discovery
    from cllm.scoreboard import print_scoreboard

    folder = existing_run(run)
    numbers = discovery.evaluate_run(folder, seed, n, split, beams).numbers
    emit(numbers, json, lambda: print_scoreboard({"reconstruction": numbers}, [], Console()))


def report(run: Run = None, json: Json = False, seed: Seed = 0) -> None:  # noqa: ARG001
    """Write report.html, map.png and report.json from what the run holds."""
    from cllm import discovery

    folder = trained_run(run)
    show(folder, discovery.report_run(folder), json)


def review(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    n: Annotated[int, typer.Option("--n", min=1, help="texts of each arm at most")] = 15,
    marks: Annotated[
        list[Path] | None, typer.Option("--marks", help="a file that the page saved; repeatable")
    ] = None,
) -> None:
    """Have people mark ideas blind: writes a page; --marks takes in what they saved from it."""
    import numpy as np

    from cllm import review as blind
    from cllm.scoreboard import print_review

    folder = trained_run(run)
    if marks:
        blind.take_marks(folder, marks)
        told = blind.reviewed(folder, np.random.default_rng(seed)) or {}
        emit(told, json, lambda: print_review(told))
        return
    sheet = blind.draw_sheet(folder, n, seed)
    page = blind.write_page(folder, sheet)
    facts = {"page": str(page), "review": sheet.id, "texts": len(sheet.ideas)}
    emit(facts, json, lambda: show_facts(facts))


def settings_of(
    name: str, dim: int | None, seed: int, *,
    changes: list[str] | None = None, with_base: bool = True,
    **own: Any,  # noqa: ANN401 - as `overridden` takes them
) -> RunSettings:  # fmt: skip
    """The preset with the command's own values in place; prints what was derived."""
    import logging

    from cllm.settings import describe, overridden

    settings = overridden(name, dim=dim, seed=seed, changes=changes or (), **own)
    logging.getLogger(__name__).info("%s: %s", name, describe(settings, base=with_base))
    return settings


def show(folder: RunFolder, notes: dict[str, Any], json: bool) -> None:
    """The outcome of a run: as JSON, or the scoreboard."""
    from rich.console import Console

    from cllm import discovery
    from cllm.ideas import load_ideas
    from cllm.ranking import best_first
    from cllm.scoreboard import print_scoreboard

    def show() -> None:
        corpus = folder.load_corpus()
        text_of = dict(zip(corpus.ids, corpus.texts, strict=True))
        there = folder.ideas.exists()
        ideas = best_first(load_ideas(folder.ideas, notes["model"]["hash"])) if there else []
        rows = discovery.idea_rows(ideas, text_of)
        print_scoreboard(notes, rows, Console(), run_dir=folder.path)

    emit(notes, json, show)
