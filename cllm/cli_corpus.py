"""`cllm corpus`: make the built-in corpus, clean a file of texts, or only look at one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cllm.cli_options import Json, MaxBad, Run, Seed, SubjectColumn, TextColumn
from cllm.console import emit, show_facts
from cllm.errors import InputError
from cllm.run import output_run

if TYPE_CHECKING:
    from cllm.corpus import Corpus
    from cllm.reading import Reading

corpus_app = typer.Typer(no_args_is_help=True, help="Make the built-in corpus, or check a file.")


@corpus_app.command("build")
def corpus_build(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    richness: Annotated[str, typer.Option(help="plain or rich")] = "plain",
    fold: Annotated[int, typer.Option(help="which fifth of the recipes is withheld, 0 to 2")] = 0,
    n: Annotated[int, typer.Option(min=3, help="recipes")] = 20_000,
    file: Annotated[Path | None, typer.Option("--corpus", help="use this file instead")] = None,
    text_column: TextColumn = "text",
    group_column: SubjectColumn = "subject",
    max_bad_rows: MaxBad = 100,
) -> None:
    """Make the built-in recipe corpus, or clean and split a file of texts."""
    from cllm import pipeline
    from cllm.corpus import built_in_corpus

    if file is None:
        corpus = built_in_corpus(richness, n, seed, fold)  # type: ignore[arg-type]  # checked there
    else:
        corpus = read_corpus(file, text_column, max_bad_rows, seed, group_column)
    folder = output_run(run)
    pipeline.require_same_texts(folder, corpus)
    pipeline.keep_corpus(folder, corpus)
    emit(folder.notes()["corpus"], json, lambda: show_facts(folder.notes()["corpus"]))


@corpus_app.command("check")
def corpus_check(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV, Parquet or text; .gz too")],
    json: Json = False,
    seed: Seed = 0,
    text_column: TextColumn = "text",
    group_column: SubjectColumn = "subject",
    max_bad_rows: MaxBad = 100,
) -> None:
    """Read a file as `cllm run` would, and say what is in it."""
    from dataclasses import asdict

    reading, corpus = _built(file, text_column, max_bad_rows, seed, group_column, "")
    facts = {"texts": len(corpus)} | corpus.info
    bad = [asdict(row) for row in reading.bad]
    emit(facts | {"bad": bad}, json, lambda: show_facts(facts))


def read_corpus(
    file: Path, text_column: str, max_bad_rows: int, seed: int, group_column: str = "subject"
) -> Corpus:
    """A file's texts, cleaned and split; bad rows are told on stderr."""
    corpus = _built(file, text_column, max_bad_rows, seed, group_column, "skipped: ")[1]
    if group_column != "subject" and not corpus.subjects:
        raise InputError(f"{file} has no words or numbers in column {group_column!r}; name the one "
                         "of groups with --group-column, or leave it out")  # fmt: skip
    return corpus


def _built(
    file: Path, text_column: str, max_bad_rows: int, seed: int, group_column: str, before: str
) -> tuple[Reading, Corpus]:
    """What was read and its corpus; bad rows are told whether or not the rest will do."""
    from cllm.corpus import build_corpus
    from cllm.reading import read_rows

    reading = read_rows(
        file, text_column=text_column, subject_column=group_column, max_bad_rows=max_bad_rows
    )
    try:
        return reading, build_corpus(reading, seed=seed)
    finally:
        for row in reading.bad:
            sys.stderr.write(f"{before}{row}\n")
