"""Commands that use a trained model: texts or vectors in, JSON lines out.

They take --json and --seed as every command does; JSON they write anyway, and nothing is drawn.
Without --run and with nothing trained yet they use the model that ships.
"""

# ruff: noqa: ARG001 - options that every command takes
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cllm.cli_options import Json, Run, Seed, Texts
from cllm.console import emit
from cllm.errors import InputError
from cllm.run import existing_run

if TYPE_CHECKING:
    from cllm.model import CLLM


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (encode, decode, reconstruct, interpolate, neighbours):
        app.command()(command)


def encode(texts: Texts = None, run: Run = None, json: Json = False, seed: Seed = 0) -> None:
    """Texts to vectors, a JSON line each, which says whose they are."""
    lines, model = _texts(texts), _model(run)
    made_by = model.hash
    for text, vector_D in zip(lines, model.encode(lines), strict=True):
        emit({"text": text, "vector": vector_D.tolist(), "model": made_by}, True)


def decode(
    vectors: Annotated[
        list[str] | None, typer.Argument(help='JSON: "[0.1, ...]"; or stdin')
    ] = None,
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
) -> None:
    """Vectors (or prefixes of them) to texts, a JSON line each; other models' are refused."""
    import numpy as np

    rows = [_vector(line) for line in _texts(vectors)]
    model = _model(run)
    own = model.hash
    for number, (_, made_by) in enumerate(rows, 1):
        if made_by not in (None, own):
            raise InputError(
                f"vector {number} is model {made_by}'s, and {existing_run(run).path} holds {own}; "
                "name the run that encoded it with --run"
            )
    for row, _ in rows:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            vector_1D = np.array([row], np.float32)
        (text,) = model.decode(vector_1D)
        emit({"vector": row, "text": text}, True)


def reconstruct(texts: Texts = None, run: Run = None, json: Json = False, seed: Seed = 0) -> None:
    """Texts through their vectors and back, a JSON line each."""
    lines = _texts(texts)
    for text, again in zip(lines, _model(run).reconstruct(lines), strict=True):
        emit({"text": text, "reconstruction": again, "exact": text == again}, True)


def interpolate(
    first: str,
    last: str,
    steps: Annotated[int, typer.Option(min=2, help="texts, both ends included")] = 5,
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
) -> None:
    """Texts along the great circle between two texts, a JSON line each."""
    for i, text in enumerate(_model(run).interpolate(first, last, steps)):
        emit({"at": i / (steps - 1), "text": text}, True)


def neighbours(
    texts: Texts = None,
    run: Run = None,
    k: Annotated[int, typer.Option("--k", min=1, help="neighbours a text")] = 5,
    json: Json = False,
    seed: Seed = 0,
) -> None:
    """The nearest texts of the corpus in the latent space (exact), a JSON line each."""
    from cllm.retrieval import latent_nearest

    lines, folder = _texts(texts), existing_run(run)
    model = folder.load_model()
    latents = folder.load_latents(model)
    similar_QK, rows_QK = latent_nearest(model.encode(lines), latents.vectors_ND, k)
    for text, similar_K, rows_K in zip(lines, similar_QK, rows_QK, strict=True):
        near = [
            {"id": latents.ids[r], "cosine": float(s), "text": latents.texts[r]}
            for r, s in zip(rows_K, similar_K, strict=True)
        ]
        emit({"text": text, "neighbours": near}, True)


def _model(path: Path | None) -> CLLM:
    return existing_run(path).load_model()


def _texts(given: list[str] | None) -> list[str]:
    lines = given or [line.rstrip("\n") for line in sys.stdin]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError(
            "no text or vector was given; pass some as arguments, or on standard input"
        )
    try:
        "".join(lines).encode()
    except UnicodeEncodeError as error:  # Python reads broken bytes as lone surrogates
        broken = next(line for line in lines if error.object[error.start] in line)
        raise InputError(
            f"not UTF-8: {broken[:60]!r}; convert the text, for example with iconv"
        ) from error
    return lines


def _vector(line: str) -> tuple[list[float], str | None]:
    """A line's numbers, and which model they are of, where it says so."""
    import json

    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"not a JSON vector: {line[:60]!r} ({error})") from error
    row = value.get("vector") if isinstance(value, dict) else value
    numbers = isinstance(row, list) and all(type(x) in (int, float) for x in row)
    if not row or not numbers:
        raise InputError(
            f"not a vector of numbers: {line[:60]!r}; give [0.1, ...] or a line of `cllm encode`"
        )
    try:
        return [float(x) for x in row], value.get("model") if isinstance(value, dict) else None
    except OverflowError as error:
        raise InputError(f"a number in {line[:60]!r} is too large for a vector") from error
